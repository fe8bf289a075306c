"""Storages: opened or refused in one line, and waited for while they are away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.study import retrying
from sret_nas.study.address import Address
from sret_nas.study.failures import reported, transient
from sret_nas.study.retrying import RetryingStorage, hurried
from sret_nas.study.storage import open_storage


def away() -> Exception:
    """What a cut connection looks like when Optuna passes it on."""
    cut = sqlalchemy.exc.OperationalError("select", {}, ConnectionError("server closed"))
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cut
    return error


class Weak(InMemoryStorage):
    """Fails a number of times before, or after, it does what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.before = self.after = 0

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._fail(super().set_trial_state_values, *args, **kwargs))

    def set_study_user_attr(self, *args: Any, **kwargs: Any) -> None:
        self._fail(super().set_study_user_attr, *args, **kwargs)

    def _fail(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        if self.before:
            self.before -= 1
            raise away()
        found = call(*args, **kwargs)
        if self.after:
            self.after -= 1
            raise away()
        return found


class Scene:
    """A patient storage over a weak one, on a clock that only sleeping moves."""

    def __init__(self, retry_s: float = 300.0) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.inner = Weak()
        self.storage = RetryingStorage(  # type: ignore[abstract]
            self.inner, self.said.append, retry_s, self.sleep, lambda: self.now
        )
        self.study = optuna.create_study(storage=self.storage)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_a_call_is_repeated_until_it_succeeds_and_two_lines_say_so() -> None:
    scene = Scene()
    scene.inner.before = 8
    scene.study.set_user_attr("key", 1)
    assert scene.study.user_attrs == {"key": 1}
    assert [line.partition(",")[0].partition(";")[0] for line in scene.said] == [
        "the database does not answer",
        "the database answers again",
    ]


def test_one_failure_is_not_worth_a_word() -> None:
    scene = Scene()
    scene.inner.before = 1
    scene.study.set_user_attr("key", 1)
    assert scene.said == []


def test_patience_has_an_end_and_what_is_left_to_do_is_not_waited_for() -> None:
    scene = Scene(retry_s=60)
    scene.inner.before = 10**6
    with pytest.raises(optuna.exceptions.StorageInternalError):
        scene.study.set_user_attr("key", 1)
    assert 60 < scene.now < 75
    before = scene.now
    with pytest.raises(optuna.exceptions.StorageInternalError):
        scene.study.set_user_attr("key", 1)
    assert scene.now == before


def test_waits_grow_and_are_bounded() -> None:
    longest = [max(retrying.wait_s(attempt) for _ in range(50)) for attempt in range(12)]
    assert longest[0] < 0.11
    assert longest == sorted(longest[:7]) + longest[7:]
    assert max(longest) <= retrying.LONGEST_WAIT_S


def test_an_end_whose_answer_was_lost_is_still_ones_own() -> None:
    scene = Scene()
    trial = scene.study.ask()
    scene.inner.after = 1
    scene.study.tell(trial, 2.0)
    assert scene.study.trials[0].values == [2.0]


def test_an_end_that_another_gave_is_not_ones_own() -> None:
    scene = Scene()
    trial = scene.study.ask()
    scene.inner.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    scene.inner.before = 1
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        scene.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])


def test_what_does_not_pass_is_raised_at_once() -> None:
    scene = Scene()
    with pytest.raises(KeyError):
        scene.storage.get_study_user_attrs(99)
    assert scene.now == 0


def test_in_a_hurry_it_waits_for_seconds_only() -> None:
    scene = Scene()
    scene.inner.before = 10**6
    with pytest.raises(optuna.exceptions.StorageInternalError), hurried(scene.study):
        scene.study.set_user_attr("key", 1)
    assert scene.now < 20


class DriverError(Exception):
    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "passes"),
    [
        ("57P01", True),  # the server is told to stop
        ("57P03", True),  # it is starting
        ("08006", True),  # the connection broke
        ("53300", True),  # too many connections
        ("40P01", True),  # a deadlock
        ("53100", False),  # a full disk
        ("42P01", False),  # no such table
        ("22001", False),  # a value too long
    ],
)
def test_what_passes_by_itself(state: str, passes: bool) -> None:
    error = sqlalchemy.exc.OperationalError("select", {}, DriverError(state))
    assert transient(error) is passes


def test_a_locked_file_passes_and_a_full_one_does_not() -> None:
    import sqlite3

    for text, passes in (("database is locked", True), ("database or disk is full", False)):
        error = sqlalchemy.exc.OperationalError("x", {}, sqlite3.OperationalError(text))
        assert transient(error) is passes


def test_what_a_driver_says_is_one_line_without_the_password(tmp_path: Path) -> None:
    address = Address.parse("postgresql://me:sesame@nowhere.invalid/nas")
    with pytest.raises(SretNasError) as caught:
        open_storage(address)
    assert "postgresql://me:***@nowhere.invalid/nas cannot be opened" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(UsageError, match="driver is not installed") as caught:
        open_storage(Address.parse("mysql://me@nowhere.invalid/nas"))
    assert caught.value.hint == "pip install 'sret-nas[mysql]'"


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError), reported("runs/x"):
        _ = 1 / 0


def test_a_file_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    file = tmp_path / "typo.db"
    with pytest.raises(ConfigError, match=r"typo\.db does not exist"):
        open_storage(Address.parse(f"sqlite:///{file}"), create=False)
    assert not file.exists()
    with pytest.raises(ConfigError, match=r"the folder .*nowhere does not exist"):
        open_storage(Address.parse(f"sqlite:///{tmp_path}/nowhere/x.db"))


def test_a_proxy_that_was_started_anew_reads_before_it_takes_parameters(tmp_path: Path) -> None:
    """Optuna's cache, which a proxy has too, takes those of trials that it has read alone."""
    url = Address(f"sqlite:///{tmp_path / 'study.db'}")
    before, anew = open_storage(url), open_storage(url)
    study = optuna.create_study(storage=before)
    again = optuna.load_study(study_name=study.study_name, storage=anew)
    again.get_trials()
    trial = study.ask()
    kind = optuna.distributions.IntDistribution(1, 9)
    anew.set_trial_param(trial._trial_id, "x", 3.0, kind)
    assert anew.get_trial(trial._trial_id).params == {"x": 3}
    with pytest.raises(KeyError):
        anew.set_trial_param(trial._trial_id + 1, "x", 3.0, kind)
