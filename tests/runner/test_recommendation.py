"""The recommendation and its groups, on fronts whose true means are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, dunnett

from sret_nas.metrics import VAL_ACCURACY, VAL_LOSS, Metric
from sret_nas.runner.best import LEVEL, near_best, p_values
from sret_nas.runner.member import Confirmation, Member
from sret_nas.runner.noise import Noise, moderated, pooled
from sret_nas.runner.recommendation import LIKELY, Recommendation, recommend
from sret_nas.space import SearchSpace

(ARCH,) = SearchSpace.load("smoke").sample(1, seed=0)
FRONTS = 400
EQUAL = [0.0] * 6
LADDER = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
PLATEAU = [4.0, 2.0, 0.1, 0.1, 0.0, 0.0]
UNEVEN = [2, 3, 8, 3, 5, 2]


def member(
    number: int, mean: float, seeds: int = 3, goal: Metric = VAL_LOSS, **more: Any
) -> Member:
    """The cheaper, the lower its number."""
    metrics = {"val_loss": mean, "val_accuracy": mean, "macs": number}
    confirmed = Confirmation(seeds, {goal.name: mean}, {goal.name: 0.0}) if seeds > 1 else None
    return Member(number, str(number), metrics, ARCH, confirmed, **more)


def front(values: Sequence[Sequence[float]], goal: Metric = VAL_LOSS) -> Recommendation:
    """Recommended from what each member's seeds found, cheapest first; nobody fell behind."""
    found = [member(i, float(np.mean(one)), len(one), goal) for i, one in enumerate(values)]
    return recommend(found, goal, dict(enumerate(moderated(values))))


def alike(members: Sequence[Member], std: float, dof: int) -> dict[int, Noise]:
    """The same noise for all."""
    return {one.trial: Noise(std, dof) for one in members}


def compared(values: Sequence[Sequence[float]]) -> tuple[Any, Any, Any]:
    """Means, their errors, degrees of freedom: with one noise for all."""
    noise = pooled(values)
    assert noise is not None
    errors = [noise.std / len(one) ** 0.5 for one in values]
    means = np.array([np.mean(one) for one in values])
    return means, np.array(errors), np.full(len(values), float(noise.dof))


def measured(
    means: Sequence[float], seeds: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray[Any, Any]]:
    return [mean + rng.normal(size=count) for mean, count in zip(means, seeds, strict=True)]


def within(hits: int, probability: float) -> bool:
    """Not fewer than luck explains, once in a thousand times."""
    return hits >= binom.ppf(0.001, FRONTS, probability)


@pytest.mark.parametrize("seeds", [[3] * 5, [2, 5, 3, 1]])
def test_p_values_are_dunnetts(seeds: list[int]) -> None:
    rng = np.random.default_rng(len(seeds))
    values = measured([0.0] * len(seeds), seeds, rng)
    found = p_values(*compared(values))
    for i, own in enumerate(values):
        others = [one for j, one in enumerate(values) if j != i]
        known = dunnett(*others, control=own, alternative="less", rng=0).pvalue.min()
        best = min(range(len(values)), key=lambda j: values[j].mean())
        assert found[i] == pytest.approx(1 if i == best else known, abs=2e-3)


@pytest.mark.parametrize("seeds", [[3] * 5, UNEVEN])
def test_the_probability_is_that_of_draws_from_the_posterior(seeds: list[int]) -> None:
    rng = np.random.default_rng(0)
    count, means, noise = np.array(seeds), rng.normal(size=len(seeds)), Noise(0.8, 9)
    scale = noise.std * np.sqrt(noise.dof / rng.chisquare(noise.dof, size=(40_000, 1)))
    drawn = means + scale / np.sqrt(count) * rng.normal(size=(40_000, len(seeds)))
    close = drawn <= drawn.min(axis=1, keepdims=True) + noise.std
    found = near_best(means, noise.std / np.sqrt(count), np.full(len(seeds), 9.0), noise.std)
    assert found == pytest.approx(close.mean(axis=0), abs=0.01)


@pytest.mark.parametrize("seeds", [[3] * 6, UNEVEN])
@pytest.mark.parametrize("means", [EQUAL, LADDER, PLATEAU])
def test_the_truly_best_is_seldom_taken_for_worse(means: list[float], seeds: list[int]) -> None:
    """That is the promise; with equal means it is kept exactly, so that nothing is given away."""
    rng, kept = np.random.default_rng(7), []
    for _ in range(FRONTS):
        values = measured(means, seeds, rng)
        worse = p_values(*compared(values)) <= LEVEL
        kept.append(not worse[int(np.argmin(means))])
    assert within(sum(kept), 1 - LEVEL)
    if means == EQUAL:
        assert within(FRONTS - sum(kept), 0.6 * LEVEL)


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_recommended_is_as_good_as_is_said(count: int) -> None:
    """Over fronts of any shape, what is said is how often it is true."""
    rng, said, true = np.random.default_rng(3), [], []
    for _ in range(FRONTS):
        means = rng.normal(0, 3, size=5)
        found = front(measured(means.tolist(), [count] * 5, rng))
        assert found.probability is not None
        assert found.noise is not None
        said.append(found.probability)
        true.append(means[found.member.trial] <= min(means) + found.noise.std)
    assert within(sum(true), float(np.mean(said)))
    assert within(FRONTS - sum(true), 1 - float(np.mean(said)))


def test_of_equal_members_a_cheap_one_is_taken() -> None:
    rng = np.random.default_rng(1)
    taken = [front(measured(EQUAL, [4] * 6, rng)).member.trial for _ in range(FRONTS)]
    assert taken.count(0) > FRONTS / 2
    assert np.mean(taken) < 1.5  # the best measured would be 2.5


def test_a_clearly_worse_one_is_not_taken() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        found = front(measured([9.0, 8.0, 0.0], [3] * 3, rng))
        assert (found.member.trial, found.best.trial, found.cheaper) == (2, 2, False)
        assert found.groups[2] == 1
        assert min(found.groups[0], found.groups[1]) == 2


def test_not_significant_is_not_enough() -> None:
    """With two seeds hardly anything is significant; by twice the noise it is unlikely."""
    values = [[2.6, 4.4], [0.3, 2.1]]
    assert p_values(*compared(values))[0] > LEVEL
    assert near_best(*compared(values), 1.2)[0] < LIKELY
    found = front(values)
    assert found.member.trial == found.best.trial == 1
    assert found.groups == {0: 1, 1: 1}


def test_without_repeats_the_best_is_recommended_and_nothing_claimed() -> None:
    members = [member(i, mean, seeds=1) for i, mean in enumerate([3.0, 2.0, 1.0])]
    found = recommend(members, VAL_LOSS, {})
    assert (found.member.trial, found.probability, found.groups) == (2, None, {})
    assert found.to_dict() == {
        "trial": 2, "best": 2, "probability": None, "margin": None, "level": None,
    }  # fmt: skip


def test_who_was_not_repeated_or_fell_behind_is_not_recommended() -> None:
    members = [
        member(0, 1.0, dethroned=True),
        member(1, 1.05, seeds=1),
        member(2, 1.06),
        member(3, 1.05),
    ]
    found = recommend(members, VAL_LOSS, alike(members, 0.3, 8))
    assert (found.member.trial, found.best.trial) == (2, 3)
    assert found.groups == {1: 1, 2: 1, 3: 1}


def test_without_noise_every_difference_counts() -> None:
    members = [member(0, 2.0), member(1, 1.0), member(2, 1.0)]
    found = recommend(members, VAL_LOSS, alike(members, 0.0, 6))
    assert (found.member.trial, found.probability) == (1, 1.0)
    assert found.groups == {0: 2, 1: 1, 2: 1}


def test_a_maximised_quality() -> None:
    found = front([[0.1, 0.12], [0.5, 0.53], [0.52, 0.53]], VAL_ACCURACY)
    assert (found.member.trial, found.best.trial) == (1, 2)


FRONT = st.lists(
    st.tuples(st.floats(-5, 5), st.integers(2, 9), st.booleans()), min_size=1, max_size=7
).filter(lambda rows: any(not lost for *_, lost in rows))


@settings(max_examples=60, deadline=None)
@given(FRONT, st.floats(0.01, 4), st.integers(1, 30))
def test_groups_and_recommendation_belong_together(
    rows: list[tuple[float, int, bool]], std: float, dof: int
) -> None:
    members = [member(i, *row[:2], dethroned=row[2]) for i, row in enumerate(rows)]
    found = recommend(members, VAL_LOSS, alike(members, std, dof))
    numbers = [found.groups[one.trial] for one in members if not one.dethroned]
    assert set(found.groups) == {one.trial for one in members if not one.dethroned}
    assert numbers == sorted(numbers, reverse=True)  # neighbours by cost, the best last
    assert sorted(set(numbers)) == list(range(1, len(set(numbers)) + 1))
    assert found.groups[found.member.trial] == found.groups[found.best.trial] or found.cheaper
    assert found.member.trial <= found.best.trial
    assert found.member.reached("val_loss") >= found.best.reached("val_loss")
    assert 0 <= (found.probability or 0) <= 1
    assert not found.cheaper or (found.probability or 0) >= LIKELY


@settings(max_examples=40, deadline=None)
@given(FRONT, st.floats(0.1, 3), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_do_not_matter(
    rows: list[tuple[float, int, bool]], std: float, scale: float, shift: float
) -> None:
    def taken(by: float, more: float) -> Recommendation:
        members = [
            member(i, round(mean, 2) * by + more, seeds, dethroned=lost)
            for i, (mean, seeds, lost) in enumerate(rows)
        ]
        return recommend(members, VAL_LOSS, alike(members, std * by, 7))

    one, other = taken(1, 0), taken(scale, shift)
    assert one.probability == pytest.approx(other.probability, abs=1e-6)
    assert one.member.trial == other.member.trial


def test_noise_is_pooled_as_in_an_analysis_of_variance() -> None:
    assert pooled([]) is None
    assert pooled([[1.0], [2.0]]) is None
    values = [[1.0, 2.0, 3.0], [5.0], [2.0, 4.0]]
    assert pooled(values) == Noise(pytest.approx(np.sqrt((2 + 2) / 3)), 3)


def test_where_all_are_alike_the_noise_is_pooled() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=3).tolist() for _ in range(40)]
    assert pooled(values) in moderated(values) or len({one.dof for one in moderated(values)}) == 1
    assert moderated([[1.0, 2.0], [3.0]]) == [pooled([[1.0, 2.0], [3.0]])] * 2
    assert moderated([[1.0], [2.0]]) == []
    assert [one.std for one in moderated([[1.0, 1.0]] * 4)] == [0.0] * 4


def test_who_changes_more_with_the_seed_has_more_noise() -> None:
    rng = np.random.default_rng(0)
    spread = np.geomspace(0.1, 10, 12)
    values = [(std * rng.normal(size=4)).tolist() for std in spread] + [[0.0]]
    found = moderated(values)
    common = pooled(values)
    assert common is not None
    own = [float(np.std(one, ddof=1)) for one in values[:-1]]
    assert np.argsort([one.std for one in found[:-1]]).tolist() == np.argsort(own).tolist()
    assert found[0].std < common.std / 5  # not drawn to what the noisy ones make of it
    assert all(3 < one.dof <= common.dof for one in found[:-1])
    assert min(own) < found[-1].std < max(own)


def test_a_noisy_small_one_does_not_hide_what_the_others_show() -> None:
    rng, right = np.random.default_rng(5), []
    for _ in range(50):
        values = [
            (mean + std * rng.normal(size=3)).tolist()
            for mean, std in ((9.0, 4.0), (6.0, 0.3), (4.0, 0.3), (2.0, 0.3), (0.0, 0.3))
        ]
        right.append(front(values).groups[3] != 1)
    assert sum(right) >= 45
