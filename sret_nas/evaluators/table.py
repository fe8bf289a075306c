"""Results that are looked up: for tests, and for benchmarks over a fixed table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sret_nas.arch import Architecture
from sret_nas.evaluate import Evaluation, Evaluator, Report
from sret_nas.evaluators.proxy import evaluation, follow
from sret_nas.metrics import Declaration, training

if TYPE_CHECKING:
    from sret_nas.training import EpochResult


class TableEvaluator(Evaluator):
    """Looks results up instead of training.

    Args:
        rungs: Epochs at which candidates are compared.
        curve: Results of every epoch of an architecture and a seed.
        test: Loss and accuracy on test images of both, where they are known.
        seeds: Most trainings of a member of the front.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        curve: Callable[[Architecture, int], Sequence[EpochResult]],
        test: Callable[[Architecture, int], tuple[float, float]] | None = None,
        seeds: int = 3,
    ) -> None:
        self.curve = curve
        self.test = test
        self._declaration = training(rungs, seeds)

    @property
    def declaration(self) -> Declaration:
        """A training's, at the rungs that were given."""
        return self._declaration

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Replay the curve."""
        return evaluation(follow(self.curve(arch, seed), report), self.declaration)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Replay the curve; at the end the test results, where they are known."""
        found = self.evaluate(arch, seed=seed, report=report)
        if found.step < self.declaration.full or self.test is None:
            return found
        loss, accuracy = self.test(arch, seed)
        return replace(found, tests={"test_loss": loss, "test_accuracy": accuracy})
