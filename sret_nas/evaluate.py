"""``Evaluator``: from an architecture to what is found of it.

Those that come along are in ``evaluators/``, by name in ``evaluators/registry.py``. No torch here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sret_nas.arch import Architecture
from sret_nas.metrics import Declaration


@dataclass(frozen=True)
class Progress:
    """What is known of an evaluation after a step.

    Attributes:
        step: From 1.
        metrics: By name, declared as ``metrics`` and ``progress``.
        seconds: Of this step alone.
        images: Images seen in it.
    """

    step: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    images: int = 0


Report: TypeAlias = Callable[[Progress], bool]
"""Called after each step; ``False`` ends the evaluation there."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        metrics: By name, those that are declared.
        seconds: Wall time of it all.
        curve: Every step; empty where the evaluator has none.
        tests: What was found on test images, by name: of a confirmation that went to the
            end, where there are any.
        why_eager: Why it ran one operation at a time on a device where whole steps can be
            recorded; ``None`` where they were, and on other devices.
    """

    metrics: Mapping[str, float]
    seconds: float
    curve: tuple[Progress, ...] = ()
    tests: Mapping[str, float] = field(default_factory=dict)
    why_eager: str | None = None

    @property
    def step(self) -> int:
        """Steps done; 0 without steps."""
        return self.curve[-1].step if self.curve else 0


@dataclass(frozen=True)
class Work:
    """What an evaluation costs.

    Attributes:
        amount: Of one evaluation to the end.
        unit: Of the amount, e.g. ``training images``.
        per_second: What is done of it in a second, in this process.
    """

    amount: float
    unit: str
    per_second: float


class Evaluator(ABC):
    """Evaluates architectures. Equal architecture and seed: equal results, times aside.

    On a GPU, up to what its kernels leave open (docs/gpu.md).
    """

    @property
    @abstractmethod
    def declaration(self) -> Declaration:
        """What it finds, at which fidelities, and whether the seed matters."""

    @abstractmethod
    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Evaluate; never touches test images.

        Args:
            arch: The target architecture; the evaluator brings it to its own scale.
            seed: Of everything random.
            report: Called after each step; ``False`` ends the evaluation there.
                What it raises passes through.

        Raises:
            ArchitectureError: it does not exist at the evaluator's scale.
            EvaluationError: it cannot be evaluated, with the reason.
        """

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Evaluate, and go on from where the same was ended early, if its state is there.

        Default: from the beginning, and no state is left.

        Args:
            arch: The target architecture.
            folder: For the state of this evaluation alone; it need not exist. An evaluation that
                ``report`` ends leaves its state there.
            seed: Of everything random.
            report: As of ``evaluate``; told of the earlier steps too, which take no time again.
        """
        return self.evaluate(arch, seed=seed, report=report)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """The same for a member of the front: where it goes to the end, test images too."""
        return self.evaluate(arch, seed=seed, report=report)

    def fits(self, arch: Architecture) -> object:
        """Check that an architecture exists at the evaluator's scale; default: all do.

        Returns:
            The architecture as it is tried, where that is another: by it a search tells which
            of its choices the evaluator cannot see, and says so. Anything else is not looked at.

        Raises:
            ArchitectureError: it does not, with the reason.
        """
        return None

    def work(self, arch: Architecture) -> Work:
        """What evaluating an architecture costs, measured; default: by evaluating it once."""
        start = time.perf_counter()
        self.evaluate(arch)
        return Work(1, "evaluations", 1 / max(time.perf_counter() - start, 1e-9))
