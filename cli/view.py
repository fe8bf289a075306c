"""What one sees of a search: a live view on a terminal, a line a trial in a pipe."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from . import table
from .output import count, note, stderr
from .pareto import columns

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sret_nas.metrics import Declaration
    from sret_nas.runner import RunResult
    from sret_nas.study.config import RunConfig
    from sret_nas.study.rundir import RunDir

EVERY_S = 0.5
BARS = "▁▂▃▄▅▆▇█"


class Lines:
    """A line for every trial that ends and every confirmation, from the second look on.

    Args:
        config: The run's.
        team: Tell of trials of this team of workers alone.
    """

    def __init__(self, config: RunConfig, team: str | None = None) -> None:
        self.config, self.team = config, team
        self.goals = config.goals
        self.told: set[int] | None = None
        self.confirmed: set[tuple[int, int]] = set()

    def __call__(self, study: optuna.Study) -> None:
        """Tell what has changed."""
        from sret_nas.study.objectives import quality
        from sret_nas.study.records import confirmations
        from sret_nas.study.trials import owner

        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        confirmed = {(n, seed): value for n, seed, value in confirmations(study.user_attrs)}
        if self.told is None:  # what a run that goes on has already told
            self.told, self.confirmed = {t.number for t in finished}, set(confirmed)
        for trial in finished:
            if trial.number not in self.told:
                self.told.add(trial.number)
                who = owner(trial)
                if self.team is None or (who is not None and who.team == self.team):
                    _tell(trial, self.config)
        for (number, seed), value in confirmed.items():
            if (number, seed) not in self.confirmed:
                self.confirmed.add((number, seed))
                goal = quality(self.goals)
                found = value.get("reason") or f"{goal.name} {goal.show(value[goal.name])}"
                note(f"trial {number} confirmed with seed {seed}: {found}")


def _tell(trial: FrozenTrial, config: RunConfig) -> None:
    from sret_nas.study.records import record

    untold = ("taken", "surplus", "exhausted")
    if record(trial).id and record(trial).interrupted not in untold:
        note(_line(trial, config))


class View:
    """Follows a study; called again and again while the search goes on."""

    def __init__(self, run: RunDir, config: RunConfig, live: Live | None) -> None:
        self.run = run
        self.config = config
        self.live = live
        self.width = stderr().width if live is None else live.console.width
        self.start = time.monotonic()
        self.last = 0.0
        self.lines = Lines(config)

    def __call__(self, study: optuna.Study) -> None:
        """Show what has changed; on a terminal at most twice a second."""
        now = time.monotonic()
        if self.live is not None and now - self.last < EVERY_S:
            return
        self.last = now
        if self.live is None:
            self.lines(study)
            return
        from sret_nas.runner import RunResult

        outcome = RunResult(self.run, self.config, study)
        self.live.update(self._picture(outcome), refresh=True)

    # -- a terminal --------------------------------------------------------------------------

    def _picture(self, outcome: RunResult) -> RenderableType:
        from sret_nas.runner.confirmation import to_confirm
        from sret_nas.runner.remaining import remaining_s
        from sret_nas.study.objectives import quality
        from sret_nas.study.records import confirmations

        counts, elapsed = outcome.counts(), time.monotonic() - self.start
        finished = sum(counts.values())
        words = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        head = Text(f"{self.run.path}  {finished} of {self.config.trials or '∞'} trials  {words}  ")
        left = remaining_s(outcome, elapsed)
        times = duration(elapsed) + ("" if left is None else f", about {duration(left)} left")
        head.append(times, style="dim")
        parts: list[RenderableType] = [head]
        if self.config.trials:
            bar = Table.grid()  # gives the bar a line of its own
            bar.add_row(ProgressBar(self.config.trials, finished, width=60))
            parts.append(bar)
        declared, name = self.config.declaration, quality(self.config.goals).name
        running = [trial for trial in outcome.trials if not trial.state.is_finished()]
        parts += [Text(f"running {_running(trial, declared, name)}") for trial in running]
        parts.append(_front(outcome, self.width))
        confirmed = len(list(confirmations(outcome.study.user_attrs)))
        if confirmed:
            most = confirmed + len(to_confirm(outcome))
            what = "trainings" if declared.trains else "evaluations"
            parts.append(Text(f"confirming the front: {confirmed} of at most {most} {what}"))
        seconds = outcome.seconds()
        named = {declared.doing: "training", "sampling": "sampling", "latency": "latency"}
        spent = ", ".join(f"{word} {seconds[key]:,.0f} s" for word, key in named.items())
        parts.append(Text(f"of all workers: {spent}", style="dim"))
        return Group(*parts)


def _front(outcome: RunResult, width: int) -> Text:
    """The table that the end of the search prints, as far as it is known."""
    console = Console(file=io.StringIO(), width=width, highlight=False, emoji=False)
    table.show(console, outcome.rows(), columns(outcome), "front so far")
    return Text(console.file.getvalue().rstrip())  # type: ignore[attr-defined]


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(150), duration(600), duration(9000)
        ('150 s', '10 minutes', '2.5 hours')
    """
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _running(trial: FrozenTrial, declared: Declaration, quality: str) -> str:
    from sret_nas.study.records import record

    curve, arch_id = record(trial).curve, record(trial).id
    if not declared.step:
        return f"{trial.number:4d} {arch_id}"
    reached = sparkline([step[quality] for step in curve])
    return f"{trial.number:4d} {arch_id}  {declared.step} {len(curve)}/{declared.full}  {reached}"


def sparkline(values: list[float]) -> str:
    """Values as small bars, the last one in figures.

    Example:
        >>> sparkline([3.0, 2.0, 1.0])
        '█▄▁ 1.000'
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    steps = len(BARS) - 1
    bars = (
        BARS[round(steps * (v - low) / (high - low))] if high > low else BARS[0] for v in values
    )
    return f"{''.join(bars)} {values[-1]:.3f}"


def _line(trial: FrozenTrial, config: RunConfig) -> str:
    from sret_nas.metrics import MACS, PARAMS
    from sret_nas.study.objectives import costs
    from sret_nas.study.records import record

    declared = config.declaration
    found, state = record(trial), trial.state.name.lower()
    if found.interrupted:
        return f"trial {trial.number} interrupted: its architecture is tried again"
    metrics = found.metrics
    again = "" if found.continues is None else f", which goes on from {found.continues},"
    words = [f"trial {trial.number}{again} {'stopped' if state == 'pruned' else state}"]
    words += [f"{m.name} {m.show(metrics[m.name])}" for m in declared.metrics if m.name in metrics]
    known = dict.fromkeys([*costs(config.goals), MACS, PARAMS])
    words += [m.show(metrics[m.name]) for m in known if metrics.get(m.name) is not None]
    done = count(len(found.curve), declared.step) + " in " if declared.step else ""
    words.append(f"{done}{found.training_s:.1f} s")
    if found.reason is not None:
        words.append(f"{found.reason}: {found.error}")
    return ", ".join(words)


@contextmanager
def view(run: RunDir, config: RunConfig) -> Iterator[View]:
    """A view of a search: live on a terminal, lines elsewhere; both on stderr."""
    console = stderr()
    if not console.is_terminal:
        yield View(run, config, None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        shown = View(run, config, live)
        yield shown
