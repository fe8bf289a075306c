"""The protocol of claims, over every interleaving that hypothesis finds; and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from sret_nas.study.claims import Claim, verdict
from sret_nas.study.records import CLAIMED
from sret_nas.study.trials import hand_back, standing

Lab = Any
THINGS = ("a", "b")


@dataclass
class Shelf:
    """A storage of claims: single reads and writes, nothing more."""

    thing: dict[int, str] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)

    def others(self, rank: int) -> list[Claim]:
        return [
            Claim(other, other in self.confirmed)
            for other, thing in self.thing.items()
            if other != rank and other not in self.dropped and thing == self.thing[rank]
        ]


def worker(shelf: Shelf, rank: int, thing: str) -> Iterator[None]:
    """One worker; it may be stopped for ever, or for a while, at each yield."""
    shelf.thing[rank] = thing
    yield
    while True:
        answer = verdict(rank, shelf.others(rank))
        yield  # what was read grows old
        if answer == "lost":
            shelf.dropped.add(rank)
            return
        if answer == "won":
            shelf.confirmed.add(rank)
            yield
            return


Plan = st.tuples(
    st.lists(st.sampled_from(THINGS), min_size=1, max_size=5),
    st.lists(st.integers(0, 4), max_size=60),
    st.sets(st.integers(0, 4), max_size=2),
)


@settings(max_examples=500, deadline=None)
@given(Plan)
def test_never_two_never_none_never_stuck(plan: Any) -> None:
    things, turns, mortal = plan
    shelf = Shelf()
    running = {rank: worker(shelf, rank, thing) for rank, thing in enumerate(things)}
    dead = mortal & set(running)
    fatal = set(turns[len(turns) // 2 :])

    def step(rank: int) -> None:
        try:
            next(running[rank])
        except StopIteration:
            running.pop(rank)

    for k, rank in enumerate(turns):
        if k >= len(turns) // 2 and rank in dead & fatal and rank in running:
            running.pop(rank)  # killed where it stands …
            shelf.dropped.add(rank)  # … and closed by the others
        elif rank in running:
            step(rank)
    for _ in range(10 * (len(things) + 1)):  # fairness: everyone's turn, again and again
        for rank in list(running):
            step(rank)
    assert not running  # never stuck
    for thing in THINGS:
        ranks = [rank for rank, wanted in enumerate(things) if wanted == thing]
        winners = [r for r in ranks if r in shelf.confirmed and r not in shelf.dropped]
        assert len(winners) <= 1  # never two
        if ranks and not winners:  # never none, but where the only ones died
            assert any(rank in dead for rank in ranks)


def test_lower_ranks_win_and_the_confirmed_is_not_asked_again() -> None:
    assert verdict(1, []) == "won"
    assert verdict(1, [Claim(2, confirmed=False)]) == "wait"
    assert verdict(2, [Claim(1, confirmed=False)]) == "lost"
    assert verdict(1, [Claim(2, confirmed=True)]) == "lost"
    assert verdict("b", [Claim("c", confirmed=False), Claim("a", confirmed=False)]) == "lost"


def propose(worker: Any, arch: Any) -> Any:
    """A trial of the worker's with this architecture, claimed but undecided."""
    from sret_nas.space import store

    worker.sampler.first = [arch]
    trial = worker.study.ask(fixed_distributions=worker.space.distributions)
    store(trial, arch)
    return trial


@pytest.fixture
def rivals(lab: Lab) -> Any:
    """Two workers that have proposed the same architecture."""
    config = lab.config(heartbeat_s=0.05)
    study = lab.study(config)
    (arch,) = config.search_space().sample(1, 0)
    workers = [lab.worker(config, study) for _ in range(2)]
    trials = []
    for one in workers:
        one.sampler.seen = lambda *_: set()  # neither has seen the other
        study.sampler = one.sampler
        trials.append(propose(one, arch))
    return arch, workers, trials


def test_of_two_the_higher_yields_and_its_trial_does_not_stand(rivals: Any) -> None:
    arch, (low, high), (first, second) = rivals
    assert not high.asking._wins(second, arch)
    high.own.give_back("taken")
    assert low.asking._wins(first, arch)
    assert [t.number for t in standing(low.study)] == [0]
    assert low.study.trials[1].user_attrs["interrupted"] == "taken"
    assert low.study.trials[0].system_attrs[CLAIMED]


def test_the_lower_yields_to_one_that_has_confirmed(rivals: Any) -> None:
    arch, (low, high), (first, second) = rivals
    high.study._storage.set_trial_system_attr(second._trial_id, CLAIMED, True)
    assert not low.asking._wins(first, arch)


def test_the_lower_waits_for_one_that_died_undecided_until_it_is_closed(rivals: Any) -> None:
    arch, (low, high), (first, second) = rivals
    high.heartbeat.release()  # nobody beats for it: as if it were on a machine that burnt down
    low.study._storage.set_trial_system_attr(second._trial_id, "owner", None)
    assert low.asking._wins(first, arch)
    assert low.study.trials[1].user_attrs["interrupted"] == "lost"


def test_a_trial_is_ended_once(lab: Lab) -> None:
    study = lab.study(lab.config())
    trial = study.ask()
    (frozen,) = study.trials
    assert hand_back(study, frozen, "lost")
    assert not hand_back(study, frozen, "lost")
    with pytest.raises(Exception, match="FAIL"):
        study.tell(trial, state=TrialState.PRUNED)


def test_workers_beyond_the_limit_drop_theirs(lab: Lab) -> None:
    config = lab.config(trials=1)
    study = lab.study(config)
    first, second = lab.worker(config, study), lab.worker(config, study)
    second.limits.want_more()  # it looks before the first has asked
    study.sampler = first.sampler
    assert first.asking.ask() is not None
    study.sampler = second.sampler
    second.limits.want_more = lambda: True
    assert second.asking.ask() is None
    assert study.trials[1].user_attrs["interrupted"] == "surplus"
    assert len(standing(study)) == 1


def test_those_that_ask_at_once_choose_differently_from_one_list(lab: Lab) -> None:
    """The list of the published would else be a queue before a single door."""
    config = lab.config("sret")
    study = lab.study(config)
    one = lab.worker(config, study)
    first = [arch.id for arch in one.sampler.first]
    assert len(first) > 2
    study.ask()
    study.ask()  # two that still think
    _, arch, _ = one.asking.ask()
    assert arch.id == first[2]


def test_a_trial_that_died_half_written_is_not_tried_again(lab: Lab) -> None:
    config = lab.config()
    study = lab.study(config)
    name, distribution = next(iter(config.search_space().distributions.items()))
    study.ask(fixed_distributions={name: distribution})
    hand_back(study, study.trials[0], "lost")
    one = lab.worker(config, study)
    trial, *_ = one.asking.ask()
    assert len(trial.params) == len(one.space.coordinates)
