"""Whoever asks reads the trials once, and knows of those that are created meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sret_nas.study.address import Address
from sret_nas.study.retrying import LOOKING, RetryingStorage, brief_reading, snapshot
from sret_nas.study.storage import open_storage

Lab = Any


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = open_storage(Address(f"sqlite:///{tmp_path / 'study.db'}"))
    storage.leave_out = lambda _: False  # the trials here have no owner
    return optuna.create_study(storage=storage, directions=["minimize", "minimize"])


@pytest.fixture
def calls(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the storage itself is asked for."""
    found: list[str] = []
    call = RetryingStorage.call

    def noted(self: RetryingStorage, name: str, *args: Any, **kwargs: Any) -> Any:
        found.append(name)
        return call(self, name, *args, **kwargs)

    monkeypatch.setattr(RetryingStorage, "call", noted)
    return found


def test_trials_are_read_once(study: optuna.Study, calls: list[str]) -> None:
    study.ask()
    other = study.ask()
    study.tell(other, [1.0, 2.0])
    calls.clear()
    with snapshot(study):
        for _ in range(3):
            assert len(study.get_trials(deepcopy=False)) == 2
        (running,) = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        assert study.get_trials()[running.number] is not running
    assert calls.count("get_all_trials") == 1
    study.get_trials(deepcopy=False)
    assert calls.count("get_all_trials") == 2


def test_what_is_created_or_ended_is_seen(study: optuna.Study) -> None:
    with snapshot(study):
        assert not study.get_trials()
        trial = study.ask()
        assert [t.state for t in study.get_trials()] == [TrialState.RUNNING]
        study.tell(trial, [1.0, 2.0])
        assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE]


def test_others_that_began_meanwhile_are_counted(study: optuna.Study, calls: list[str]) -> None:
    """No more is known of them than their numbers, which is what a sampler needs."""
    elsewhere = optuna.load_study(study_name=study.study_name, storage=study._storage.inner)
    study.tell(elsewhere.ask(), [1.0, 2.0])
    with snapshot(study):
        study.get_trials(deepcopy=False)
        for _ in range(2):
            elsewhere.ask()
        assert study.ask().number == 3
        found = study.get_trials(deepcopy=False)
        assert [t.number for t in found] == [0, 1, 2, 3]
        assert [t.state.name for t in found] == ["COMPLETE"] + 3 * ["RUNNING"]
    assert calls.count("get_all_trials") == 1


def test_a_glance_is_as_old_as_reading_is_slow(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, took_s = [0.0], 2.0
    call = RetryingStorage.call

    def slow(self: RetryingStorage, name: str, *args: Any, **kwargs: Any) -> Any:
        now[0] += took_s if name == "get_all_trials" else 0.0
        return call(self, name, *args, **kwargs)

    monkeypatch.setattr(RetryingStorage, "call", slow)
    study._storage.clock = lambda: now[0]
    elsewhere = optuna.load_study(study_name=study.study_name, storage=study._storage.inner)
    found = []
    for pause_s in (0.0, 0.5 * took_s / LOOKING, 0.6 * took_s / LOOKING, 0.0):
        now[0] += pause_s
        elsewhere.ask()
        with brief_reading(study):
            found.append(len(study.get_trials()))
    assert found == [1, 1, 3, 3]
    assert len(study.get_trials()) == 4  # not a brief_reading


def test_a_candidate_takes_so_many_readings(
    lab: Lab, study: optuna.Study, calls: list[str]
) -> None:
    """One before it is created, one to win it, one a rung where there is time for it."""
    study._storage.clock = lambda: 0.0  # a reading takes no time
    worker = lab.worker(lab.config(sampler="random", trials=1, published=False), study)
    worker.search()
    (trial,) = study.get_trials()
    rungs = sum(
        rung <= len(trial.user_attrs["curve"])
        for rung in worker.evaluator.declaration.fidelities[:-1]
    )
    until_told = calls[: calls.index("set_trial_state_values")]
    assert rungs and until_told.count("get_all_trials") == 2 + rungs
