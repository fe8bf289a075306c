"""A member of the front, and what further seeds found of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sret_nas.arch import Architecture


@dataclass(frozen=True)
class Confirmation:
    """A member of the front over several seeds, the search's own first.

    Attributes:
        seeds: Evaluations in all.
        mean: By name of the metric; of a test metric over the confirming seeds alone, and
            ``None`` without test images.
        std: Likewise, the sample standard deviation; with one seed 0, of a test metric ``None``.
        failed: Reasons of evaluations that failed.
    """

    seeds: int
    mean: dict[str, float | None]
    std: dict[str, float | None]
    failed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: each mean by the name of its metric, each spread with ``_std``."""
        found: dict[str, Any] = {"seeds": self.seeds}
        for name, mean in self.mean.items():
            found |= {name: mean, f"{name}_std": self.std[name]}
        return found | {"failed": self.failed}


@dataclass(frozen=True)
class Member:
    """One architecture of the front.

    Attributes:
        trial: Number of its trial.
        id: Of the architecture.
        metrics: What its own trial reached and what it costs.
        architecture: The architecture.
        confirmation: ``None`` until confirmed.
        dethroned: Whether another member dominates it once all are confirmed.
        latency: Where it matters: ``ms``, ``margin_ms``, ``source``, ``warning``; of a
            measured one also ``equal_to`` and ``on`` (see ``comparison``).
    """

    trial: int
    id: str
    metrics: dict[str, float | None]
    architecture: Architecture
    confirmation: Confirmation | None = None
    dethroned: bool = False
    latency: dict[str, Any] | None = None

    @property
    def seeds(self) -> int:
        """Evaluations behind what it reached."""
        return self.confirmation.seeds if self.confirmation else 1

    def reached(self, name: str) -> float | None:
        """A metric: the mean over its seeds, where it has been confirmed and that has one."""
        means = self.confirmation.mean if self.confirmation else {}
        return means[name] if name in means else self.metrics.get(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the contract has it."""
        return {
            "trial": self.trial,
            "id": self.id,
            "metrics": self.metrics,
            "latency": self.latency,
            "confirmation": self.confirmation and self.confirmation.to_dict(),
            "dethroned": self.dethroned,
            "architecture": self.architecture.to_dict(),
        }
