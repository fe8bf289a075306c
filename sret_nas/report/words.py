"""A run in words and figures that follow its objectives; for the page and for the dashboard."""

from __future__ import annotations

from sret_nas.evaluators.registry import PROXY
from sret_nas.metrics import MACS, PARAMS, Metric
from sret_nas.report import charts
from sret_nas.runner import Member, RunResult
from sret_nas.study.objectives import costs, quality
from sret_nas.study.records import record

MOST_CLASSES = 30
"""Classes that are named; a page is no place for thousands."""


def metrics_of(outcome: RunResult) -> list[Metric]:
    """What to show of a candidate: the run's objectives, then the usual rest."""
    config = outcome.config
    return list(dict.fromkeys([*config.goals, *config.declaration.metrics, MACS, PARAMS]))


def reached(outcome: RunResult, member: Member, metric: Metric) -> str:
    """A metric of a member in words; what its confirmation found with the spread over seeds."""
    shown = metric.beside_name(member.reached(metric.name))
    if member.confirmation is None or metric.known:
        return shown
    spread = charts.spreads(outcome, metric.name)[member.trial]
    return f"{shown.removesuffix(' %')} ± {metric.beside_name(spread)}"


def cheaper(outcome: RunResult, best: Member) -> list[str]:
    """Who costs least among those that stand, by each cost that is sought."""
    goal, found = quality(outcome.config.goals), []
    standing = [member for member in outcome.front if not member.dethroned]
    for cost in costs(outcome.config.goals):
        name = cost.name
        known = [member for member in standing if member.metrics[name]]
        least = min(known, key=lambda m: float(m.metrics[name] or 0), default=best)
        most, few = best.metrics[name], least.metrics[name]
        if least.trial == best.trial or not most or not few or most == few:
            continue
        more = cost.less.format(f"{most / few:.3g}")
        reached = [goal.beside_name(m.reached(goal.name)) for m in (least, best)]
        found.append(
            f"If {cost.title} matter{'s' * (cost not in (MACS, PARAMS))} more: trial "
            f"{least.trial} {more}, at {_a(goal.title)} of {reached[0]} instead of "
            f"{reached[1]}."
        )
    return found


def _a(title: str) -> str:
    return f"{'an' if title[0].lower() in 'aeiou' else 'a'} {title}"


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


def how(outcome: RunResult) -> str:
    """How candidates were judged, and what that is worth."""
    config, declared = outcome.config, outcome.config.declaration
    found = ", ".join(metric.title for metric in declared.metrics)
    unseen = "".join(f" {line[0].upper()}{line[1:]}." for line in config.unseen)
    if config.evaluator == PROXY:
        plan, of = config.proxy, config.proxy.reference
        larger = f" for {of.image_size} px, others in proportion," if of else ""
        return (
            f"Trained by the proxy: {plan.epochs} epochs at {plan.image_size} px{larger} "
            f"on {data(outcome)}. They order architectures; they do not promise what a full "
            f"training reaches.{unseen}"
        )
    steps = f" in {declared.full} {declared.step}s" if declared.step else ", without a training"
    return (
        f"Judged by the evaluator {config.evaluator}: {found}{steps}. It orders architectures as "
        f"far as it can be trusted; it promises nothing of what a training reaches.{unseen}"
    )


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
