"""How long a search would take: its work, over a speed that is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet
from sret_nas.device import resolve
from sret_nas.errors import ArchitectureError, EvaluationError
from sret_nas.evaluate import Evaluator, Work
from sret_nas.study.config import RunConfig

SAMPLE = 101
"""Architectures of which the one of median MACs is timed."""


TRIES = 5
"""Architectures that are timed until one can be evaluated."""


@dataclass(frozen=True)
class Estimate:
    """What a search is expected to take.

    Attributes:
        arch: The architecture that was timed: of median MACs under the budget.
        work: What evaluating it costs one worker, measured.
        evaluations: What is left, in evaluations to the end.
        seconds: Wall time over all workers, if all were as fast.
    """

    arch: Architecture
    work: Work
    evaluations: float
    seconds: float

    @property
    def amount(self) -> int:
        """What is left, in the unit of ``work``."""
        return round(self.evaluations * self.work.amount)


def estimate(
    config: RunConfig, data: DataSet, trials: int, confirmations: int | None = None
) -> Estimate:
    """Time what evaluating an architecture takes and work out the rest.

    Bounds on latency are left out of the sample. On a CPU, torch is left with one
    thread, as in every worker.

    Args:
        config: The run.
        data: Its data.
        trials: Candidates that are still to be tried.
        confirmations: Evaluations that then confirm the front; default those of a usual one.

    Raises:
        InfeasibleError: nothing satisfies the budget.
        EvaluationError: none of those that were timed can be evaluated.
    """
    device = resolve(config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    bounds = [bound for bound in config.budgets if bound.metric != "latency_ms"]
    archs = config.search_space().sample(SAMPLE, config.seed, bounds)
    archs = sorted(archs, key=lambda arch: cost(arch).macs)[len(archs) // 2 :]
    arch, work = _first(config.make_evaluator()(config.proxy, data, device), archs[:TRIES])
    declared = config.declaration
    if confirmations is None:
        left = declared.evaluations(trials)
    else:
        left = declared.evaluations(trials, front=0) + confirmations
    seconds = left * work.amount / (work.per_second * config.workers)
    return Estimate(arch, work, left, seconds)


def _first(evaluator: Evaluator, archs: Sequence[Architecture]) -> tuple[Architecture, Work]:
    """The first that can be evaluated, and what that costs."""
    why: Exception | None = None
    for arch in archs:
        try:
            return arch, evaluator.work(arch)
        except (EvaluationError, ArchitectureError) as error:
            why = why or error
    raise EvaluationError(f"architectures that were to be timed failed: {why}")
