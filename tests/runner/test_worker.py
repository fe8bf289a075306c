"""What a worker does with a candidate: trained, stopped, failed, interrupted, confirmed."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ArchitectureError, SretNasError, UsageError
from sret_nas.metrics import training
from sret_nas.runner import RunResult
from sret_nas.runner.comparison import Comparer
from sret_nas.runner.constraints import KEY
from sret_nas.space import Timing
from sret_nas.study.trials import ATTEMPTS, hand_back, recover, standing
from sret_nas.training import DivergedError, NotFiniteError, OutOfMemoryError

Lab = Any
FAILURES = [
    (NotFiniteError("epoch 2: the training loss is nan"), "NaN"),
    (DivergedError("epoch 2: the training loss is 99"), "diverged"),
    (OutOfMemoryError("epoch 2: out of memory"), "out of memory"),
    (ArchitectureError("4 groups do not divide 49 tokens"), "impossible"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_a_failure_has_its_reason_and_the_search_goes_on(
    error: SretNasError, reason: str, lab: Lab, table: Any
) -> None:
    tried: list[str] = []

    def failing(arch: Architecture, seed: int) -> Iterator[Any]:
        tried.append(arch.id)
        for result in table(arch, seed):
            if len(tried) in (2, 5) and result.epoch == 2:
                raise error
            yield result

    config = lab.config(trials=12)
    worker = lab.worker(config, table=failing)
    worker.evaluator._declaration = training((4,), seeds=2)
    worker.search()
    failed = [t for t in worker.study.trials if t.state == TrialState.FAIL]
    assert [t.number for t in failed] == [1, 4]
    assert [t.user_attrs["reason"] for t in failed] == [reason] * 2
    assert failed[0].user_attrs["error"] == str(error)
    assert len(failed[0].user_attrs["curve"]) == 1
    assert len(worker.study.trials) == len(set(tried)) == 12
    lab.worker(lab.config(trials=14), worker.study, failing).search()
    assert len(set(tried)) == len(tried) == 14


def test_a_bug_is_not_a_failed_candidate(lab: Lab) -> None:
    def broken(arch: Architecture, seed: int) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lab.worker(lab.config(trials=3), table=broken).search()


def test_stopped_ones_are_pruned_with_their_curve(lab: Lab) -> None:
    study = lab.search(trials=40, sampler="random")
    states = {state: [t for t in standing(study) if t.state == state] for state in TrialState}
    assert states[TrialState.PRUNED]
    assert states[TrialState.COMPLETE]
    assert len(states[TrialState.PRUNED]) + len(states[TrialState.COMPLETE]) == 40
    for trial in states[TrialState.PRUNED]:
        curve = trial.user_attrs["curve"]
        assert len(curve) in (1, 2)  # stopped at a rung
        assert trial.user_attrs["metrics"]["val_loss"] == curve[-1]["val_loss"]
    for trial in states[TrialState.COMPLETE]:
        assert [epoch["epoch"] for epoch in trial.user_attrs["curve"]] == [1, 2, 3, 4]
        metrics = trial.user_attrs["metrics"]
        assert trial.values == [metrics["val_loss"], metrics["macs"]]
        assert metrics["val_loss"] == trial.user_attrs["curve"][-1]["val_loss"]


@pytest.mark.parametrize("rungs", [[4], [1, 4], [3, 4], [1, 2, 3, 4]])
def test_candidates_are_compared_at_the_rungs_of_the_proxy_and_there_alone(
    lab: Lab, rungs: list[int]
) -> None:
    lab.proxy = lab.proxy | {"rungs": rungs}
    study = lab.search(trials=40, sampler="random")
    ended = {len(trial.user_attrs["curve"]) for trial in study.trials}
    assert ended == set(rungs)


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_a_member_of_the_front_is_trained_with_at_most_as_many_seeds_as_the_proxy_says(
    lab: Lab, table: Any, seeds: int
) -> None:
    lab.proxy = lab.proxy | {"seeds": seeds, "rungs": [4]}
    trained: Counter[str] = Counter()

    def counting(arch: Architecture, seed: int) -> Iterator[Any]:
        trained[arch.id] += 1
        for one in table(arch, seed):
            yield replace(one, val_loss=one.val_loss + 3 * (seed % 2))

    worker = lab.worker(lab.config(trials=8), table=counting)
    worker.search()
    worker.confirm_front()
    outcome = RunResult(worker.run, worker.config, worker.study)
    front = {member.id: member for member in outcome.front}
    assert max(trained.values()) == seeds
    for name, times in trained.items():
        again = front[name].confirmation if name in front else None
        assert times == (again.seeds if again else 1)


def test_what_is_the_best_of_its_rung_is_never_stopped(lab: Lab) -> None:
    for trial in (study := lab.search(trials=40, sampler="random")).trials:
        if trial.state == TrialState.PRUNED:
            epoch = len(trial.user_attrs["curve"])
            mine = trial.user_attrs["curve"][-1]["val_loss"], trial.user_attrs["metrics"]["macs"]
            before = [
                (t.user_attrs["curve"][epoch - 1]["val_loss"], t.user_attrs["metrics"]["macs"])
                for t in study.trials[: trial.number]
                if len(t.user_attrs["curve"]) >= epoch
            ]
            assert any(loss <= mine[0] and macs <= mine[1] for loss, macs in before)


@pytest.mark.parametrize(
    "objectives",
    [("val_loss",), ("val_accuracy", "params"), ("macs", "val_loss", "peak_bytes")],
)
def test_any_objectives(objectives: tuple[str, ...], lab: Lab) -> None:
    study = lab.search(trials=24, objectives=objectives)
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(standing(study)) == 24
    for trial in complete:
        assert trial.values == [trial.user_attrs["metrics"][name] for name in objectives]
    assert len(study.best_trials) >= 1


def test_a_stop_ends_after_the_epoch_and_the_candidate_is_tried_again(lab: Lab, table: Any) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 6

    whole = lab.search(trials=5)
    config = lab.config(trials=5)
    first = lab.worker(config, stop=stop)
    first.search()
    *_, last = first.study.trials
    assert last.user_attrs["interrupted"] == "stopped"
    assert 1 <= len(last.user_attrs["curve"]) < 4
    assert recover(first.study) == 0
    lab.worker(config, first.study).search()
    assert [t.user_attrs["id"] for t in standing(first.study)] == [
        t.user_attrs["id"] for t in whole.trials
    ]
    assert [t.values for t in standing(first.study)] == [t.values for t in whole.trials]


def ask_and_vanish(worker: Any) -> str:
    trial, arch, _ = worker.asking.ask()
    trial.set_user_attr("curve", [])
    return str(arch.id)


def test_kills_from_outside_never_give_an_architecture_up(lab: Lab) -> None:
    config = lab.config(trials=1)
    study = lab.study(config)
    tried = set()
    for _ in range(ATTEMPTS + 1):
        tried.add(ask_and_vanish(lab.worker(config, study)))
        recover(study)
    assert not standing(study)
    assert {t.user_attrs["interrupted"] for t in study.trials} == {"lost"}
    lab.worker(config, study).search()
    (trial,) = standing(study)
    assert trial.state == TrialState.COMPLETE
    assert tried == {trial.user_attrs["id"]}


def test_an_architecture_that_takes_its_worker_down_is_given_up(lab: Lab) -> None:
    config = lab.config(trials=3)
    study = lab.study(config)
    tried = set()
    for cause in ("SIGSEGV", "out of memory", "SIGSEGV", "SIGSEGV"):  # counted by their cause
        tried.add(ask_and_vanish(lab.worker(config, study)))
        assert not standing(study)[0].state.is_finished()
        assert hand_back(study, study.trials[-1], "crashed", cause)
    (given_up,) = standing(study)
    assert given_up.state == TrialState.FAIL
    assert given_up.user_attrs["reason"] == f"crashed {ATTEMPTS} times"
    assert given_up.user_attrs["error"] == "SIGSEGV"
    assert tried == {given_up.user_attrs["id"]}
    assert ask_and_vanish(lab.worker(config, study)) not in tried


@pytest.mark.parametrize(
    ("error", "why", "cause"),
    [
        (MemoryError(), "crashed", "MemoryError"),
        (RuntimeError("a kernel failed"), "crashed", "RuntimeError"),
        (OSError(28, "No space left on device"), "lost", None),
        (StorageInternalError(), "lost", None),
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_only_what_a_candidate_does_itself_is_held_against_it(
    lab: Lab, error: BaseException, why: str, cause: str | None
) -> None:
    def table(*_: object) -> Any:
        raise error

    config = lab.config(trials=1)
    worker = lab.worker(config, table=table)
    with pytest.raises((type(error), SretNasError)):
        worker.search()
    (trial,) = worker.study.trials
    assert trial.user_attrs["interrupted"] == why
    assert trial.user_attrs.get("cause") == cause


def test_to_stop_often_does_not_give_an_architecture_up(lab: Lab) -> None:
    config = lab.config(trials=1)
    study = lab.study(config)
    for _ in range(ATTEMPTS + 2):
        flags = iter([False, True, True])
        lab.worker(config, study, stop=flags.__next__).search()
    assert not standing(study)
    lab.worker(config, study).search()
    (trial,) = standing(study)
    assert trial.state == TrialState.COMPLETE
    assert len({t.user_attrs["id"] for t in study.trials}) == 1


def test_a_worker_that_died_asking_leaves_nothing_to_try_again(
    lab: Lab, few: dict[str, Any]
) -> None:
    """Its trial has no architecture; nor does it stand in the way of the end of a space."""
    config = lab.config(few, heartbeat_s=0.05)
    study = lab.study(config)
    study.ask()
    lab.worker(config, study).search()
    assert study.user_attrs["exhausted"]
    assert recover(study) == 0  # the worker itself has noticed
    assert study.trials[0].user_attrs["interrupted"] == "lost"
    found = [t for t in standing(study) if "id" in t.user_attrs]
    assert len(found) == len(standing(study)) == config.search_space().distinct.value


def test_confirmation_writes_mean_ingredients_and_reads_the_test_images(lab: Lab) -> None:
    config = lab.config(trials=2)
    worker = lab.worker(config)
    worker.search()
    worker.confirming.confirm((0, 7))
    found = worker.study.user_attrs["confirmed:0:7"]
    assert found["test_accuracy"] == 0.75
    assert found["val_loss"] != worker.study.trials[0].user_attrs["metrics"]["val_loss"]
    assert found["seconds"] == 2.0


def test_confirmation_that_fails_or_is_stopped(lab: Lab, table: Any) -> None:
    config = lab.config(trials=1)
    first = lab.worker(config)
    first.search()

    def failing(arch: Architecture, seed: int) -> Any:
        yield next(table(arch, seed))
        raise NotFiniteError("epoch 2: nan")

    lab.worker(config, first.study, failing).confirming.confirm((0, 1))
    assert first.study.user_attrs["confirmed:0:1"] == {"reason": "NaN"}
    lab.worker(config, first.study, stop=lambda: True).confirming.confirm((0, 2))
    assert "confirmed:0:2" not in first.study.user_attrs


def test_why_training_was_slow_is_kept_and_said_once(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = lab.worker(lab.config(trials=3))
    evaluate = worker.evaluator.evaluate
    worker.evaluator.evaluate = lambda *args, **options: replace(
        evaluate(*args, **options), why_eager="out of memory: 3.1 GiB for a graph"
    )
    worker.search()
    kept = [trial.user_attrs["eager"] for trial in worker.study.trials]
    assert kept == ["out of memory: 3.1 GiB for a graph"] * 3
    said = "note: trained without CUDA graphs, slower: out of memory: 3.1 GiB for a graph\n"
    assert capsys.readouterr().err == said
    quiet = lab.worker(lab.config(trials=3))
    quiet.search()
    assert not any("eager" in trial.user_attrs for trial in quiet.study.trials)
    assert capsys.readouterr().err == ""


def test_seconds_are_told_apart(lab: Lab) -> None:
    from sret_nas.space import Timing

    config = lab.config(trials=3, budget=("100ms@4",), objectives=("val_loss", "latency_ms"))
    worker = lab.worker(config, clock=lambda arch, batch: Timing(float(batch), 0, "measured"))
    worker.search()
    for trial in worker.study.trials:
        assert trial.user_attrs["seconds"]["sampling"] > 0
        assert trial.user_attrs["seconds"]["latency"] >= 0
        assert trial.user_attrs["metrics"]["latency_ms"] == 4
        assert trial.values[1] == 4


def comparer(take: Any) -> Comparer:
    return Comparer(take, nullcontext, lambda: False, on="a card")


def predicted(arch: Architecture, batch: int) -> Timing:
    return Timing(9.0, 1.0, "predicted")


def test_a_trial_has_one_latency_measured_before_it_is_told(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    beside: list[set[str]] = []

    def take(archs: Any, seconds: float) -> Any:
        beside.append(set(archs) - {"candidate"})
        return {
            name: SimpleNamespace(
                median_ms=cost(arch).macs / 1e6,
                low_ms=cost(arch).macs / 1e6,
                high_ms=cost(arch).macs / 1e6 + 1e-9,
                spread=0.0,
                rankable=True,
                note="spread too wide",
            )
            for name, arch in archs.items()
        }

    config = lab.config(trials=8, budget=("8ms@4",), objectives=("val_loss", "latency_ms"))
    worker = lab.worker(config, clock=lambda arch, batch: Timing(7.0, 1.0, "predicted"))
    worker.comparer = comparer(take)
    worker.search()
    done = Counter(trial.state for trial in worker.study.trials)
    assert done[TrialState.COMPLETE] and done[TrialState.PRUNED]
    for trial in worker.study.trials:
        kept = trial.user_attrs
        complete = trial.state == TrialState.COMPLETE
        assert kept["latency"]["source"] == ("measured" if complete else "predicted")
        assert kept["latency_ms"] == kept["metrics"]["latency_ms"] == kept["latency"]["ms"]
        assert kept["latency_ms"] == (kept["metrics"]["macs"] / 1e6 if complete else 7)
        most = kept["latency"]["ms"] + kept["latency"]["margin_ms"]
        assert trial.system_attrs[KEY] == [(most - 8) / 8]
        if complete:
            assert trial.values[1] == kept["latency_ms"]
    complete_ones = [t.number for t in worker.study.trials if t.state == TrialState.COMPLETE]
    assert beside[0] == set() and all(str(complete_ones[0]) in names for names in beside[1:])
    assert capsys.readouterr().err.count("latency: spread too wide") == len(complete_ones)
    for member in RunResult(worker.run, worker.config, worker.study).front:
        assert member.metrics["latency_ms"] == worker.study.trials[member.trial].values[1]


def test_a_latency_that_cannot_be_measured_stays_as_predicted(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(archs: Any, seconds: float) -> Any:
        raise UsageError("no room")

    config = lab.config(trials=1, objectives=("val_loss", "latency_ms"))
    worker = lab.worker(config, clock=predicted)
    worker.comparer = comparer(take)
    worker.search()
    (trial,) = worker.study.trials
    assert trial.values[1] == 9 and trial.user_attrs["latency"]["source"] == "predicted"
    assert "trial 0: its latency stays as it was predicted: no room" in capsys.readouterr().err


def test_a_curve_is_seen_while_it_grows(lab: Lab, table: Any) -> None:
    seen: list[int] = []
    study: optuna.Study

    def watching(arch: Architecture, seed: int) -> Any:
        for result in table(arch, seed):
            yield replace(result, seconds=1.0)
            seen.append(len(study.trials[-1].user_attrs["curve"]))

    config = lab.config(trials=1)
    study = lab.study(config)
    lab.worker(config, study, watching).search()
    assert seen == [1, 2, 3, 4]


def test_a_search_spares_the_garbage_collector_what_is_there_already(lab: Lab) -> None:
    frozen: list[int] = []
    worker = lab.worker(lab.config(trials=2), stop=lambda: frozen.append(gc.get_freeze_count()))
    before = gc.get_freeze_count()
    worker.search()
    assert min(frozen) > 10_000 and gc.get_freeze_count() == before == 0


def test_what_was_handed_back_is_not_counted_as_done_here(lab: Lab) -> None:
    from sret_nas.cli.worker import _sum

    worker = lab.worker(lab.config(trials=4))
    worker.search()
    study = worker.study
    study.sampler = optuna.samplers.RandomSampler()
    lost = study.ask()
    study._storage.set_trial_system_attr(lost._trial_id, "owner", worker.who.to_dict())
    lost.set_user_attr("interrupted", "stopped")
    study.tell(lost, state=TrialState.FAIL)
    outcome = RunResult(worker.run, worker.config, study)
    assert _sum(outcome, worker.who.team).startswith("4 candidates here; ")


def test_a_stop_is_heeded_between_two_measurements(lab: Lab) -> None:
    """Where everything is too slow, looking for a candidate takes minutes."""
    asked: list[str] = []

    def clock(arch: Architecture, batch: int) -> Timing:
        asked.append(arch.id)
        return Timing(9.0, 0.0, "measured")

    worker = lab.worker(lab.config(budget=("1ms",)), stop=lambda: len(asked) >= 3, clock=clock)
    worker.search()
    assert len(asked) == 3
    (trial,) = worker.study.trials
    assert trial.user_attrs["interrupted"] == "stopped"
    assert "exhausted" not in worker.study.user_attrs
