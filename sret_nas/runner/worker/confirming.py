"""Evaluating the front again with other seeds, each member and seed by one worker."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from sret_nas.errors import EvaluationError
from sret_nas.runner.confirmation import Confirmations, to_confirm
from sret_nas.runner.repeats import Job
from sret_nas.runner.result import RunResult
from sret_nas.runner.worker.asking import Stopped
from sret_nas.runner.worker.context import WorkerContext
from sret_nas.study.heartbeat import pauses
from sret_nas.study.records import confirmation_key, record, result_of
from sret_nas.study.rundir import reported

if TYPE_CHECKING:
    from sret_nas.evaluate import Progress


class Confirming:
    """Confirms the front of a run, together with other workers.

    Args:
        context: The worker's.
        confirmations: What is known of all who confirm.
    """

    def __init__(self, context: WorkerContext, confirmations: Confirmations) -> None:
        self.context, self.confirmations = context, confirmations

    def front(self) -> None:
        """Confirm until no decision hangs on another repeat, or until it is to stop."""
        context = self.context
        pause, alone, room = pauses(), True, True
        while room and not context.stop():
            wanted = to_confirm(RunResult(context.run, context.config, context.study))
            if not wanted:
                return
            free = self.confirmations.free(wanted)
            if not free:
                next(pause)
                continue
            # Where several choose at once, they had better not choose the same again.
            first = free[: context.config.workers + 1]
            job = free[0] if alone else random.choice(first)  # noqa: S311
            with self.confirmations.claimed(*job, context.stop) as mine:
                if mine:
                    room = self.confirm(job)
                    pause = pauses()
            alone = mine

    def confirm(self, job: Job) -> bool:
        """Evaluate a member of the front with another seed, and read the test images.

        Returns:
            Whether there was room for it in the memory.
        """
        context, (number, seed) = self.context, job
        (trial,) = [t for t in context.study.get_trials(deepcopy=False) if t.number == number]
        arch = record(trial).architecture

        def after_step(_: Progress) -> bool:
            context.watch()
            if context.stop():
                raise Stopped
            return True

        try:
            found = context.evaluator.confirm(arch, seed=seed, report=after_step)
        except Stopped:
            return True
        except EvaluationError as error:
            if context.slot.guest and error.reason == "out of memory":
                return False
            result: dict[str, Any] = {"reason": error.reason}
        else:
            context.say_why_eager(found)
            result = result_of(context.evaluator.declaration, found)
        with reported(context.run.label):
            context.study.set_user_attr(confirmation_key(number, seed), result)
        return True
