"""What becomes of a candidate: evaluated, compared at rungs, measured, told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, EvaluationError, SretNasError
from sret_nas.runner.comparison import Rival
from sret_nas.runner.continuing import chances
from sret_nas.runner.pruning import Pruner
from sret_nas.runner.stopped import StoppedStates
from sret_nas.runner.worker.asking import Asking, Candidate, Stopped
from sret_nas.runner.worker.context import WorkerContext
from sret_nas.runner.worker.limits import Limits
from sret_nas.runner.worker.own_trial import OwnTrial
from sret_nas.study.records import record, step_of, write, write_metrics
from sret_nas.study.retrying import say_on_stderr
from sret_nas.study.trials import counted, finish

if TYPE_CHECKING:
    from sret_nas.evaluate import Evaluation, Progress

MEASURED = (TrialState.RUNNING, TrialState.COMPLETE)
"""States of trials that others are compared with: one that is given back is tried again."""


class Trying:
    """Tries candidates, one after the other.

    Args:
        context: The worker's.
        asking: Where candidates come from.
        own: Its trial.
        limits: Whether the time is up.
    """

    def __init__(
        self, context: WorkerContext, asking: Asking, own: OwnTrial, limits: Limits
    ) -> None:
        self.context, self.asking, self.own, self.limits = context, asking, own, limits
        self.study, self.goals = context.study, context.config.goals
        self.pruner = Pruner(self.study, self.goals)
        self.states = StoppedStates(context.run)

    def attempt(self, candidate: Candidate) -> bool:
        """Try a candidate.

        Returns:
            Whether there was room for it in the memory.
        """
        room = True
        # A finished trial takes no more: the others gave this worker up, and try again.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            room = self._evaluate(candidate)
        self.own.release()
        return room

    def _evaluate(self, candidate: Candidate) -> bool:
        trial, arch, _ = candidate
        evaluator, folder = self.context.evaluator, self.states.folder(arch.id)
        run = evaluator.evaluate if folder is None else partial(evaluator.resume, folder=folder)
        try:
            found = run(arch, seed=self.context.config.seed, report=self._report(candidate))
        except Stopped:
            self.own.give_back("stopped")
            return True
        except (EvaluationError, ArchitectureError) as error:
            reason = getattr(error, "reason", "impossible")
            if self.context.slot.shared and reason == "out of memory":
                self.own.give_back("no room")
                return False
            write(trial, reason=reason, error=str(error))
            finish(self.study, trial.number, TrialState.FAIL)
            return True
        self.context.say_why_eager(found)
        if found.why_eager:
            write(trial, eager=found.why_eager)
        if not found.curve:
            write(trial, seconds=record(trial).seconds | {"training": found.seconds})
        self._tell(candidate, found)
        return True

    def _report(self, candidate: Candidate) -> Callable[[Progress], bool]:
        trial, _, metrics = candidate
        declared = self.context.evaluator.declaration
        goes_on = record(self.own.current).continues is not None
        curve: list[dict[str, Any]] = []

        def after_step(progress: Progress) -> bool:
            curve.append(step_of(declared, progress))
            write(trial, curve=curve)
            self.context.watch()
            go_on = True
            if progress.step in declared.fidelities[:-1] and not goes_on:
                go_on = self.pruner.keeps(trial.number, metrics | curve[-1], progress.step)
            if go_on and progress.step < declared.full and self._is_over():
                raise Stopped
            return go_on

        return after_step

    def _is_over(self) -> bool:
        return self.context.stop() or self.limits.late

    def _tell(self, candidate: Candidate, found: Evaluation) -> None:
        trial, declared = candidate.trial, self.context.evaluator.declaration
        reached = {one.name: found.metrics[one.name] for one in declared.metrics}
        to_the_end = found.step == declared.full
        if to_the_end:
            reached |= self._measured(candidate)
        metrics = candidate.metrics | reached
        write_metrics(trial, metrics, reached)
        if to_the_end:
            values = [metrics[goal.name] for goal in self.goals]
            finish(self.study, trial.number, TrialState.COMPLETE, values)
            self.states.forget(candidate.arch.id)
        else:
            finish(self.study, trial.number, TrialState.PRUNED)
            trials = self.study.get_trials(deepcopy=False)
            likely = chances(trials, self.goals)
            self.states.keep({record(t).id: likely.get(t.number, 0.0) for t in counted(trials)})

    def _measured(self, candidate: Candidate) -> dict[str, float]:
        """The latency of a candidate, before it is told: a trial has one value."""
        trial, arch, metrics = candidate
        comparer = self.context.comparer
        expected = self.asking.known.timing(arch) if comparer else None
        if comparer is None or expected is None:
            return {}
        start = time.perf_counter()

        def keep(latency: dict[str, Any]) -> None:
            write(trial, latency=latency)

        try:
            found = comparer.measure(arch, expected.ms, self._measured_before, keep)
        except SretNasError as error:
            say_on_stderr(
                f"trial {trial.number}: its latency stays as it was {expected.source}: {error}"
            )
            return {}
        self.asking.constrain(trial, arch, metrics, found.ms + found.margin_ms)
        more = time.perf_counter() - start
        spent = record(trial).seconds
        write(trial, seconds=spent | {"latency": spent["latency"] + more})
        if found.warning:
            say_on_stderr(f"trial {trial.number}: latency: {found.warning}")
        return {"latency_ms": found.ms}

    def _measured_before(self) -> list[Rival]:
        assert self.context.comparer is not None
        found = []
        for trial in self.study.get_trials(deepcopy=False, states=MEASURED):
            known = record(trial).latency or {}
            if known.get("on") == self.context.comparer.on:
                arch: Architecture = record(trial).architecture
                found.append(Rival(trial.number, arch, known["ms"]))
        return found
