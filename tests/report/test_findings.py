"""What is said of the front as a whole: nothing that the draw or the proxy made by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from sret_nas.report import findings as module
from sret_nas.report.findings import Feasible, Finding, at_least, beyond_chance, findings
from sret_nas.report.page import page
from sret_nas.space import SearchSpace

CHOICES = {f"choice {i}": [0, 1, 2, 3] for i in range(8)}


def drawn(count: int, rng: np.random.Generator, **weights: Sequence[float]) -> list[dict[str, Any]]:
    """Candidates by chance; a choice may have weights."""
    return [
        {name: rng.choice(values, p=weights.get(name)) for name, values in CHOICES.items()}
        for _ in range(count)
    ]


def told(members: Any, feasible: Any, tried: Any, unseen: Sequence[str] = ()) -> list[Finding]:
    return beyond_chance(members, [feasible] * len(members), tried, unseen)


def test_at_least_is_binomial_where_all_are_alike() -> None:
    for count in range(6):
        assert at_least(count, [0.3] * 5) == pytest.approx(binom.sf(count - 1, 5, 0.3))
    assert at_least(2, [1.0, 0.5, 0.0]) == 0.5


def test_by_chance_alone_there_are_hardly_any() -> None:
    """Members that are any of those tried: at most 1 run in 20 has a finding."""
    rng, runs = np.random.default_rng(0), 200
    feasible = drawn(100, rng)
    made = 0
    for _ in range(runs):
        tried = drawn(40, rng)
        made += bool(told(tried[:7], feasible, tried))
    assert made <= binom.ppf(0.999, runs, 0.05)


def test_a_sampler_that_tries_little_else_makes_none() -> None:
    """It fell for a value by luck; the members have it because hardly anything else was tried."""
    rng, runs, made = np.random.default_rng(1), 100, 0
    feasible = drawn(100, rng)
    for _ in range(runs):
        tried = drawn(40, rng, **{"choice 3": [0.04, 0.9, 0.03, 0.03]})
        made += bool(told(tried[:8], feasible, tried))
    assert made <= binom.ppf(0.999, runs, 0.05)


def test_what_makes_them_good_is_found() -> None:
    rng = np.random.default_rng(2)
    tried = drawn(60, rng)
    members = [one for one in tried if one["choice 5"] == 2][:10]
    (found,) = told(members, drawn(100, rng), tried)
    assert (found.choice, found.value, found.members) == ("choice 5", 2, len(members))
    assert found.feasible == pytest.approx(0.25, abs=0.1)
    assert found.tried == sum(one["choice 5"] == 2 for one in tried) / 60
    assert found.chance <= module.LEVEL
    assert told(members, drawn(100, rng), tried, unseen=["choice 5"]) == []


def test_most_members_suffice_where_few_others_have_it() -> None:
    rng = np.random.default_rng(3)
    tried = drawn(80, rng, **{"choice 0": [0.1, 0.3, 0.3, 0.3]})
    rare = [one for one in tried if one["choice 0"] == 0]
    members = [*rare[:8], next(one for one in tried if one["choice 0"] == 1)]
    found = told(members, drawn(200, rng, **{"choice 0": [0.1, 0.3, 0.3, 0.3]}), tried)
    assert ("choice 0", 0, min(8, len(rare))) in [(f.choice, f.value, f.members) for f in found]


def test_what_all_have_is_no_finding() -> None:
    rng = np.random.default_rng(4)
    feasible = [one | {"choice 1": 3} for one in drawn(100, rng)]
    tried = [one | {"choice 1": 3} for one in drawn(40, rng)]
    assert told(tried[:8], feasible, tried) == []


def test_what_all_that_were_tried_have_is_no_finding() -> None:
    rng = np.random.default_rng(5)
    tried = [one | {"choice 1": 3} for one in drawn(40, rng)]
    assert told(tried[:8], drawn(100, rng), tried) == []


def test_what_belongs_to_the_cost_is_no_finding() -> None:
    """Members are dear, and everything dear has it, though few of all have."""
    rng = np.random.default_rng(6)
    dear = [one | {"choice 2": 1} for one in drawn(100, rng)]
    tried = drawn(60, rng)
    members = [one | {"choice 2": 1} for one in tried[:8]]
    assert [f for f in told(members, dear, [*members, *tried[8:]]) if f.choice == "choice 2"] == []


def test_near_are_those_of_its_cost() -> None:
    space = SearchSpace.load("smoke")
    archs = space.sample(300, seed=0)
    random = Feasible.of(space, archs, "macs")
    near = random.near(archs[0])
    assert len(near) == min(module.NEAR, len(archs))
    assert near[0] == space.params(space.encode(archs[0]))


def test_choices_that_the_proxy_overrides_are_unseen(runs: Any) -> None:
    space = SearchSpace.load(
        {
            "schema": 1, "name": "sizes", "image_size": [192, 224], "num_classes": 10,
            "stem_stride": 8, "permute": "fixed",
            "all_stages": {"head_dim": [8, 16], "nll_ratio": 0.0},
            "each_stage": {"mlp_ratio": 2.0, "recursions": [1, 2]},
            "stages": [{"heads": n, "blocks": 1, "groups": 1} for n in (1, 2)],
        }
    )  # fmt: skip
    config = runs.config(budget=())  # a proxy without a reference: all are tried at its size
    assert module._unseen(config, space) == ("image_size",)
    assert module._unseen(config.model_copy(update={"evaluator": "dss"}), space) == ()


def test_a_run_says_what_was_tested(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runs.outcome(24, confirmed=True)
    found = findings(made)
    assert found.problem is None
    assert found.members == sum(not member.dethroned for member in made.front)
    assert all(sum(n for _, n in values) == found.members for _, values in found.spread)
    text = page(made)
    assert "What the members share" in text
    assert ("members have <code>" in text) == bool(found.found)
    one = Finding("stages.0.blocks", "<2>", 5, 0.31, 0.5, 0.01)
    told = module.Findings(found.members, (one,), found.spread, ("image_size",))
    monkeypatch.setattr(sys.modules["sret_nas.report.page"], "findings", lambda _: told)
    text = page(made)
    assert f"5 of {found.members} members have <code>stages.0.blocks = &lt;2&gt;</code>" in text
    assert "31 % of random feasible designs of their cost; 50 % of those tried" in text
    assert "does not tell all values of <code>image_size</code> apart" in text


def test_a_space_whose_code_may_not_run_is_not_tested(runs: Any) -> None:
    made = runs.outcome(6)
    made.config = made.config.model_copy(
        update={"space": made.config.space | {"callable": "nowhere:change"}}
    )
    found = findings(made)
    assert found.problem
    assert "Not tested, so nothing is said" in page(made)
