"""The rest of ``SearchSpace``: sizes, trials, callables, latencies, the bundled files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

import sret_nas
from sret_nas import Architecture, SearchSpace, zoo
from sret_nas.cost import cost
from sret_nas.errors import ConfigError, InfeasibleError, UsageError
from sret_nas.space import Timing, annotated, bundled, check, transform
from sret_nas.space import size as size_module

# -- bundled ---------------------------------------------------------------------------------


def test_the_bundled_spaces() -> None:
    assert list(bundled()) == ["deep", "smoke", "sret", "sret_tiny"]
    for name, path in bundled().items():
        space = SearchSpace.load(name)
        text = path.read_text()
        assert space.name == name and space.description
        assert f"# {name}: " in text and "For whom:" in text
        assert text.index("For whom:") < text.index("schema: 1")


def test_every_field_of_a_bundled_file_is_explained() -> None:
    for path in bundled().values():
        lines = path.read_text().splitlines()
        seen = ""
        for i, line in enumerate(lines):
            key = line.split("#")[0].strip(" -").partition(":")[0]
            explained = "#" in line or lines[i - 1].lstrip().startswith("#")
            headings = ("", "schema", "name", "description", "all_stages", "each_stage", "stages")
            if key not in headings and f" {key} " not in seen:
                assert explained, f"{path.name}:{i + 1}: {key}"
                seen += f" {key} "


def test_sret_contains_all_published_variants_up_to_about_8_gmacs() -> None:
    space = SearchSpace.load("sret")
    assert len(zoo.PUBLISHED) == 8
    for arch in zoo.PUBLISHED.values():
        assert arch in space
        assert space.decode(space.encode(arch)).id == arch.id
    assert 7e9 < space.extremes["macs"].high < 9e9


def test_sret_tiny_is_mobile() -> None:
    space = SearchSpace.load("sret_tiny")
    assert 0.8e9 < space.extremes["macs"].high < 1.3e9
    assert {arch.image_size for arch in space.sample(100, 0)} == {160, 192, 224}


def test_deep_is_100_to_1000_applications_in_13_to_15_million_parameters() -> None:
    space = SearchSpace.load("deep")
    params = space.extremes["params"]
    assert params.low >= 13_000_000 and params.high <= 15_000_000
    depth = space.cost_table(100_000, 0, ("depth",))["depth"]
    assert depth.min() >= 100 and depth.max() <= 1000
    ends = [space.decode([0] * len(space.coordinates)).depth]
    ends.append(space.decode([len(d.choices) - 1 for d in space.coordinates]).depth)
    assert ends == [100, 996]


def test_smoke_is_small_and_trains_small() -> None:
    space = SearchSpace.load("smoke")
    assert 300 <= space.distinct.value <= 3000
    for arch in space.sample(50, 0):
        proxy = arch.at(image_size=28, in_chans=1, num_classes=10)
        assert proxy.tokens == (49, 16)


# -- sizes -----------------------------------------------------------------------------------


def test_sizes_of_the_bundled_spaces_are_exact() -> None:
    for name in bundled():
        space = SearchSpace.load(name)
        assert space.distinct.exact and 0 < space.distinct.value <= space.size
    assert SearchSpace.load("smoke").size == 3 * 2 * 2 * 2 * 2 * 2 * 2 * 2 * 2 * 3


def test_a_size_that_cannot_be_counted_is_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = SearchSpace.load("smoke").distinct
    monkeypatch.setattr(size_module, "MOST_STEPS", 0)
    count = SearchSpace.load("smoke").distinct
    assert not count.exact
    assert count.low <= exact.value <= count.high == SearchSpace.load("smoke").size
    assert abs(count.value / exact.value - 1) < 0.1
    large = SearchSpace.load("sret_tiny").distinct
    assert not large.exact and large.low <= 19_440_000 <= large.high


def test_costs_of_a_hundred_thousand_are_those_of_each() -> None:
    space = SearchSpace.load("sret")
    table = space.cost_table(100_000, seed=0)
    assert set(table) == {"macs", "params", "peak_bytes"}
    assert all(column.shape == (100_000,) for column in table.values())
    some = space.decode_many(space.cost_table(100_000, 0, ("encoding",))["encoding"][:50])
    assert [cost(arch).macs for arch in some] == table["macs"][:50].tolist()


def test_neither_torch_nor_optuna_is_imported() -> None:
    code = (
        "import sys, sret_nas; s = sret_nas.SearchSpace.load('sret');"
        "s.sample(3, 0, ['1GMACs']); s.distinct;"
        "print({'torch', 'optuna', 'scipy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# -- trials ----------------------------------------------------------------------------------


def test_a_trial_has_readable_names_and_what_was_really_built() -> None:
    space = SearchSpace.load("sret")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        arch = space.suggest(trial)
        assert {"stage2.recursions", "stage1.groups.loop1", "all.head_dim"} <= set(trial.params)
        assert len(trial.params) == len(space.coordinates)
        assert Architecture.load(trial.user_attrs["architecture"]) == arch
        assert trial.user_attrs["id"] == arch.id
        assert space.decode(space.from_params(trial.params)) == arch
        assert trial.distributions == space.distributions
        study.tell(trial, 0.0)


def test_an_encoding_can_be_enqueued() -> None:
    space = SearchSpace.load("sret")
    study = optuna.create_study()
    for arch in zoo.PUBLISHED.values():
        study.enqueue_trial(space.params(space.encode(arch)))
        assert space.suggest(study.ask()).id == arch.id


def test_distributions_keep_order_where_choices_are_evenly_spaced() -> None:
    stage = {"heads": [1, 2, 4], "head_dim": [8, 16, 24], "mlp_ratio": [2.0, 2.4, 2.8],
             "nll_ratio": [0.0, 0.5, 2.0], "share": ["all", "none"]}  # fmt: skip
    found = SearchSpace.load({"stages": [stage], "residual_scale": [True, False]}).distributions
    assert found["stage1.head_dim"] == optuna.distributions.IntDistribution(8, 24, step=8)
    assert found["stage1.mlp_ratio"] == optuna.distributions.FloatDistribution(2.0, 2.8, step=0.4)
    for name in ("stage1.heads", "stage1.nll_ratio", "stage1.share", "residual_scale"):
        assert isinstance(found[name], optuna.distributions.CategoricalDistribution)


def test_parameters_that_are_no_choice_are_refused() -> None:
    space = SearchSpace.load("smoke")
    params = space.params([0] * len(space.coordinates))
    with pytest.raises(UsageError, match=r"stage2.blocks: given 9; allowed: 1, 2, 3"):
        space.from_params(params | {"stage2.blocks": 9})
    with pytest.raises(UsageError, match=r"given None"):
        space.from_params({})


# -- callables -------------------------------------------------------------------------------

SPACE = """
schema: 1
image_size: 64
callable: "{callable}"
stages:
  - {{heads: [1, 2], head_dim: 8, blocks: [1, 2, 3, 4]}}
  - {{heads: [2, 4], head_dim: 8, blocks: [1, 2, 3, 4], recursions: [1, 2]}}
"""
MODULE = """
def rising(architecture):
    one, two = architecture["stages"]
    two["blocks"] = max(one["blocks"], two["blocks"])
    return architecture

def broken(architecture):
    raise KeyError("colour")

def wrong(architecture):
    return architecture | {"image_size": 0}

def nothing(architecture):
    pass
"""


@pytest.fixture
def called(tmp_path: Path):
    (tmp_path / "mine_rising.py").write_text(MODULE)

    def load(name: str) -> SearchSpace:
        (tmp_path / "mine.yaml").write_text(SPACE.format(callable=name))
        return SearchSpace.load(tmp_path / "mine.yaml", allow_code=True)

    return load


def test_a_callable_changes_every_architecture(called, monkeypatch: pytest.MonkeyPatch) -> None:
    space = called("mine_rising:rising")
    archs = space.decode_many(space.coding.all_codes(0, space.size))
    assert all(a.stages[0].blocks <= a.stages[1].blocks for a in archs)
    ids = {a.id for a in archs}
    assert space.distinct.value == len(ids) < space.size and space.distinct.exact
    macs = [cost(a).macs for a in archs]
    extreme = space.extremes["macs"]
    assert (extreme.low, extreme.high, extreme.exact) == (min(macs), max(macs), True)
    assert space.cost_table(50, 0)["macs"].max() <= max(macs)
    median = int(np.median(macs))
    found = space.sample(1000, 0, [f"{median}MACs"])
    assert {a.id for a in found} == {a.id for a, m in zip(archs, macs, strict=True) if m <= median}
    assert all(arch in space for arch in archs)
    falling = archs[0].to_dict()
    falling["stages"][0]["blocks"] = 4
    assert Architecture.load(falling) not in space
    monkeypatch.setattr(transform, "MOST_LISTED", 20)
    large = called("mine_rising:rising")
    assert not large.extremes["macs"].exact
    with pytest.raises(InfeasibleError, match="of 20 sampled"):
        large.sample(1, 0, ["1MACs"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mine_missing:f", "callable: module 'mine_missing': no such module"),
        ("mine_rising:none", "module 'mine_rising' has no function or class 'none'"),
        ("mine_rising:MODULE", "has no function"),
        ("mine_rising:broken", "'mine_rising:broken' KeyError: 'colour'"),
        ("mine_rising:wrong", "returned what cannot be built: image_size: given 0"),
        ("mine_rising:nothing", "returned a NoneType; allowed: a mapping"),
    ],
)
def test_callables_that_fail_are_found_when_the_file_is_read(called, name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        called(name)
    assert says in str(caught.value) and caught.value.exit_code == 2


# -- latencies -------------------------------------------------------------------------------


def stopwatch(arch: Architecture, batch: int) -> Timing:
    """A millisecond per application and image, give or take a tenth."""
    return Timing(arch.depth * batch, 0.1 * arch.depth * batch, "predicted")


def test_a_latency_and_its_margin_stay_below_the_bound() -> None:
    space = SearchSpace.load("smoke")
    archs = space.sample(10**4, 0, ["5ms", "3MMACs"], stopwatch)
    assert {arch.depth for arch in archs} == {2, 3, 4}  # 5 ms and its margin are 5.5 ms
    assert all(cost(arch).macs <= 3_000_000 for arch in archs)
    assert max(a.depth for a in space.sample(10**4, 0, ["44ms@8"], stopwatch)) == 5


def test_a_latency_that_nothing_reaches() -> None:
    space = SearchSpace.load("smoke")
    with pytest.raises(
        InfeasibleError, match=r"the nearest: 2 ms, predicted with a margin of 0\.2"
    ):
        space.sample(1, 0, ["1ms"], stopwatch)
    with pytest.raises(UsageError, match="a latency needs a device"):
        space.sample(1, 0, ["1ms"])


def test_a_check_with_a_latency_says_where_it_comes_from() -> None:
    result = check(SearchSpace.load("smoke"), ["5ms", "3MMACs"], clock=stopwatch)
    spread = result.spreads[-1]
    assert (spread.metric, spread.source, spread.exact) == ("latency_ms", "predicted", False)
    assert spread.low == 2 and spread.high <= 12
    assert 0 < result.share.low < result.share.value < result.share.high < 1
    assert not any(known.feasible for known in result.published)
    assert not any("latency_ms" in known.metrics for known in result.published)  # 3M MACs decide
    timed = check(SearchSpace.load("smoke"), ["22ms"], clock=stopwatch).published
    assert all(known.feasible and known.metrics["latency_ms"] == 20 for known in timed)


def test_the_clock_measures_where_nothing_is_calibrated_and_else_predicts() -> None:
    from sret_nas import latency
    from sret_nas.device import fingerprint, resolve

    space = SearchSpace.load("smoke")
    arch = space.decode([0] * len(space.coordinates))
    tell = sret_nas.space.clock("cpu", threads=1)
    measured = tell(arch, 1)
    assert measured.source == "measured" and measured.ms > 0 and measured.margin_ms >= 0
    assert tell(arch, 1) is measured  # measured once
    archs = space.sample(30, 0)
    predictor = latency.fit(
        archs,
        [float(a.depth) for a in archs],
        fingerprint=fingerprint(resolve("cpu"), 1),
        batch=1,
        dtype="fp32",
        mode="eager",
        space="smoke",
    )
    predictor.save()
    predicted = sret_nas.space.clock("cpu", threads=1)(arch, 1)
    assert predicted.source == "predicted"
    assert predicted.ms == predictor.predict(arch).ms
    assert predicted.most_ms == predicted.ms + predictor.predict(arch).margin_ms


# -- checks ----------------------------------------------------------------------------------


def test_a_check_of_a_small_space_is_exact() -> None:
    space = SearchSpace.load("smoke")
    macs = space.costs(space.coding.all_codes(0, space.size), ("macs",))["macs"]
    result = check(space, ["1MMACs"])
    assert result.share.value == result.share.low == float((macs <= 1e6).mean())
    spread = result.spreads[0]
    assert spread.quartiles == tuple(np.quantile(macs, [0.25, 0.5, 0.75]))
    assert (spread.low, spread.high) == (macs.min(), macs.max())


def test_a_share_of_a_sample_has_an_interval() -> None:
    result = check(SearchSpace.load("sret"), ["1GMACs"], seed=1)
    assert result.share.low < result.share.value < result.share.high
    other = check(SearchSpace.load("sret"), ["1GMACs"], seed=2)
    assert other.share.low < result.share.high and result.share.low < other.share.high
    nothing = check(SearchSpace.load("sret"), ["1MMACs"])
    assert nothing.share.value == 0 and nothing.infeasible is not None


def test_an_annotated_file_is_still_a_file(tmp_path: Path) -> None:
    for name in bundled():
        text = annotated(name)
        (tmp_path / "again.yaml").write_text(text)
        assert SearchSpace.load(tmp_path / "again.yaml").file == SearchSpace.load(name).file
    assert "recursions: [1, 2, 3]" in annotated("sret") and "3 × 3 × 3 choices" in annotated("sret")
