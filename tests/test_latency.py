"""Measuring models: what a result says, what stands in its place, what is left untouched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sret_nas import latency
from sret_nas.arch import Architecture, Stage
from sret_nas.device import Fingerprint
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import building, timing

SMALL = Architecture(
    image_size=32,
    num_classes=10,
    stages=(
        Stage(heads=1, head_dim=8, blocks=1, recursions=2, groups=(4, 2)),
        Stage(heads=2, head_dim=8, blocks=1),
    ),
)
RESULT = latency.Latency(
    name="a",
    batch=8,
    dtype="fp32",
    device="cpu",
    mode="eager",
    l2="warm",
    median_ms=4.0,
    p95_ms=5.0,
    low_ms=3.9,
    high_ms=4.1,
    runs=60,
    peak_bytes=1000,
    least_bytes=500,
    fingerprint=Fingerprint("cpu", "X", 2, 1, "2.11"),
)


class Tiny(nn.Module):
    """A model of one linear layer over 3×4×4 images, that can refuse a batch."""

    def __init__(self, refuse: Callable[[int], Exception | None] = lambda _: None) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 4, 4)}
        self.linear = nn.Linear(48, 5)
        self.refuse = refuse

    def forward(self, x: Tensor) -> Tensor:
        if error := self.refuse(len(x)):
            raise error
        assert not self.training
        assert torch.is_inference_mode_enabled()
        out: Tensor = self.linear(x.flatten(1))
        return out


class Plain(nn.Module):
    """The same, without the checks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 4, 4)}
        self.linear = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run takes 2 ms; models run once a turn, so that they can still raise."""

    def cpu_turn(call: Callable[[], object], threads: int) -> timing.Turn:
        def turn(runs: int) -> list[float]:
            call()
            return [0.002] * runs

        return turn

    monkeypatch.setattr(timing, "cpu_turn", cpu_turn)


def one(**options: object) -> latency.Latency:
    (found,) = latency.measure({"tiny": Tiny()}, **options).values()  # type: ignore[arg-type]
    assert isinstance(found, latency.Latency)
    return found


def test_a_result_says_what_was_measured_and_how() -> None:
    found = one(threads=1, rounds=3)
    assert (found.name, found.batch, found.dtype, found.device) == ("tiny", 1, "fp32", "cpu")
    assert (found.mode, found.l2, found.fingerprint.threads) == ("eager", "warm", 1)
    assert found.runs >= 9
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
    assert found.median_ms <= found.p95_ms


@pytest.mark.usefixtures("steady")
def test_the_json_form_has_what_the_contract_promises() -> None:
    data = json.loads(json.dumps(one(rounds=6).to_dict()))
    assert {k: data[k] for k in ("batch", "dtype", "device", "mode")} == {
        "batch": 1,
        "dtype": "fp32",
        "device": "cpu",
        "mode": "eager",
    }
    assert data["median_ms"] == data["p95_ms"] == pytest.approx(2.0)
    assert data["images_per_s"] == pytest.approx(500)
    assert data["runs"] >= 18 and data["rankable"] and data["note"] is None
    assert data["fingerprint"]["torch"] == torch.__version__


def test_throughput_is_of_images() -> None:
    assert RESULT.images_per_s == pytest.approx(2000)


def test_a_wide_spread_cannot_be_ranked_and_says_so() -> None:
    assert RESULT.rankable and RESULT.note is None
    wide = replace(RESULT, low_ms=3.5, high_ms=4.5)
    assert wide.spread == pytest.approx(0.125)
    assert not wide.rankable
    assert wide.note is not None
    assert "3.5 to 4.5 ms" in wide.note and "too wide to rank" in wide.note


@pytest.mark.usefixtures("steady")
def test_bytes_of_a_linear_layer_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, image, logits = 4 * (48 * 5 + 5), 4 * 48, 4 * 5
    found = one(batches=[3])
    assert found.least_bytes == weights + 3 * image + 3 * logits
    assert found.peak_bytes == weights + 3 * image + 3 * logits  # nothing else is allocated
    monkeypatch.setattr("sret_nas.device.dtypes.has_dtype", lambda *_: True)  # or emulated
    halved = one(batches=[3], dtype="bf16")
    assert halved.least_bytes * 2 == found.least_bytes


@pytest.mark.usefixtures("steady")
def test_peak_memory_of_an_architecture_grows_with_the_batch() -> None:
    found = latency.measure({"small": SMALL}, batches=(1, 4))
    one, four = found["small", 1], found["small", 4]
    assert isinstance(one, latency.Latency) and isinstance(four, latency.Latency)
    assert one.least_bytes < one.peak_bytes < four.peak_bytes < 4 * one.peak_bytes


@pytest.mark.usefixtures("steady")
def test_every_model_is_measured_at_every_batch_in_one_interleaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[list[object]] = []
    interleave = timing.interleave

    def spy(turns: dict[object, timing.Turn], *rest: object) -> object:
        calls.append(list(turns))
        return interleave(turns, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "interleave", spy)
    found = latency.measure({"a": Tiny(), "b": SMALL}, batches=(1, 2))
    keys = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert list(found) == keys
    assert calls == [keys]


@pytest.mark.usefixtures("steady")
def test_measuring_stops_early_when_all_is_steady_and_at_the_time_limit() -> None:
    told: list[str] = []
    found = one(rounds=50, progress=told.append)
    assert found.runs == 25 * timing.MIN_ROUNDS  # 50 ms of 2 ms runs: 25 a turn
    assert told == ["preparing tiny, batch 1", "round 6 of at most 50"]
    assert one(rounds=50, spread=-1, seconds=0).runs == 25 * timing.MIN_ROUNDS
    assert one(rounds=7, spread=-1).runs == 25 * 7


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), SretNasError, "out of memory"),
        (RuntimeError("[enforce] can't allocate memory: you tried"), SretNasError, "out of memory"),
        (MemoryError(), SretNasError, "out of memory"),
        (RuntimeError("\"addmm\" not implemented for 'Half'"), UsageError, "lacks this dtype"),
        (ValueError("\n  first line\nsecond line"), SretNasError, "eager:   first line"),
        (KeyError(), SretNasError, "eager: KeyError"),
        (UsageError("one of ours", "a hint"), UsageError, "one of ours"),
    ],
)
def test_what_cannot_be_measured_is_an_error_of_its_own_and_the_rest_goes_on(
    error: Exception, kind: type[SretNasError], words: str
) -> None:
    broken = Tiny(lambda batch: error if batch == 64 else None)
    found = latency.measure({"broken": broken, "fine": Tiny()}, batches=(1, 64))
    refused = found["broken", 64]
    assert type(refused) is kind
    assert words in str(refused)
    assert "\n" not in str(refused)
    for key in (("broken", 1), ("fine", 1), ("fine", 64)):
        assert isinstance(found[key], latency.Latency)


@pytest.mark.usefixtures("steady")
def test_a_failure_in_the_middle_spares_the_others() -> None:
    left = [None] * 8

    def later(_: int) -> Exception | None:
        return left.pop() if left else RuntimeError("worn out")

    broken = Tiny(later)
    broken.__deepcopy__ = lambda memo: broken  # type: ignore[assignment]
    found = latency.measure({"broken": broken, "fine": Tiny()}, rounds=20, spread=-1)
    assert "worn out" in str(found["broken", 1])
    assert isinstance(found["fine", 1], latency.Latency)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda:97"}, "no such device here: cuda:97"),
        ({"dtype": "int4"}, "dtype: given 'int4'"),
        ({"mode": "fast"}, "mode: given 'fast'; allowed: eager, compile, graph"),
        ({"mode": "graph"}, "mode graph needs a CUDA device"),
        ({"l2": "flushed"}, "a flushed L2 cache needs a CUDA device"),
        ({"threads": 0}, "threads: given 0"),
    ],
)
def test_settings_that_cannot_be_are_the_result_of_every_model(
    options: dict[str, object], words: str
) -> None:
    found = latency.measure({"a": Tiny(), "b": SMALL}, batches=(1, 2), **options)  # type: ignore[arg-type]
    assert len(found) == 4
    for error in found.values():
        assert isinstance(error, UsageError)
        assert words in str(error)


@pytest.mark.usefixtures("steady")
def test_nothing_of_the_caller_is_touched() -> None:
    model = Tiny().train()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    latency.measure({"model": model, "arch": SMALL}, dtype="bf16", threads=1 if threads > 1 else 2)
    assert model.training
    assert model.linear.weight.dtype is torch.float32
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_input_is_the_models_own() -> None:
    assert building.input_shape(nn.Linear(1, 1)) == (3, 224, 224)
    assert building.input_shape(Tiny()) == (3, 4, 4)
    from sret_nas.model import create_model

    assert building.input_shape(create_model(SMALL)) == (3, 32, 32)


def test_more_models_can_be_compiled_than_torch_keeps_for_one_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch compiles eight variants of one code object and then runs it eagerly."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(1)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **k: compile_(f, backend=backend, **k))
    models = {f"m{i}": Plain(i) for i in range(1, 11)}
    found = latency.measure(models, mode="compile", rounds=1)
    assert all(isinstance(result, latency.Latency) for result in found.values())
    assert len(compiled) == 10


@pytest.mark.cuda(seconds=120)
@pytest.mark.parametrize("mode", ["eager", "compile", "graph"])
@pytest.mark.parametrize("l2", ["warm", "flushed"])
def test_every_mode_on_a_gpu(mode: str, l2: latency.L2) -> None:
    found = latency.measure(
        {"t": SMALL},
        batches=(1,) if mode == "compile" else (1, 8),
        device="cuda",
        mode=mode,
        l2=l2,
        rounds=6,
        seconds=1,
    )
    for result in found.values():
        assert isinstance(result, latency.Latency), result
        assert (result.mode, result.l2) == (mode, l2)
        assert math.isfinite(result.median_ms)
        assert result.peak_bytes > result.least_bytes > 0


@pytest.mark.cuda
def test_too_large_a_batch_on_a_gpu() -> None:
    models = {"s": Architecture.load("sret_s")}
    found = latency.measure(models, batches=(1, 2**20), device="cuda", rounds=6, seconds=1)
    assert isinstance(found["s", 1], latency.Latency)
    assert "out of memory" in str(found["s", 2**20])


def test_ceilings_that_a_model_beat_are_measured_again_and_only_rise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sret_nas.latency import roofline as module

    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    busy, quiet = {"fp32": 1e9, "bf16": 9e9}, {"fp32": 5e9, "bf16": 4e9}
    runs = iter([(busy, 3.0), (quiet, 2.0)])

    def measure(_: object, here: Any) -> module.Roofline:
        rates, bandwidth = next(runs)
        return module.Roofline(fingerprint=here, macs_per_s=rates, bytes_per_s=bandwidth)

    monkeypatch.setattr(module, "measure", measure)
    assert module.roofline().macs_per_s == busy
    raised = module.roofline(again=True)
    assert raised.macs_per_s == {"fp32": 5e9, "bf16": 9e9}
    assert raised.bytes_per_s == 3.0
    assert module.roofline() == raised
