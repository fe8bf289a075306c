"""What a search would do: the plan of ``--dry-run``, and how long it is going to take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sret_nas.errors import EvaluationError
from sret_nas.units import format_quantity

from .output import Column, Format, count, emit, note, print_json, status
from .view import duration

if TYPE_CHECKING:
    from sret_nas.api import Search
    from sret_nas.data import DataSet
    from sret_nas.runner import RunResult
    from sret_nas.runner.estimate import Estimate
    from sret_nas.space.sight import Sight
    from sret_nas.study.config import RunConfig
    from sret_nas.study.rundir import RunDir


@dataclass(frozen=True)
class Left:
    """What a search has still to do.

    Attributes:
        candidates: To try; ``None`` where time alone is limited.
        confirmations: Trainings that confirm the front; ``None`` before there is one.
        seconds: What ``--timeout`` leaves; ``None`` without one.
        outcome: The run as it is, where one was begun.
    """

    candidates: int | None
    confirmations: int | None
    seconds: float | None
    outcome: RunResult | None

    @property
    def finished(self) -> int:
        """Candidates that were tried before."""
        return sum(self.outcome.counts().values()) if self.outcome else 0

    @property
    def nothing(self) -> bool:
        """Whether all that was asked for is there."""
        return self.candidates == 0 and not self.confirmations


def left_of(run: RunDir, config: RunConfig) -> Left:
    """What is left of what is asked for.

    Raises:
        ConfigError: another run is there.
    """
    outcome = _begun(run, config)
    if outcome is None:
        return Left(config.trials, None, config.timeout_s, None)
    from sret_nas.runner.confirmation import to_confirm
    from sret_nas.runner.remaining import candidates_left, time_left_s

    confirmations = len(to_confirm(outcome)) if outcome.front else None
    return Left(candidates_left(outcome), confirmations, time_left_s(outcome), outcome)


def _begun(run: RunDir, config: RunConfig) -> RunResult | None:
    """The run that is to go on; ``None`` where it is the first search or came to nothing."""
    from sret_nas.runner import RunResult

    if not run.exists:
        return None
    config.refuse_other(run.config(), run.path)
    if run.own_database and not run.database.exists():  # killed before it had a study
        return None
    return RunResult(run, config, run.study())


def expectation(config: RunConfig, data: DataSet, left: Left) -> str:
    """How long a search is going to take: by what is left, and by what bounds it.

    Raises:
        InfeasibleError: nothing satisfies the budget.
    """
    from sret_nas.runner.remaining import work_s

    if left.nothing:
        return "nothing more to train" if config.declaration.trains else "nothing more to evaluate"
    work = None if left.outcome is None else work_s(left.outcome)
    how = "by what those before took"
    if work is None:
        try:
            work, how = measured(config, data, left).seconds, "by the speed measured just now"
        except EvaluationError as error:  # others may still be evaluated
            return f"unknown: {error}"
    more = f" of {config.declaration.doing}; a latency that is not predicted takes 2 s more" * bool(
        config.latency
    )
    return _said(work, left) + f"{more}, {how}"


def _said(work_s: float, left: Left) -> str:
    """The time that is needed, or that there is."""
    from sret_nas.api import USUAL

    thing = "more candidate" if left.finished else "candidate"
    if left.candidates is None:
        seconds = left.seconds or 0.0
        fit = round(USUAL * seconds / work_s) if work_s else 0
        return f"{duration(seconds)}, by --timeout: about {count(fit, thing)}"
    what = count(left.candidates, thing) if left.candidates else "confirming the front"
    if left.seconds is not None and work_s > left.seconds:
        return f"{duration(left.seconds)}, by --timeout: {what} would take about {duration(work_s)}"
    return f"about {duration(work_s)} for {what}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def measured(config: RunConfig, data: DataSet, left: Left) -> Estimate:
    """The work that is left, over a speed that is measured now.

    Raises:
        InfeasibleError: nothing satisfies the budget.
    """
    from sret_nas.api import USUAL
    from sret_nas.runner.estimate import estimate

    trials = USUAL if left.candidates is None else left.candidates
    with status() as progress:
        what = "training an architecture for a few steps"
        if not config.declaration.trains:
            what = "evaluating an architecture"
        progress(f"{what}, to know how fast this machine is")
        return estimate(config, data, trials, left.confirmations)


def show_plan(prepared: Search, left: Left, form: Format) -> None:
    """How much is feasible, what of it is seen and would be tried, how long it would take."""
    from sret_nas.cost import cost
    from sret_nas.space import check, clock

    space, sight, config = prepared.space, prepared.sight, prepared.config
    expected = measured(config, prepared.data, left)
    timed = any(b.metric == "latency_ms" for b in config.budgets)
    with status() as progress:
        progress("looking at the space")
        how = config.latency_dtype, config.latency_mode
        tell = clock(config.device, *how, runtime=config.latency_runtime) if timed else None
        feasible = check(space, config.budgets, seed=config.seed, clock=tell)
    if timed and not feasible.share.value:
        for spread in feasible.spreads:
            if spread.metric.startswith("latency_ms"):
                low = format_quantity("latency_ms", spread.low)
                note(
                    f"warning: of all that were sampled the fastest takes {low}: "
                    "raise the bound or choose another space"
                )
    seconds = expected.seconds if left.seconds is None else min(left.seconds, expected.seconds)
    work, amount = expected.work, expected.amount
    if left.candidates is None:
        seconds = left.seconds or 0.0
        amount = round(seconds * work.per_second * config.workers)
    trains = config.declaration.trains
    if form is Format.json:
        print_json(
            {
                "schema": 1,
                "space": space.name,
                "budget": list(config.budget),
                "feasible_share": feasible.share.value,
                "proxy": config.proxy.model_dump(mode="json"),
                "evaluator": config.evaluator,
                "choices": [
                    {
                        "name": one.name,
                        "values": list(one.values),
                        "searched": list(one.searched),
                        "seen": one.share,
                    }
                    for one in sight.choices
                ],
                "unseen": list(config.unseen),
                "trials": config.trials,
                "finished": left.finished,
                "left": left.candidates,
                "training_images": amount if trains else None,
                "images_per_s": work.per_second if trains else None,
                "expected_s": seconds,
                "architecture": expected.arch.to_dict(),
            }
        )
        return
    arch, found = expected.arch, cost(expected.arch)
    amounts = ", ".join(format_quantity(k, getattr(found, k)) for k in ("macs", "params"))
    candidates = "as many as the time allows" if left.candidates is None else f"{left.candidates:,}"
    if left.finished:
        candidates += f", after {left.finished:,} that are done"
    unit = work.unit.rpartition(" ")[2]
    speed = f"{_number(work.per_second)} {unit}/s, measured on the sample"
    rows = [
        {"what": "feasible share of the space", "value": f"{feasible.share.value:.2%}"},
        *_seen(sight),
        {"what": "candidates", "value": candidates},
        {"what": "work", "value": f"{amount:,} {work.unit}"},
        {"what": "speed of one worker", "value": speed},
        {
            "what": "expected time",
            "value": "none" if left.nothing else _said(expected.seconds, left),
        },
        {"what": "a sample", "value": f"{arch.id}: {amounts}, depth {arch.depth}"},
    ]
    emit(rows, [Column("what", "plan", left=True), Column("value", "", long=True)], form)


def _seen(sight: Sight) -> Iterator[dict[str, str]]:
    """Rows on the choices that the evaluator sees, those that it sees in part, and the others."""
    every = len(sight.choices)
    found = f"all {every}" if sight.seen == every else f"{sight.seen} of {every}"
    yield {"what": "choices seen", "value": found}
    part = [f"{one.name} {one.share:.0%}" for one in sight.choices if 0 < (one.share or 0) < 1]
    if part:
        yield {"what": "seen in some designs only", "value": ", ".join(part)}
    if sight.alike:
        yield {"what": "seen as the same", "value": ", ".join(map(str, sight.alike))}
