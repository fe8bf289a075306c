"""The account of time: kept through kills, counted once side by side, without clocks."""

from __future__ import annotations

from typing import Any

import pytest

from sret_nas.runner import RunResult
from sret_nas.study import session
from sret_nas.study.heartbeat import me
from sret_nas.study.rundir import RunDir
from sret_nas.study.session import Session, total_s

Lab = Any


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BEAT_S", -1.0)


def test_a_killed_session_keeps_its_time(lab: Lab, every_time: None) -> None:
    config = lab.config(workers=2)
    study = lab.study(config)
    first = Session(study, me(), 2, "cpu")
    first.start -= 100
    first.beat()  # and then a kill
    found = RunResult(RunDir(lab.folder), config, study)
    assert found.seconds()["total"] == pytest.approx(100, abs=5)
    assert found.seconds()["workers"] == pytest.approx(200, abs=10)
    (machine,) = found.machines()
    assert "torch" in machine


def test_side_by_side_time_counts_once_and_one_after_the_other_it_adds_up(lab: Lab) -> None:
    study = lab.study(lab.config())
    first = Session(study, me(), 1, "cpu")
    first.start -= 100
    first.save()
    beside = Session(study, me(), 1, "cpu")
    beside.start -= 50
    beside.save()
    first.start -= 50
    first.save()
    assert total_s(study.user_attrs) == pytest.approx(150, abs=5)
    later = Session(study, me(), 1, "cpu")
    later.start -= 10
    later.save()
    assert total_s(study.user_attrs) == pytest.approx(160, abs=5)
