"""Which members of the front are still to be confirmed (by ``repeats``), and by which worker.

A confirmation is a member and a seed. To hold one is a claim (see ``claims``), kept in
the study's attributes under ``confirming:MEMBER:SEED:WORKER``: who, its sign of life, and
whether the claim has won. Names of workers order the claims.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna

from sret_nas.runner.repeats import Job, repeats_left
from sret_nas.runner.result import RunResult
from sret_nas.study.claims import Claim, verdict
from sret_nas.study.heartbeat import Heartbeat, HeartbeatMonitor, Held, WorkerId
from sret_nas.study.records import confirmation_key, record
from sret_nas.study.retrying import without_retries

PREFIX = "confirming"
PAUSE_S = 0.2


def to_confirm(outcome: RunResult) -> list[Job]:
    """Members of the front and seeds that are still to be trained, the most urgent first.

    The most, as far as is known: each that comes back may make others needless, or, where it
    is far from what was expected, needed (see ``repeats``).
    """
    complete = {trial.number: trial for trial in outcome.complete()}
    front = [complete[member.trial] for member in outcome.front]
    attributes = outcome.study.user_attrs
    return repeats_left(outcome.config, front, list(complete.values()), attributes)


def at_work(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Claims on confirmations, by key; those of workers that are gone are among them."""
    return {
        key: value
        for key, value in attributes.items()
        if key.startswith(f"{PREFIX}:") and value is not None
    }


def confirming_s(outcome: RunResult) -> float:
    """About how long it takes at most to confirm the front as it is, at the search's speed."""
    took = {trial.number: record(trial).training_s for trial in outcome.complete()}
    seconds = [took[number] for number, _ in to_confirm(outcome)]
    return max(sum(seconds) / outcome.config.workers, *seconds) if seconds else 0.0


class Confirmations:
    """What a worker knows of all who confirm.

    Args:
        study: The study.
        who: The worker.
        heartbeat: Its sign of life.
        monitor: Its eye on the others.
    """

    def __init__(
        self, study: optuna.Study, who: WorkerId, heartbeat: Heartbeat, monitor: HeartbeatMonitor
    ) -> None:
        self.study = study
        self.who = who
        self.heartbeat = heartbeat
        self.monitor = monitor

    def free(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that no living worker holds."""
        taken = {job for job, _ in self._others(self.study.user_attrs)}
        return [job for job in jobs if job not in taken]

    @contextmanager
    def claimed(self, number: int, seed: int, stop: Callable[[], bool]) -> Iterator[bool]:
        """Try to get a job; within the block it is this worker's, where that is ``True``."""
        key = f"{PREFIX}:{number}:{seed}:{self.who.name}"
        value: dict[str, Any] = {"owner": self.who.to_dict(), "beat": 0, "confirmed": False}
        self.study.set_user_attr(key, value)
        try:
            mine = self._wins((number, seed), stop)
            if mine:
                self.study.set_user_attr(key, value | {"confirmed": True})
                storage, study_id = without_retries(self.study), self.study._study_id
                self.heartbeat.hold(
                    lambda beat: storage.set_study_user_attr(
                        study_id, key, value | {"confirmed": True, "beat": beat}
                    )
                )
            yield mine
        finally:
            self.heartbeat.release()
            self.study.set_user_attr(key, None)

    def _wins(self, job: Job, stop: Callable[[], bool]) -> bool:
        while not stop():
            attributes = self.study.user_attrs  # one reading: whose claim is gone has written
            if confirmation_key(*job) in attributes:
                return False
            claims = [claim for theirs, claim in self._others(attributes) if theirs == job]
            answer = verdict(self.who.name, claims)
            if answer != "wait":
                return answer == "won"
            time.sleep(random.uniform(PAUSE_S / 2, PAUSE_S))  # noqa: S311
        return False

    def _others(self, attributes: Mapping[str, Any]) -> list[tuple[Job, Claim]]:
        """Claims of other workers that are alive."""
        found = at_work(attributes)
        lost = self.monitor.look(
            {key: Held(WorkerId.load(v["owner"]), int(v["beat"])) for key, v in found.items()}
        )
        claims = []
        for key, value in found.items():
            _, number, seed, name = key.split(":", 3)
            if key not in lost and name != self.who.name:
                claim = Claim(name, bool(value["confirmed"]))
                claims.append(((int(number), int(seed)), claim))
        return claims
