"""What a search optimises: names, directions, units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sret_nas.errors import UsageError
from sret_nas.files import nearest
from sret_nas.units import format_quantity

TITLES = {
    "val_loss": "validation loss (nats)",
    "val_accuracy": "validation accuracy (share)",
    "macs": "MACs",
    "params": "parameters",
    "latency_ms": "latency (ms)",
    "peak_bytes": "peak memory (bytes)",
}
"""Metrics as people read them, with their units."""
SHORT = {
    "val_loss": "val loss",
    "val_accuracy": "val acc",
    "macs": "MACs",
    "params": "params",
    "latency_ms": "ms",
    "peak_bytes": "memory",
}
"""The same as headings of narrow columns and axes."""


@dataclass(frozen=True)
class Objective:
    """One objective of a study.

    Attributes:
        name: Its metric, with the unit in the name.
        direction: As Optuna says it.
        trained: Whether it comes from training; the others are known before.
    """

    name: str
    direction: Literal["minimize", "maximize"]
    trained: bool = False

    @property
    def title(self) -> str:
        """What it is called where people look: with its unit."""
        return TITLES[self.name]

    def loss(self, value: float) -> float:
        """The value as something to minimise."""
        return value if self.direction == "minimize" else -value


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("val_loss", "minimize", trained=True),
        Objective("val_accuracy", "maximize", trained=True),
        Objective("macs", "minimize"),
        Objective("params", "minimize"),
        Objective("latency_ms", "minimize"),
        Objective("peak_bytes", "minimize"),
    )
}
ALIASES = {
    "loss": "val_loss",
    "accuracy": "val_accuracy",
    "latency": "latency_ms",
    "memory": "peak_bytes",
}


def quality(objectives: Sequence[Objective]) -> Objective:
    """The one that comes from training."""
    (found,) = [objective for objective in objectives if objective.trained]
    return found


def costs(objectives: Sequence[Objective]) -> list[str]:
    """Metrics of the others, in the run's order; MACs where quality alone is sought."""
    return [objective.name for objective in objectives if not objective.trained] or ["macs"]


def format_metric(name: str, value: float) -> str:
    """A value for people, with its unit where its form does not tell.

    Example:
        >>> format_metric("val_accuracy", 0.8125), format_metric("latency_ms", 2.0)
        ('81.25%', '2 ms')
    """
    if name == "val_loss":
        return f"{value:.4f}"
    if name == "val_accuracy":
        return f"{value:.2%}"
    return format_quantity(name, value)


def parse(names: Sequence[str]) -> tuple[Objective, ...]:
    """Objectives by name; ``loss``, ``accuracy``, ``latency``, ``memory`` are short for theirs.

    Raises:
        UsageError: unknown, twice, or none that is trained.
    """
    known = [*OBJECTIVES, *ALIASES]
    found: list[Objective] = []
    for name in names:
        key = ALIASES.get(name, name)
        if key not in OBJECTIVES:
            guess = nearest(name, known)
            raise UsageError(
                f"objectives: given '{name}'" + (f"; did you mean '{guess}'?" if guess else ""),
                f"allowed: {', '.join(known)}",
            )
        if OBJECTIVES[key] in found:
            raise UsageError(f"objectives: '{name}' is given twice")
        found.append(OBJECTIVES[key])
    if sum(objective.trained for objective in found) != 1:
        raise UsageError(
            "objectives: one of them must be trained, val_loss or val_accuracy; "
            f"given {', '.join(names) or 'none'}",
            "e.g. --objectives loss,macs",
        )
    return tuple(found)


def losses(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> list[float]:
    """The objectives of one candidate, all to minimise."""
    return [objective.loss(metrics[objective.name]) for objective in objectives]
