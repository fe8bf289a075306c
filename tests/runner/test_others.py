"""Databases that are busy, and what others put into them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.runner import RunResult, architecture, load
from sret_nas.runner.listing import below
from sret_nas.study.address import Address
from sret_nas.study.retrying import left_out
from sret_nas.study.rundir import RunDir
from sret_nas.study.storage import CONNECT, open_storage
from sret_nas.study.trials import standing


def address(path: Path) -> Address:
    return Address.parse(f"sqlite:///{path}")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONNECT, "sqlite", {"timeout": 0.01})
    monkeypatch.setattr("sret_nas.study.storage.BUSY_S", 0.01)


def test_a_locked_database_is_waited_for_and_never_called_broken(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_storage(address(path))
    said: list[str] = []
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SretNasError, match="in use by another program") as caught:
            open_storage(address(path), said.append, retry_s=0.05)
    assert len(said) == 1 and "waiting for it" in said[0]
    assert caught.value.exit_code == 1
    told = f"{caught.value} {caught.value.hint}"
    assert "move" not in told and "not a study" not in told and "nothing is wrong" in told


def test_a_lock_that_ends_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_storage(address(path))
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if other.in_transaction:
                other.rollback()

        open_storage(address(path), say, retry_s=60)
    assert len(said) == 2 and "free again" in said[1]


def test_looking_makes_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a study of Optuna") as caught:
        open_storage(address(path), create=False)
    assert path.read_bytes() == before
    assert caught.value.hint and "move" not in caught.value.hint


def begun(lab: Any, **changes: Any) -> tuple[RunDir, Any, optuna.Study]:
    config = lab.config(**({"trials": 2} | changes))
    run = RunDir(lab.folder)
    config = run.begin(config)
    return run, config, run.study(create=config)


def test_trials_of_others_are_left_out_and_counted(lab: Any) -> None:
    run, config, study = begun(lab)
    study.add_trial(create_trial(values=[1.0, 2.0]))
    study.add_trial(create_trial(state=TrialState.FAIL))
    lab.worker(config, study).search()
    assert len(standing(study)) == 2
    outcome = load(run.path)
    assert outcome.foreign == left_out(outcome.study) == 2
    assert len(outcome.trials) == 2 and outcome.front
    outcome.write()


def test_what_a_trial_without_an_architecture_is_is_said(lab: Any) -> None:
    run, config, study = begun(lab)
    lab.worker(config, study).search()
    study.add_trial(create_trial(values=[1.0, 2.0]))
    study.enqueue_trial({"x": 1})
    for number, why in (
        (2, "was not made by sret-nas search"),
        (3, "has no architecture yet: it is waiting"),
        (9, "the run has no such trial"),
    ):
        with pytest.raises(UsageError, match=why):
            architecture(run.path, number)
    (row,) = below(run.path.parent)
    assert (row.finished, row.wanted) == (2, 2)


def test_enqueued_trials_are_run_and_unfit_ones_refused(
    lab: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config, study = begun(lab, budget=("1MMACs",))
    space = config.search_space()
    good = space.sample(3, seed=5, budgets=["1MMACs"])
    wanted = space.params(space.encode(good[0]))
    lab.worker(config, study).search()
    study.enqueue_trial(wanted)
    study.enqueue_trial(wanted)  # twice
    study.enqueue_trial(wanted | {next(iter(wanted)): "nonsense"})
    lab.worker(config, study).search()
    assert good[0].id in [t.user_attrs["id"] for t in standing(study)]
    assert len(standing(study)) == 3
    told = capsys.readouterr().err
    assert told.count("is not tried") == 2 and "tried before" in told and "not of the space" in told
    assert not study.get_trials(states=(TrialState.WAITING, TrialState.RUNNING))


def test_results_whose_study_is_gone_are_not_overwritten(lab: Any) -> None:
    run, config, study = begun(lab)
    lab.worker(config, study).search()
    RunResult(run, config, study).write()
    optuna.delete_study(study_name=study.study_name, storage=study._storage)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"no study|not made") as caught:
            load(run.path)
        assert caught.value.hint
        with pytest.raises(ConfigError):
            run.begin(config)
        if not optuna.get_all_study_names(f"sqlite:///{run.database}"):
            optuna.create_study(
                study_name="plain", storage=f"sqlite:///{run.database}", directions=["minimize"] * 2
            )


@pytest.mark.parametrize(
    "broken",
    [
        {"metrics": "none"},
        {"metrics": {"val_loss": "low"}},
        {"architecture": "/etc/passwd"},
        {"curve": []},
        {"curve": [1]},
        {"id": 3},
        {"seconds": {"sampling": "long"}},
        {"rejected": [1]},
    ],
)
def test_broken_records_are_one_line(lab: Any, broken: dict[str, Any]) -> None:
    run, config, study = begun(lab)
    lab.worker(config, study).search()
    (first, *_) = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    study.add_trial(
        create_trial(values=first.values, user_attrs=first.user_attrs | {"id": "other"} | broken)
    )
    with pytest.raises(ConfigError, match="broken") as caught:
        load(run.path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
