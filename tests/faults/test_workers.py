"""Workers side by side on PostgreSQL: at once, killed, cut off, with other clocks."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

MakeFarm = Callable[..., Any]
BEAT_S = 1.5
"""Where silence is to be noticed: soon, but not on a machine that is only busy."""


def test_eight_workers_at_once_train_nothing_twice(make_farm: MakeFarm) -> None:
    farm = make_farm(trials=32)
    farm.start(8)
    outcome = farm.end()
    assert not farm.trained_again()
    owners = {trial.system_attrs["owner"]["name"] for trial in outcome.trials}
    assert len(owners) == 8


def test_killed_at_random_moments(make_farm: MakeFarm, until: Any) -> None:
    farm = make_farm(trials=40)
    chances = random.Random(3)
    farm.start(8)
    kills = 0
    while kills < 8:
        seen = farm.finished()
        until(lambda seen=seen: farm.finished() >= min(40, seen + 2))
        time.sleep(chances.uniform(0, 0.2))  # a random moment
        alive = [worker for worker in farm.workers if worker.alive]
        if alive:
            chances.choice(alive).signal(signal.SIGKILL)
            kills += 1
            farm.start()
    farm.end(killed=kills)


def test_killed_on_another_machine_is_noticed_by_its_silence(
    make_farm: MakeFarm, until: Any
) -> None:
    farm = make_farm(trials=12, epoch_s=0.1, heartbeat_s=BEAT_S)
    there, *_ = farm.start(machine="there")
    until(lambda: farm.trainings("begin"))
    there.signal(signal.SIGKILL)
    farm.start(2, machine="here")
    outcome = farm.end(killed=1)
    lost = [t for t in outcome.trials if t.user_attrs.get("interrupted") == "lost"]
    assert len(lost) == 1
    assert outcome.to_dict()["interrupted"] == 1


def test_one_that_was_only_away_counts_nothing_twice(make_farm: MakeFarm, until: Any) -> None:
    """It is stopped until the others give it up, and then goes on with what it had."""
    farm = make_farm(trials=12, epoch_s=0.1, heartbeat_s=BEAT_S)
    away, *_ = farm.start(machine="there")
    until(lambda: farm.trainings("begin"))
    away.signal(signal.SIGSTOP)
    farm.start(2, machine="here")
    until(lambda: any(t.user_attrs.get("interrupted") == "lost" for t in farm.study.trials))
    away.signal(signal.SIGCONT)
    farm.end(killed=1)
    assert away.code == 0


def test_clocks_that_differ(make_farm: MakeFarm, until: Any) -> None:
    farm = make_farm(trials=24, heartbeat_s=BEAT_S)
    farm.start(2, machine="past", ahead_s=-86_400 * 400)
    farm.start(2, machine="future", ahead_s=86_400 * 30, rate=1.5)
    slow, *_ = farm.start(1, machine="behind", ahead_s=-600, rate=0.7)
    until(lambda: farm.finished() >= 4)
    slow.signal(signal.SIGKILL)
    farm.end(killed=1)


def test_sigterm_hands_the_candidate_back(make_farm: MakeFarm, until: Any) -> None:
    farm = make_farm(trials=8, epoch_s=0.2)
    (first,) = farm.start()
    until(lambda: farm.trainings("begin"))
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    (trial,) = farm.study.trials
    assert trial.user_attrs["interrupted"] == "stopped"
    assert not farm.finished()
