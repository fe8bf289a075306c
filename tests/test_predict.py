"""The calibrated predictor, on devices whose law of time is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from sret_nas import latency
from sret_nas.arch import Architecture, Stage, divisors
from sret_nas.cost import cost
from sret_nas.device import Fingerprint, fingerprint
from sret_nas.errors import ArchitectureError, ConfigError, SretNasError, UsageError
from sret_nas.latency import measurement

CPU = Fingerprint("cpu", "X", 2, 1, "2.11")
GPU = Fingerprint("cuda:0", "X", 16, 8, "2.11", driver="610.1")


def draw(rng: random.Random) -> Architecture:
    """A small architecture of any kind."""
    while True:
        size = rng.choice([96, 128, 160])
        heads, head_dim = rng.choice([1, 2]), rng.choice([16, 20, 24, 32])
        stages = []
        for i in range(2):
            tokens, recursions = (size // 8 >> i) ** 2, rng.choice([1, 2])
            stages.append(
                Stage(
                    heads=heads << i,
                    head_dim=head_dim,
                    blocks=rng.choice([1, 2, 3]),
                    recursions=recursions,
                    groups=tuple(rng.choice(divisors(tokens)[:4]) for _ in range(recursions)),
                    mlp_ratio=rng.choice([2.0, 3.0, 4.0]),
                    nll_ratio=rng.choice([0.0, 1.0]),
                )
            )
        try:
            return Architecture(image_size=size, num_classes=10, stages=tuple(stages))
        except ArchitectureError:
            continue


def some(number: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    return [draw(rng) for _ in range(number)]


def law_ms(arch: Architecture) -> float:
    """A device that does 50 GMACs/s in products, pays for calls and for elements."""
    found = latency.features(arch)
    return 0.02 + 1e3 * (
        found["linear macs/K16.N16"] / 5e10
        + found["attention pairs"] / 2e9
        + found["norm elements"] / 5e9
        + found["linear calls"] * 8e-6
        + found["stem macs"] / 3e10
    )


def kernels_ms(arch: Architecture, batch: int) -> float:
    """A GPU that pays for every kernel, for what it moves, and double for ragged channels."""
    found = latency.features(arch, batch, "cuda:0")
    calls = sum(found[f"{kind} calls"] for kind in ("norm", "linear", "attention", "permuted"))
    moved = sum(found[f"{kind} elements"] for kind in ("norm", "linear", "attention", "permuted"))
    return 0.02 + 1e3 * (
        calls * 3e-6
        + moved * 2 / 3e12
        + found["linear macs/M64.N64"] / 3e14
        + found["linear macs/K ragged"] / 3e14
        + found["linear depth"] * 4e-9
        + found["attention macs/S64.D16"] / 1e14
    )


FITTED = some(40, seed=1)
OTHERS = some(60, seed=2)
LAW = latency.fit(FITTED, [law_ms(arch) for arch in FITTED], fingerprint=CPU)


def test_features_of_one_architecture_by_hand() -> None:
    arch = Architecture(
        image_size=32,
        num_classes=10,
        stages=(
            Stage(
                heads=1,
                head_dim=20,
                recursions=2,
                groups=(1, 2),
                share="all",
                mlp_ratio=2.0,
                nll_ratio=0.0,
            ),
        ),
    )
    found = latency.features(arch, batch=3)
    rows = 3 * 16  # 4×4 tokens
    shapes = [(rows, 20, 60), (rows, 20, 20), (rows, 20, 40), (rows, 40, 20)] * 2 + [(3, 20, 10)]
    assert found["linear calls"] == 9
    assert found["linear weights read"] == sum(k * n for _, k, n in shapes)
    once = shapes[:4] + shapes[-1:]
    assert found["linear weights"] == sum(k * n for _, k, n in once)
    assert found["linear elements"] == sum(m * (k + n) for m, k, n in shapes)
    assert found["linear macs/N128"] == sum(m * k * 128 for m, k, _ in shapes)
    padded = [(rows, 32, 64), (rows, 32, 32), (rows, 32, 48), (rows, 48, 32)] * 2 + [(3, 32, 16)]
    assert found["linear macs/K16.N16"] == sum(m * k * n for m, k, n in padded)
    assert found["linear macs/rows48"] == sum(48 * k * n for _, k, n in shapes)
    assert found["norm elements"] == 4 * rows * 20 + 3 * 20
    assert found["attention slices"] == 3 * (1 + 2)
    assert found["attention pairs"] == 3 * (16 * 16 + 2 * 8 * 8)
    assert found["attention pairs/ragged"] == found["attention pairs"]
    assert latency.features(arch.at(image_size=64))["attention pairs/ragged"] == 0  # 64 and 32
    assert found["attention rows"] == 2 * rows
    assert found["attention macs/S32.D16"] == 2 * (3 * 16 * 32 * 32 + 6 * 8 * 32 * 32)
    assert found["permuted elements"] == 2 * rows * 20  # the second loop, there and back


def test_kernels_of_one_architecture_by_hand() -> None:
    arch = Architecture(
        image_size=32,
        num_classes=10,
        stages=(
            Stage(
                heads=2,
                head_dim=20,
                recursions=2,
                groups=(1, 2),
                share="all",
                mlp_ratio=2.0,
                nll_ratio=0.0,
            ),
        ),
    )
    found = latency.features(arch, 3, "cuda:1")
    assert set(found) == set(latency.kernels.NAMES)
    rows = 3 * 16  # 4×4 tokens of 40 channels
    once = [(rows, 40, 120), (rows, 40, 40), (rows, 40, 80), (rows, 80, 40)]
    shapes = once * 2 + [(3, 40, 10)]
    assert found["model"] == 1
    assert found["linear calls"] == len(shapes)
    assert found["linear weights"] == sum(k * n for _, k, n in [*once, shapes[-1]])
    assert found["linear weights read"] == sum(k * n for _, k, n in shapes)
    assert found["linear elements"] == sum(m * (k + n) for m, k, n in shapes)
    assert found["linear depth"] == sum(k for _, k, _ in shapes)
    # rows to 64; 120, 40, 80, 40 and 10 outputs to 128, 64, 128, 64 and 64
    assert found["linear macs/M64.N64"] == 64 * (
        2 * (40 * 128 + 40 * 64 + 40 * 128 + 80 * 64) + 40 * 64
    )
    assert found["linear macs/M128.N128"] == 128 * 128 * found["linear depth"]
    assert found["linear macs/K ragged"] == 0
    assert found["linear macs/N ragged"] == 3 * 40 * 10  # ten classes
    assert found["norm calls"] == 2 * 2 + 1
    assert found["norm elements"] == 4 * rows * 40 + 3 * 40
    assert found["attention calls"] == found["attention calls/ragged"] == 2  # 20 per head
    assert found["attention elements"] == found["attention elements/ragged"] == 2 * 4 * rows * 40
    assert found["attention tiles"] == 3 * 2 + 3 * 2 * 2
    assert found["attention depth"] == 64 + 64
    assert found["attention macs/S64.D16"] == 2 * (6 + 12) * 64 * 64 * 32
    assert found["permuted calls"] == 2  # there and back
    assert found["permuted elements"] == 4 * rows * 40


@pytest.mark.parametrize("batch", [1, 64])
def test_a_gpu_goes_by_its_kernels(batch: int) -> None:
    times = [kernels_ms(arch, batch) for arch in FITTED]
    found = latency.fit(FITTED, times, fingerprint=GPU, batch=batch, mode="graph", dtype="bf16")
    measured = [kernels_ms(arch, batch) for arch in OTHERS]
    assert latency.score([found.predict(a).ms for a in OTHERS], measured).within_5 > 0.95
    line = latency.macs_line(FITTED, times)
    assert latency.score([line(a) for a in OTHERS], measured).within_10 < 0.9


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint of a GPU, without one."""
    from sret_nas.latency import modes, predictor

    monkeypatch.setattr(predictor, "resolve", torch.device)
    monkeypatch.setattr(
        predictor, "fingerprint", lambda where, *_: GPU if where.type == "cuda" else CPU
    )
    monkeypatch.setattr(modes, "has_dtype", lambda *_: True)


@pytest.mark.usefixtures("gpu")
def test_a_calibration_goes_by_device_mode_dtype_and_batch() -> None:
    kept = {}
    for mode, dtype, batch in (
        ("graph", "bf16", 1),
        ("graph", "bf16", 64),
        ("graph", "fp16", 1),
        ("eager", "bf16", 1),
        ("compile", "fp32", 1),
    ):
        times = [kernels_ms(arch, batch) for arch in FITTED]
        made = latency.fit(
            FITTED, times, fingerprint=GPU, batch=batch, mode=mode, dtype=dtype, space=mode
        )
        made.save()
        kept[mode, dtype, batch] = made
    for (mode, dtype, batch), made in kept.items():
        assert latency.load_predictor("cuda:0", batch, dtype, mode) == made
        assert latency.load_predictor("cuda:1", batch, dtype, mode) == made  # another of its like
    assert latency.load_predictor("cuda:0") == kept["graph", "bf16", 1]
    assert latency.load_predictor("cuda:0", 64) == kept["graph", "bf16", 64]
    with pytest.raises(UsageError, match=r"cuda:0, batch 8, bf16, graph$"):
        latency.load_predictor("cuda:0", 8)
    with pytest.raises(ConfigError, match="features of another version"):
        of_a_cpu = dict.fromkeys(latency.operators.NAMES, 0.0)
        old = kept["graph", "bf16", 1].model_copy(update={"ms_per_unit": of_a_cpu})
        old.save()
        latency.load_predictor("cuda:0")


@pytest.mark.parametrize("arch", some(10, seed=3), ids=lambda arch: arch.id)
def test_features_agree_with_the_cost_model(arch: Architecture) -> None:
    found = latency.features(arch)
    rows = cost(arch).by_layer
    aside = ("attention.products", "down-sampling")
    linear = [row for row in rows if row.stage != "stem" and row.layer not in aside]
    assert found["stem macs"] == sum(row.macs for row in rows if row.stage == "stem")
    assert found["linear macs/K16.N16"] >= sum(row.macs for row in linear)
    products = sum(row.macs for row in rows if row.layer == "attention.products")
    assert found["attention macs/S32.D16"] >= products
    assert found["linear weights"] <= min(found["linear weights read"], cost(arch).params)


def test_equal_architectures_have_equal_predictions() -> None:
    one = Architecture(stages=(Stage(heads=2, head_dim=16, blocks=2, order="adjacent"),))
    two = Architecture(stages=(Stage(heads=2, head_dim=16, blocks=2, order="cyclic"),))
    assert one.id == two.id
    assert LAW.predict(one) == LAW.predict(two)


def test_a_law_of_operators_is_recovered() -> None:
    predicted = [LAW.predict(arch).ms for arch in OTHERS]
    found = latency.score(predicted, [law_ms(arch) for arch in OTHERS])
    assert found.within_5 == 1.0
    assert found.kendall_tau > 0.98
    line = latency.macs_line(FITTED, [law_ms(arch) for arch in FITTED])
    baseline = latency.score([line(a) for a in OTHERS], [law_ms(arch) for arch in OTHERS])
    assert baseline.median_error > 5 * found.median_error


def test_times_per_unit_are_never_negative() -> None:
    rng = np.random.default_rng(0)
    noise = latency.fit(FITTED, list(rng.uniform(1, 9, len(FITTED))), fingerprint=CPU)
    assert min(noise.ms_per_unit.values()) >= 0


def test_the_margin_covers_other_architectures_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = total = 0
    for _ in range(8):
        noisy = [law_ms(arch) * rng.lognormal(0, 0.04) for arch in FITTED]
        found = latency.fit(FITTED, noisy, fingerprint=CPU)
        assert 0.05 < found.margin < 0.25
        for arch in OTHERS:
            ms, margin_ms, _ = found.predict(arch)
            held += abs(law_ms(arch) * rng.lognormal(0, 0.04) - ms) <= margin_ms
            total += 1
    assert held / total >= 0.93


def test_every_row_is_predicted_by_a_fit_without_it() -> None:
    table = np.ones((20, 1))
    times = np.ones(20)
    times[7] = 1000.0
    predicted = latency.cross_validated(table, times)
    assert predicted[7] == pytest.approx(1.0, rel=0.01)
    assert predicted.shape == (20,)


def test_inside_the_range_there_is_no_warning() -> None:
    assert sum(LAW.predict(arch).warning is None for arch in FITTED) == len(FITTED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 512}, "calibrated up to"),
        ({"image_size": 16, "width": 0.1}, "ms, calibrated from"),
    ],
)
def test_outside_the_range_it_predicts_with_a_warning(change: dict[str, float], words: str) -> None:
    found = LAW.predict(FITTED[0].at(**change))  # type: ignore[arg-type]
    assert found.ms > 0 and found.margin_ms > 0
    assert found.warning is not None
    assert found.warning.startswith("outside the calibrated range (")
    assert words in found.warning


def test_an_operator_that_was_never_seen_is_outside_the_range() -> None:
    plain = [arch for arch in some(300, seed=4) if latency.features(arch)["permuted elements"] == 0]
    found = latency.fit(plain[:30], [law_ms(arch) for arch in plain[:30]], fingerprint=CPU)
    seen = next(arch for arch in FITTED if latency.features(arch)["permuted elements"])
    assert "permuted elements" in str(found.predict(seen).warning)


def test_too_few_architectures() -> None:
    with pytest.raises(UsageError, match=r"19 architectures are too few .* at least 20"):
        latency.fit(FITTED[:19], [1.0] * 19, fingerprint=CPU)
    with pytest.raises(UsageError, match="too few"):
        latency.calibrate(FITTED[:19])


def test_scores_by_hand() -> None:
    found = latency.score([1.0, 2.08, 3.2, 5.0], [1.0, 2.0, 3.0, 4.0])
    assert (found.architectures, found.within_5, found.within_10) == (4, 0.5, 0.75)
    assert found.median_error == pytest.approx((0.04 + 0.2 / 3) / 2)
    assert found.kendall_tau == 1.0
    assert latency.score([4, 3, 2, 1], [1, 2, 3, 4]).kendall_tau == -1.0
    json.dumps(found.to_dict())


@pytest.fixture
def kept() -> latency.Predictor:
    """A predictor of this machine, in the cache folder."""
    here = fingerprint(torch.device("cpu"), 1)
    found = latency.fit(FITTED, [law_ms(arch) for arch in FITTED], fingerprint=here, space="mine")
    found.save()
    return found


def test_a_predictor_is_kept_and_read_back(kept: latency.Predictor) -> None:
    found = latency.load_predictor(threads=1)
    assert found == kept
    assert found.predict(OTHERS[0]) == kept.predict(OTHERS[0])


@pytest.mark.parametrize("options", [{"batch": 8}, {"dtype": "bf16"}, {"mode": "compile"}])
def test_what_was_not_calibrated_says_how_to(
    kept: latency.Predictor, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="no latency predictor for cpu") as caught:
        latency.load_predictor(threads=1, **options)  # type: ignore[arg-type]
    assert str(caught.value.hint).startswith("sret-nas calibrate --device cpu")
    ((name, value),) = options.items()
    assert f"--{name} {value}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 2}, "batch 2 instead of 1"),
        ({"dtype": "fp16"}, "dtype fp16 instead of fp32"),
        ({"fingerprint": CPU}, "device X, 1 of 2 cores, torch 2.11 instead of"),
        ({"ms_per_unit": {"model": 1.0}}, "features of another version"),
    ],
)
def test_a_predictor_of_something_else_is_refused(
    kept: latency.Predictor, change: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = kept.model_copy(update=change).save(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="calibrated for something else") as caught:
        latency.load_predictor(threads=1, path=path)
    assert words in str(caught.value)
    assert str(caught.value.hint).startswith("sret-nas calibrate")


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 2}', "[1]"])
def test_a_file_that_is_no_predictor_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"p\.json") as caught:
        latency.load_predictor(path=path)
    assert str(caught.value.hint).startswith("sret-nas calibrate")


Results = dict[measurement.Key, latency.Latency | SretNasError]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], list[int]]:
    """A device that follows the law, with a drift per session and some failures."""

    def install(drift: float, failures: int) -> list[int]:
        sessions: list[int] = []

        def measure(models: Mapping[str, Architecture], **options: object) -> Results:
            sessions.append(len(models))
            ((batch,),) = [options["batches"]]  # type: ignore[misc]
            results: Results = {}
            for i, (name, arch) in enumerate(models.items()):
                ms = law_ms(arch) * drift ** (len(sessions) - 1)
                results[name, batch] = (
                    SretNasError(f"{name}: out of memory")
                    if i < failures
                    else latency.Latency(
                        name=name,
                        batch=batch,
                        dtype="fp32",
                        device="cpu",
                        mode="eager",
                        l2="warm",
                        median_ms=ms,
                        p95_ms=ms,
                        low_ms=ms * 0.98,
                        high_ms=ms * 1.02,
                        runs=100,
                        peak_bytes=1,
                        least_bytes=1,
                        fingerprint=CPU,
                    )
                )
            return results

        monkeypatch.setattr("sret_nas.latency.measurement.measure", measure)
        return sessions

    return install


def test_calibration_measures_all_in_one_session_and_the_rest_again(
    device: Callable[[float, int], list[int]],
) -> None:
    sessions = device(1.05, 0)
    found = latency.calibrate(FITTED, OTHERS, space="mine")
    assert sessions == [100, 60]
    assert found.predictor.space == "mine"
    assert found.predictor.architectures == 40
    assert found.predictor.repeatability == pytest.approx(0.02)
    assert found.skipped == ()
    assert found.held_out is not None
    assert found.held_out.predictor.within_5 == 1.0
    assert found.held_out.macs_line.within_5 < 1.0
    assert found.held_out.drift == pytest.approx(1.05)
    assert found.held_out.repeatability.median_error == pytest.approx(0.05)
    assert found.held_out.repeatability.kendall_tau == 1.0
    json.dumps(found.held_out.to_dict())


def test_calibration_without_others(device: Callable[[float, int], list[int]]) -> None:
    sessions = device(1.0, 3)
    found = latency.calibrate(FITTED)
    assert sessions == [40]
    assert found.held_out is None
    assert found.predictor.architectures == 37
    assert found.skipped == tuple(f"{i}: out of memory" for i in range(3))


def test_calibration_where_too_few_can_be_measured(
    device: Callable[[float, int], list[int]],
) -> None:
    device(1.0, 21)
    with pytest.raises(SretNasError, match="0: out of memory"):
        latency.calibrate(FITTED)


def test_calibration_on_a_device_that_is_not_here() -> None:
    with pytest.raises(UsageError, match="no such device here: cuda:97"):
        latency.calibrate(FITTED, device="cuda:97")


@pytest.mark.cuda(seconds=90)
@pytest.mark.parametrize("batch", [1, 64])
def test_graphs_on_a_gpu_are_predicted(batch: int) -> None:
    """Fewer than the 40 that `calibrate` holds out, to take seconds."""
    from sret_nas.space import SearchSpace

    archs = SearchSpace.load("sret").sample(34, seed=0)
    found = latency.calibrate(archs[:24], archs[24:], batch=batch, device="cuda", seconds=12)
    assert found.skipped == ()
    assert (found.predictor.mode, found.predictor.dtype) == ("graph", "bf16")
    held_out = found.held_out
    assert held_out is not None
    assert held_out.predictor.within_10 >= 0.8
    assert held_out.predictor.median_error < held_out.macs_line.median_error
    found.predictor.save()
    assert latency.load_predictor("cuda", batch) == found.predictor
