"""A run in words and figures that follow its objectives; for the page and for the dashboard."""

from __future__ import annotations

from dataclasses import asdict

from sret_nas.report import charts
from sret_nas.runner import Member, RunResult
from sret_nas.study.objectives import costs, quality
from sret_nas.study.records import record
from sret_nas.units import format_count, format_quantity

NAMES = {
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "macs": "MACs",
    "params": "parameters",
    "latency_ms": "latency",
    "peak_bytes": "peak memory",
}
CHEAPER = {
    "macs": "needs {} times fewer MACs",
    "params": "has {} times fewer parameters",
    "latency_ms": "takes {} times less time",
    "peak_bytes": "needs {} times less memory",
}
MOST_CLASSES = 30
"""Classes that are named; a page is no place for thousands."""


def metrics_of(outcome: RunResult) -> list[str]:
    """What to show of a candidate: the run's objectives, then the usual rest."""
    sought = [goal.name for goal in outcome.config.goals]
    return list(dict.fromkeys([*sought, "val_loss", "val_accuracy", "macs", "params"]))


def amount(name: str, value: float | None) -> str:
    """A value of a metric, beside its name."""
    if value is None:
        return "–"
    if name == "val_loss":
        return f"{value:.4f}"
    if name == "val_accuracy":
        return f"{100 * value:.1f} %"
    return format_count(value) if name in ("macs", "params") else format_quantity(name, value)


def value_of(member: Member, name: str) -> float | None:
    """A metric of a member: the mean over its seeds, where it has been confirmed."""
    means = asdict(member.confirmation) if member.confirmation else {}
    found: float | None = means[name] if name in means else member.metrics[name]
    return found


def reached(outcome: RunResult, member: Member, name: str) -> str:
    """A metric of a member in words; what its confirmation found with the spread over seeds."""
    shown = amount(name, value_of(member, name))
    if not (member.confirmation and name in ("val_loss", "val_accuracy")):
        return shown
    spread = charts.spreads(outcome, name)[member.trial]
    return f"{shown.removesuffix(' %')} ± {amount(name, spread)}"


def cheaper(outcome: RunResult, best: Member) -> list[str]:
    """Who costs least among those that stand, by each cost that is sought."""
    goal, found = quality(outcome.config.goals), []
    standing = [member for member in outcome.front if not member.dethroned]
    for name in costs(outcome.config.goals):
        known = [member for member in standing if member.metrics[name]]
        least = min(known, key=lambda m: float(m.metrics[name] or 0), default=best)
        most, few = best.metrics[name], least.metrics[name]
        if least.trial == best.trial or not most or not few or most == few:
            continue
        more = CHEAPER[name].format(f"{most / few:.3g}")
        reached = [amount(goal.name, value_of(m, goal.name)) for m in (least, best)]
        found.append(
            f"If {NAMES[name]} matter{'s' * (name not in ('macs', 'params'))} more: trial "
            f"{least.trial} {more}, at a {NAMES[goal.name]} of {reached[0]} instead of "
            f"{reached[1]}."
        )
    return found


def exactness(outcome: RunResult) -> str:
    """Which costs are exact and which are not."""
    words = "MACs and parameters are counted on the full architecture, exactly"
    if any(member.metrics["peak_bytes"] is not None for member in outcome.front):
        words += "; peak memory is computed for one image in fp32"
    trials = {trial.number: record(trial).latency or {} for trial in outcome.trials}
    timed = [m.trial for m in outcome.front if m.metrics["latency_ms"] is not None]
    sources = sorted({trials[number].get("source", "measured") for number in timed})
    if sources:
        words += f"; latency is {' or '.join(sources)} for {outcome.config.device}, so not exact"
    return f"{words}."


def data(outcome: RunResult) -> str:
    """What was trained on: how many images of how many classes, from where."""
    facts, source = outcome.config.images, outcome.config.data["source"]
    if not facts:  # of a run by an earlier version
        return f"images of “{source}”"
    return (
        f"{facts['train']:,} training and {facts['val']:,} validation images of "
        f"{facts['num_classes']:,} classes from “{source}”"
    )


def classes(outcome: RunResult) -> str:
    """The classes by name, as far as they fit."""
    names: list[str] = outcome.config.images.get("classes", [])
    more = outcome.config.images.get("num_classes", 0) - min(len(names), MOST_CLASSES)
    return ", ".join(names[:MOST_CLASSES]) + (f" and {more:,} more" if more > 0 else "")
