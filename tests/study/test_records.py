"""The record of a trial: written and read by one file, which alone spells its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

import sret_nas
import sret_nas.space.space
from sret_nas.study import records
from sret_nas.study.records import Fields, record, write, write_metrics, write_system

PACKAGE = Path(sret_nas.__file__).parent
WRITTEN: Fields = {
    "metrics": {"macs": 3.0},
    "curve": [{"epoch": 1, "val_loss": 2.0, "seconds": 0.5}, {"epoch": 2, "seconds": 0.25}],
    "latency": {"ms": 1.5},
    "seconds": {"sampling": 0.1},
    "rejected": {"over budget": 2},
    "interrupted": "lost",
    "cause": "SIGSEGV",
    "reason": "out of memory",
    "error": "no room",
    "eager": "too old",
}


def fresh() -> tuple[optuna.Study, optuna.Trial]:
    study = optuna.create_study()
    return study, study.ask()


def test_what_is_written_is_read() -> None:
    study, trial = fresh()
    write(trial, **WRITTEN)
    assert record(trial).latency == WRITTEN["latency"]  # at once
    sret_nas.space.space.store(trial, sret_nas.Architecture.load("sret_t"))
    for key, value in ((records.OWNER, {"name": "me"}), (records.BEAT, 7), (records.CLAIMED, True)):
        write_system(trial.storage, trial._trial_id, key, value)
    (found,) = map(record, study.get_trials())
    for name, value in WRITTEN.items():
        assert getattr(found, name) == value, name
    assert found.training_s == 0.75
    assert found.architecture == sret_nas.Architecture.load("sret_t")
    assert found.id == found.architecture.id
    assert (found.owner, found.beat, found.claimed) == ({"name": "me"}, 7, True)


def test_what_is_missing_is_empty() -> None:
    study, _ = fresh()
    (found,) = map(record, study.get_trials())
    empty: dict[str, Any] = {"metrics": {}, "curve": [], "seconds": {}, "rejected": {}}
    empty |= dict.fromkeys(("latency", "interrupted", "reason", "eager", "owner"))
    empty |= {"cause": "", "error": "", "id": "", "beat": 0, "claimed": False, "point": -1}
    assert {name: getattr(found, name) for name in empty} == empty
    assert not (found.has_metrics or found.has_architecture or found.enqueued)


def test_what_is_enqueued_is_known() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1})
    assert record(study.get_trials()[0]).enqueued


def test_metrics_for_the_dashboard_are_attributes_of_their_own() -> None:
    study, trial = fresh()
    write_metrics(trial, {"macs": 1.0, "params": 2.0}, {"macs": 1.0})
    (found,) = study.get_trials()
    assert found.user_attrs == {"metrics": {"macs": 1.0, "params": 2.0}, "macs": 1.0}


def test_confirmations_leave_out_broken_keys() -> None:
    attributes = {records.confirmation_key(3, 1): {"a": 1}, "confirmed:x:1": {}, "other": {}}
    assert list(records.confirmations(attributes)) == [(3, 1, {"a": 1})]


SPELT = re.compile(
    r"""(user_attrs|system_attrs)(\[|\.get\()["']|set_(trial_)?(user|system)_attr\(.*["']\w+["'],"""
)
ALLOWED = {"study/records.py", "space/space.py", "samplers/domain.py"}


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "cli").glob("*.py")]), ids=str
)
def test_no_other_file_spells_a_key(path: Path) -> None:
    if path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE).as_posix() in ALLOWED:
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not SPELT.search(line) or "study.set_user_attr(" in line, line
