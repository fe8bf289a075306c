"""What the parts of a worker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import optuna

from sret_nas.runner.comparison import Comparer
from sret_nas.runner.slots import Slot
from sret_nas.space import Clock, SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.study.retrying import say_on_stderr
from sret_nas.study.rundir import RunDir

if TYPE_CHECKING:
    from sret_nas.evaluate import Evaluation, Evaluator


@dataclass
class WorkerContext:
    """One worker of a run, as it was set up.

    Attributes:
        run: The run.
        config: What was asked for.
        study: The study, with the worker's own connection.
        space: The search space.
        evaluator: Judges candidates.
        stop: Whether to come to an end; asked after every step and before every proposal.
        clock: Tells latencies; needed where a bound or an objective is one.
        comparer: Measures the latency of what went to the end; else it stays as ``clock``
            told it.
        slot: Where it works.
        until: When its time is up, confirming included, as ``time.monotonic``; or never.
        watch: Called before every candidate and after every step.
    """

    run: RunDir
    config: RunConfig
    study: optuna.Study
    space: SearchSpace
    evaluator: Evaluator
    stop: Callable[[], bool]
    clock: Clock | None = None
    comparer: Comparer | None = None
    slot: Slot = field(default_factory=lambda: Slot("cpu"))
    until: float | None = None
    watch: Callable[[], None] = lambda: None
    _said: set[str] = field(default_factory=set, init=False, repr=False)

    def say_why_eager(self, found: Evaluation) -> None:
        """Say, once for each reason, why whole steps were not recorded, where they were not."""
        why = found.why_eager
        if why and why not in self._said:
            self._said.add(why)
            say_on_stderr(f"note: trained without CUDA graphs, slower: {why}")
