"""Who is judged to be gone: by the process, by silence, and never by a calendar."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from sret_nas.study import heartbeat as presence
from sret_nas.study.heartbeat import (
    ANONYMOUS,
    GRACE,
    Heartbeat,
    HeartbeatMonitor,
    Held,
    WorkerId,
    gone,
    me,
)

THERE = WorkerId("there/1/x", "another boot", "pid:[1]", 1, "1", "there/1/x")


class Clock:
    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def monitor(clock: Clock, beat_s: float = 10.0) -> HeartbeatMonitor:
    return HeartbeatMonitor("here/1/y", beat_s, clock=clock)


def test_silence_is_counted_in_time_that_one_looked_on(clock: Clock) -> None:
    watch = monitor(clock)
    held = {7: Held(THERE, 3)}
    for _ in range(2 * GRACE):
        assert not watch.look(held)
        clock.now += 5.0
    clock.now += 1.0
    assert watch.look(held) == {7}


def test_a_beat_is_a_sign_of_life(clock: Clock) -> None:
    watch = monitor(clock)
    for beat in range(20):
        assert not watch.look({7: Held(THERE, beat)})
        clock.now += 45.0


def test_an_absence_of_ones_own_is_nobodys_silence(clock: Clock) -> None:
    """The database was away for an hour, or this process slept: nobody could beat."""
    watch = monitor(clock)
    held = {7: Held(THERE, 3), 8: Held(THERE, 9)}
    watch.look(held)
    clock.now += 3600
    assert not watch.look(held)
    clock.now += 10
    assert not watch.look({7: Held(THERE, 4), 8: Held(THERE, 9)})
    for _ in range(GRACE):
        clock.now += 10
        lost = watch.look({7: Held(THERE, 4 + _), 8: Held(THERE, 9)})
    assert lost == {8}


def test_one_without_an_owner_is_judged_by_silence_alone_and_sooner(clock: Clock) -> None:
    """Its number may never have arrived at the one that created it."""
    watch = monitor(clock)
    held = {1: Held(None, 0), 2: Held(THERE, 0)}
    assert not watch.look(held)
    for _ in range(ANONYMOUS - 1):
        clock.now += 3600  # nobody could look
        assert not watch.look(held)
    clock.now += 10
    assert watch.look(held) == {1}


def test_ones_own_is_never_lost(clock: Clock) -> None:
    watch = monitor(clock)
    own = replace(THERE, name="here/1/y")
    for _ in range(100):
        assert not watch.look({1: Held(own, 0)})
        clock.now += 10


def test_a_process_of_this_machine_that_ended_is_gone_at_once(clock: Clock) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = me()
    other = replace(own, name="other", pid=child.pid, started=str(presence._started(child.pid)))
    assert not gone(own)
    assert not gone(other)
    assert gone(replace(other, started="1"))  # its number was given to another process
    child.communicate()
    assert gone(other)
    assert monitor(clock).look({1: Held(other, 0)}) == {1}


def test_of_another_machine_nothing_is_certain_but_on_a_file_of_this_one() -> None:
    assert not gone(THERE)
    assert gone(THERE, one_machine=True)
    neighbour = replace(me(), space="pid:[another container]", pid=2**22)
    assert not gone(neighbour, one_machine=True)


def test_without_proc_a_process_is_asked_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    def nothing(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    presence._place.cache_clear()
    try:
        own = me()
        assert own.boot
        assert not gone(own)
        assert gone(replace(own, pid=2**22 + 1))
    finally:
        presence._place.cache_clear()


def test_who_survives_the_storage_and_unknown_ones_are_nobody() -> None:
    own = me("team")
    assert WorkerId.load(own.to_dict()) == own
    assert own.team == "team"
    assert me().team.startswith(me().name.split("/")[0])
    assert str(os.getpid()) in own.name
    assert WorkerId.load(None) is None
    assert WorkerId.load({"name": "of a newer version"}) is None


def test_a_pulse_beats_on_through_failures_until_it_is_released() -> None:
    beats: list[int] = []
    enough = threading.Event()

    def beat(number: int) -> None:
        beats.append(number)
        if len(beats) >= 5:
            enough.set()
        if number % 2:
            raise ConnectionError("the database is away")

    with Heartbeat(0.001) as heartbeat:
        heartbeat.hold(beat)
        assert enough.wait(20)
        heartbeat.release()
        after = len(beats)
        assert not any(b <= a for a, b in itertools.pairwise(beats))
    assert len(beats) == after
