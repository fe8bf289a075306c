"""The account of a run's time: what every call of ``search`` and ``worker`` took.

Sessions lie on one axis, the run's own: a session begins where those before it have come
to. Machines' clocks are compared nowhere; side by side, time counts once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna

from sret_nas.study.heartbeat import WorkerId

BEAT_S = 5.0
"""A session that is killed loses at most so much of its wall time from the account."""
PREFIX = "session:"


def sessions(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All sessions among a study's attributes, in order of their beginning, in seconds."""
    found = [value for key, value in attributes.items() if key.startswith(PREFIX)]
    return sorted(found, key=lambda session: float(session["from"]))


def total_s(attributes: Mapping[str, Any]) -> float:
    """Wall time of a run in seconds, over all its sessions; side by side, time counts once."""
    return max((one["from"] + one["seconds"] for one in sessions(attributes)), default=0.0)


class Session:
    """One call of ``search`` or ``worker``, kept in the study.

    Args:
        study: The study.
        who: This process.
        workers: How many it starts.
        device: Where they train.

    Attributes:
        spent_s: What the run had taken before, in seconds.
    """

    def __init__(self, study: optuna.Study, who: WorkerId, workers: int, device: str) -> None:
        from sret_nas.device import fingerprint, resolve

        self.study = study
        self.key = PREFIX + who.name
        self.workers = workers
        machine = fingerprint(resolve(device), threads=1)
        self.machine = str(replace(machine, clock_mhz=None))
        self.spent_s = total_s(study.user_attrs)
        self.start = self.saved = time.monotonic()

    def beat(self) -> None:
        """Save the session if more than ``BEAT_S`` seconds have passed since it was saved."""
        if time.monotonic() - self.saved > BEAT_S:
            self.save()

    def save(self) -> None:
        """Write down in the study what has passed by now."""
        self.saved = time.monotonic()
        self.study.set_user_attr(
            self.key,
            {
                "from": self.spent_s,
                "seconds": self.saved - self.start,
                "workers": self.workers,
                "machine": self.machine,
            },
        )
