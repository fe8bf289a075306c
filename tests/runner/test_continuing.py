"""Stopped candidates that go on: which, once each, from their state, to the same result."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from sret_nas.arch import Architecture
from sret_nas.evaluate import Evaluation, Report
from sret_nas.evaluators.proxy import evaluation, follow
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.metrics import MACS, VAL_LOSS
from sret_nas.runner import RunResult
from sret_nas.runner.continuing import LAST, NEAR, chances, near
from sret_nas.runner.remaining import candidates_left
from sret_nas.runner.stopped import StoppedStates
from sret_nas.study.records import CONTINUES, record
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import counted, recover, standing
from sret_nas.training import EpochResult

Lab = Any
GOALS = (VAL_LOSS, MACS)
WANTED = {"trials": 40, "sampler": "random"}
quick = settings(max_examples=100, deadline=None)


class Steps(TableEvaluator):
    """The table, with a state: the number of epochs that are done."""

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        file = folder / "epochs"
        done = int(file.read_text()) if file.exists() else 0
        results = (
            replace(one, seconds=0.0) if one.epoch <= done else one
            for one in self.curve(arch, seed)
        )
        found = evaluation(follow(results, report), self.declaration)
        if found.step < self.declaration.full:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(str(found.step))
        return found


def worker(lab: Lab, study: Any = None, table: Any = None, **wanted: Any) -> Any:
    made = lab.worker(lab.config(**(WANTED | wanted)), study)
    made.evaluator = Steps(made.config.proxy.rungs, table or made.evaluator.curve)
    return made


@pytest.fixture
def searched(lab: Lab) -> Any:
    made = worker(lab)
    made.search()
    return made


def continued(study: optuna.Study) -> dict[int, Any]:
    """Trials that go on with another, by that one's number."""
    found = {record(t).continues: t for t in study.trials if t.state.is_finished()}
    return {number: t for number, t in found.items() if number is not None}


# -- which -----------------------------------------------------------------------------------


def made(
    complete: Sequence[tuple[float, float, float]], stopped: Sequence[tuple[float, float]]
) -> list[Any]:
    """Trials: loss after one epoch of two, loss at the end, and MACs; or the first and the last."""
    trials = []
    for first, last, macs in complete:
        curve = [{"epoch": 1, "val_loss": first}, {"epoch": 2, "val_loss": last}]
        metrics = {"val_loss": last, "macs": macs}
        trials.append(
            create_trial(values=[last, macs], user_attrs={"curve": curve, "metrics": metrics})
        )
    for first, macs in stopped:
        attributes = {"curve": [{"epoch": 1, "val_loss": first}], "metrics": {"macs": macs}}
        trials.append(create_trial(state=TrialState.PRUNED, user_attrs=attributes))
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


number = st.floats(0.5, 5)
some = st.lists(st.tuples(number, number, number), min_size=2, max_size=12)


@quick
@given(some, number, number, st.floats(0, 2), st.floats(0, 2))
def test_to_be_better_or_dearer_never_makes_it_less_likely(
    complete: list[tuple[float, float, float]], loss: float, macs: float, better: float, more: float
) -> None:
    """A dearer one has more rivals, so it is the cheaper one that is likelier."""
    n = len(complete)
    found = chances(
        made(complete, [(loss, macs), (loss - better, macs), (loss, macs + more)]), GOALS
    )
    assert all(0 <= chance <= 1 for chance in found.values())
    slope = chances(made(complete, [(0.0, macs), (10.0, macs)]), GOALS)
    if slope[n] >= slope[n + 1]:  # those that were better at first were so at the end
        assert found[n + 1] >= found[n]
    assert found[n + 2] <= found[n]


def test_what_is_cheaper_than_everything_is_on_the_front() -> None:
    trials = made([(2.0, 1.0, 5.0), (3.0, 2.0, 6.0)], [(9.0, 1.0)])
    assert chances(trials, GOALS) == {2: 1.0}


def test_the_chance_is_that_of_the_line() -> None:
    exact = [(1.0 + k, 0.5 + k, 1.0) for k in range(30)]
    trials = made(exact, [(0.5, 1.0), (1.6, 1.0), (40.0, 1.0)])
    found = chances(trials, GOALS)
    assert found[30] > found[31] > found[32]
    assert found[30] > 0.5 > found[31] and found[32] < LAST
    assert [t.number for t in near(trials, GOALS, found[31])] == [30, 31]


def test_nothing_goes_on_before_two_went_to_the_end() -> None:
    assert near(made([(2.0, 1.0, 5.0)], [(1.0, 1.0)]), GOALS) == []
    assert near(made([], [(1.0, 1.0)]), GOALS) == []


# -- in a search -----------------------------------------------------------------------------


def test_the_result_is_that_of_a_training_that_was_never_stopped(searched: Any, table: Any) -> None:
    found = continued(searched.study)
    assert found
    for number, trial in found.items():
        stopped = searched.study.trials[number]
        assert stopped.state == TrialState.PRUNED and trial.state == TrialState.COMPLETE
        assert record(stopped).id == record(trial).id and stopped.params == trial.params
        whole = [one.val_loss for one in table(record(trial).architecture, 0)]
        assert [step["val_loss"] for step in record(trial).curve] == whole
        steps = len(record(stopped).curve)
        assert [step["seconds"] for step in record(trial).curve] == [0.0] * steps + [0.5] * (
            4 - steps
        )


def test_a_candidate_that_goes_on_is_one_candidate(searched: Any) -> None:
    outcome = RunResult(searched.run, searched.config, searched.study)
    ids = [record(t).id for t in standing(searched.study)]
    assert len(ids) == len(set(ids)) == 40 == sum(outcome.counts().values())
    assert outcome.counts()["pruned"] == sum(
        t.state == TrialState.PRUNED for t in outcome.trials
    ) - len(continued(searched.study))
    epochs = Counter(
        {
            record(t).id: sum(step["seconds"] > 0 for step in record(t).curve)
            for t in counted(outcome.trials)
        }
    )
    assert max(epochs.values()) == 4
    assert outcome.seconds()["training"] == sum(
        step["seconds"] for t in outcome.trials for step in record(t).curve
    )
    assert outcome.saving() == pytest.approx(
        1 - sum(len(record(t).curve) for t in standing(searched.study)) / 160
    )


def test_at_the_end_none_is_left_that_the_front_is_near(searched: Any) -> None:
    found = chances(searched.study.trials, searched.config.goals)
    assert found and max(found.values()) < NEAR
    assert candidates_left(RunResult(searched.run, searched.config, searched.study)) == 0


def test_with_one_worker_the_same_again(lab: Lab, searched: Any) -> None:
    again = worker(lab)
    again.search()
    assert [(t.params, t.values, record(t).continues) for t in again.study.trials] == [
        (t.params, t.values, record(t).continues) for t in searched.study.trials
    ]


def test_where_nothing_new_is_left_a_small_chance_will_do(lab: Lab, few: dict[str, Any]) -> None:
    made = lab.worker(lab.config(few, trials=10_000, sampler="random"))
    made.search()
    assert made.study.user_attrs["exhausted"]
    found = chances(made.study.trials, made.config.goals)
    assert all(chance < LAST for chance in found.values())
    outcome = RunResult(made.run, made.config, made.study)
    assert candidates_left(outcome) == 0 and continued(made.study)


def test_killed_while_it_goes_on_it_loses_no_more_than_that(lab: Lab, table: Any) -> None:
    """The stopped one stands again, and the same command continues it from the same state."""
    whole = worker(lab)
    whole.search()

    class Killed(BaseException):
        pass

    died: set[str] = set()

    def dying(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        running = [t for t in study.trials if t.state == TrialState.RUNNING]
        goes_on = any(record(t).continues is not None for t in running)
        for one in table(arch, seed):
            yield one
            if goes_on and one.epoch == 3 and arch.id not in died:
                died.add(arch.id)
                raise Killed

    study = lab.study(whole.config)
    while True:
        try:
            worker(lab, study, dying).search()
            break
        except Killed:
            *_, lost = study.trials
            assert record(lost).interrupted == "lost"
            assert record(lost).continues in [t.number for t in standing(study)]
    assert len(died) == len(continued(whole.study)) > 0
    assert [(record(t).id, t.values, t.state) for t in standing(study)] == [
        (record(t).id, t.values, t.state) for t in standing(whole.study)
    ]


def test_several_workers_continue_each_once(lab: Lab, table: Any) -> None:
    def slow(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        for one in table(arch, seed):
            time.sleep(0.001)  # so that they overlap
            yield one

    first = worker(lab, table=slow, heartbeat_s=5.0)
    others = [optuna.Study(first.study.study_name, first.study._storage) for _ in range(3)]
    workers = [first, *(worker(lab, study, slow, heartbeat_s=5.0) for study in others)]
    threads = [threading.Thread(target=one.search) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    ids = [record(t).id for t in standing(first.study)]
    assert len(ids) == len(set(ids)) == 40
    finished = [t for t in counted(first.study.trials) if record(t).continues is not None]
    assert finished and all(t.state == TrialState.COMPLETE for t in finished)
    assert len({record(t).continues for t in finished}) == len(finished)


def test_somebody_who_asks_by_name_gets_that_and_nothing_else(lab: Lab) -> None:
    """A trial with its own parameters never becomes the continuation of another."""
    first = worker(lab, trials=39)
    first.search()
    params = worker(lab).space.sample(200, 5)
    new = next(a for a in params if a.id not in {record(t).id for t in first.study.trials})
    first.study.enqueue_trial(first.space.params(first.space.encode(new)))
    worker(lab, first.study, trials=39).search()
    (asked,) = [t for t in first.study.trials if record(t).enqueued]
    assert record(asked).id == new.id and record(asked).continues is None
    assert CONTINUES not in asked.system_attrs


# -- states ----------------------------------------------------------------------------------


def test_of_the_states_the_likeliest_stay(tmp_path: Path) -> None:
    states = StoppedStates(RunDir(tmp_path))
    for name in "abcd":
        folder = states.folder(name)
        assert folder is not None
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(bytes(100))
    likely = {"a": 0.1, "b": 0.9, "c": 0.5}
    states.keep(likely)
    assert {p.name for p in states.path.iterdir()} == set("abcd")
    states.keep(likely, most=3)
    assert {p.name for p in states.path.iterdir()} == set("abc")
    states.keep(likely, size=250)
    assert {p.name for p in states.path.iterdir()} == set("bc")
    states.forget("b")
    assert {p.name for p in states.path.iterdir()} == {"c"}
    states.clear()
    assert not states.path.exists()
    states.keep(likely)


def test_without_a_folder_of_the_run_there_are_no_states(tmp_path: Path) -> None:
    assert StoppedStates(RunDir(storage="sqlite:///x.db", study="s")).folder("a") is None
    assert StoppedStates(RunDir(tmp_path / "elsewhere")).folder("a") is None


def test_states_last_as_long_as_the_search(searched: Any) -> None:
    stopped = {record(t).id for t in standing(searched.study) if t.state == TrialState.PRUNED}
    kept = {path.name for path in (searched.run.path / "stopped").iterdir()}
    assert kept == stopped  # what went on to the end has none any more


def test_sigkill_while_a_candidate_goes_on(lab: Lab, table: Any) -> None:
    """It alone is tried again, from the state that is on the disk, and ends as if never killed."""
    whole = worker(lab)
    whole.search()
    run = RunDir(lab.folder / "killed")
    run.path.mkdir()
    config = run.begin(lab.config(**WANTED))
    study = run.study(create=config)

    def killed(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        running = [t for t in study.trials if t.state == TrialState.RUNNING]
        for one in table(arch, seed):
            yield one
            if one.epoch == 3 and any(record(t).continues is not None for t in running):
                os.kill(os.getpid(), signal.SIGKILL)

    def work(how: Any) -> None:
        made = lab.worker(config, run.study(), how)
        made.run, made.evaluator = run, Steps(config.proxy.rungs, how)
        made.trying.states = StoppedStates(run)
        made.search()

    child = os.fork()
    if not child:
        work(killed)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (lost,) = [t for t in run.study().trials if t.state == TrialState.RUNNING]
    stopped = run.study().trials[record(lost).continues]
    assert StoppedStates(run).folder(record(lost).id).is_dir()
    recover(study)
    work(table)
    tries = [t for t in study.trials if record(t).id == record(stopped).id]
    assert [t.number for t in tries[:2]] == [stopped.number, lost.number]
    assert record(tries[1]).interrupted == "lost" and record(tries[2]).continues == stopped.number
    assert sum(step["seconds"] for step in record(tries[2]).curve) < 2.0
    assert [(record(t).id, t.values, t.state) for t in standing(study)] == [
        (record(t).id, t.values, t.state) for t in standing(whole.study)
    ]
