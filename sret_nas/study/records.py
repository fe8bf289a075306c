"""What a study holds of a trial and of a confirmation: names, types, reading and writing.

This is the only file that spells the keys of their attributes, but for ``id`` and
``architecture``, which ``SearchSpace.suggest`` writes on any trial (``space.store``), and for what
is Optuna's own. ``validation`` checks what somebody else may have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack

import optuna
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial

from sret_nas.arch import Architecture
from sret_nas.evaluate import Evaluation, Progress
from sret_nas.metrics import Declaration

OWNER, BEAT, CLAIMED, POINT = "owner", "beat", "confirmed", "point"
CONTINUES = "continues"
"""System attributes: who holds a trial, its sign of life, whether its claim has won, its place in
a sampler's sequence, and the number of the stopped trial that it continues."""
ENQUEUED = "fixed_params"
"""System attribute of Optuna's: the parameters that somebody asked for."""
CONFIRMATION = "confirmed:"


class Fields(TypedDict, total=False):
    """What a worker writes on a trial.

    Attributes:
        metrics: By name: costs before the training, what it reached after it.
        curve: One mapping a step of the evaluation: which (for a training: ``epoch``), what its
            evaluator declares by step, ``seconds``, ``images``.
        latency: Of ``metrics["latency_ms"]``: ``ms``, ``margin_ms``, ``source``, ``warning``.
        seconds: Of ``sampling`` and ``latency``; ``training`` where no curve has its own.
        rejected: Proposals that were rejected before this one, by reason.
        interrupted: Why it does not count (see ``trials``).
        cause: Of a crash.
        reason: Why it failed, in a word.
        error: The same in a line.
        eager: Why whole steps were not recorded on a device where they could be.
    """

    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    latency: dict[str, Any]
    seconds: dict[str, float]
    rejected: dict[str, int]
    interrupted: str
    cause: str
    reason: str
    error: str
    eager: str


class TrialRecord:
    """A trial as it was written; what is missing is empty or ``None``.

    Args:
        trial: Of Optuna.
    """

    def __init__(self, trial: BaseTrial) -> None:
        self.trial = trial
        self._user: Mapping[str, Any] = trial.user_attrs

    @property
    def _system(self) -> Mapping[str, Any]:
        attributes: Mapping[str, Any] = self.trial.system_attrs  # type: ignore[attr-defined]
        return attributes

    @property
    def id(self) -> str:
        """Of its architecture; empty before one was proposed."""
        return str(self._user.get("id") or "")

    @property
    def has_architecture(self) -> bool:
        """Whether one was proposed."""
        return "architecture" in self._user

    @property
    def architecture(self) -> Architecture:
        """What was tried."""
        return Architecture.load(self._user["architecture"])

    @property
    def has_metrics(self) -> bool:
        """Whether its costs are known."""
        return "metrics" in self._user

    @property
    def metrics(self) -> dict[str, Any]:
        """By name."""
        return self._user.get("metrics") or {}

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Its steps so far, e.g. epochs."""
        return self._user.get("curve") or []

    @property
    def training_s(self) -> float:
        """Seconds of its evaluation so far, a training or not."""
        if self.curve:
            return sum(float(step["seconds"]) for step in self.curve)
        return float(self.seconds.get("training", 0.0))

    @property
    def latency(self) -> dict[str, Any] | None:
        """Of the latency among its metrics."""
        return self._user.get("latency")

    @property
    def seconds(self) -> dict[str, float]:
        """Of what is not in the curve."""
        return self._user.get("seconds") or {}

    @property
    def rejected(self) -> dict[str, int]:
        """Proposals that were rejected before it, by reason."""
        return self._user.get("rejected") or {}

    @property
    def interrupted(self) -> str | None:
        """Why it does not count, where it does not."""
        return self._user.get("interrupted")

    @property
    def cause(self) -> str:
        """Of a crash."""
        return str(self._user.get("cause", ""))

    @property
    def reason(self) -> str | None:
        """Why it failed, in a word."""
        return self._user.get("reason")

    @property
    def error(self) -> str:
        """Why it failed, in a line."""
        return str(self._user.get("error", ""))

    @property
    def eager(self) -> str | None:
        """Why steps were not recorded."""
        return self._user.get("eager")

    @property
    def owner(self) -> Mapping[str, Any] | None:
        """Who holds it, as plain data."""
        return self._system.get(OWNER)

    @property
    def beat(self) -> int:
        """The last sign of life."""
        return int(self._system.get(BEAT, 0))

    @property
    def claimed(self) -> bool:
        """Whether its claim has won."""
        return bool(self._system.get(CLAIMED))

    @property
    def point(self) -> int:
        """Its place in a sampler's sequence; -1 without one."""
        return int(self._system.get(POINT, -1))

    @property
    def continues(self) -> int | None:
        """Number of the stopped trial whose evaluation goes on here."""
        return self._system.get(CONTINUES)

    @property
    def enqueued(self) -> bool:
        """Whether somebody asked for its parameters."""
        return ENQUEUED in self._system


def record(trial: BaseTrial) -> TrialRecord:
    """What is known of a trial."""
    return TrialRecord(trial)


def write(trial: optuna.Trial, **fields: Unpack[Fields]) -> None:
    """Write on a trial that is at work.

    Raises:
        UpdateFinishedTrialError: it has its end.
    """
    for name, value in fields.items():
        trial.set_user_attr(name, value)


def write_to(storage: BaseStorage, trial_id: int, **fields: Unpack[Fields]) -> None:
    """Write on any trial, by its number in the storage.

    Raises:
        UpdateFinishedTrialError: it has its end.
    """
    for name, value in fields.items():
        storage.set_trial_user_attr(trial_id, name, value)


def write_metrics(trial: optuna.Trial, metrics: dict[str, float], shown: Mapping[str, Any]) -> None:
    """Write metrics, and each that is ``shown`` as an attribute of its own for the dashboard."""
    write(trial, metrics=metrics)
    for name, value in shown.items():
        trial.set_user_attr(name, value)


def write_system(storage: BaseStorage, trial_id: int, key: str, value: Any) -> None:
    """Write one of ``OWNER``, ``BEAT``, ``CLAIMED``, ``POINT`` and ``CONTINUES``."""
    storage.set_trial_system_attr(trial_id, key, value)


def step_of(declared: Declaration, progress: Progress) -> dict[str, Any]:
    """An entry of a curve."""
    return {
        declared.step: progress.step,
        **progress.metrics,
        "seconds": progress.seconds,
        "images": progress.images,
    }


def result_of(declared: Declaration, found: Evaluation) -> dict[str, Any]:
    """What is written of a confirmation that came to its end."""
    return {
        **{metric.name: found.metrics[metric.name] for metric in declared.metrics},
        **{metric.name: None for metric in declared.tests},
        **found.tests,
        "seconds": found.seconds,
    }


# -- confirmations, which are attributes of the study ----------------------------------------


def confirmation_key(number: int, seed: int) -> str:
    """The attribute of a member of the front, by its trial's number, and a seed."""
    return f"{CONFIRMATION}{number}:{seed}"


def confirmations(attributes: Mapping[str, Any]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Trial number, seed and result of all that were confirmed; a broken key is left out."""
    for key in sorted(attributes):
        if key.startswith(CONFIRMATION):
            parts = key.removeprefix(CONFIRMATION).split(":")
            if len(parts) == 2 and all(part.isdigit() for part in parts):
                yield int(parts[0]), int(parts[1]), attributes[key]
