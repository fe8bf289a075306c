"""The charts of a page: interactive ones as Plotly figures in plain data, small ones as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sret_nas.metrics import COSTS, Declaration, Metric
from sret_nas.report.curves import Line, curves
from sret_nas.report.known import Reference
from sret_nas.runner import Member, RunResult
from sret_nas.study.objectives import costs, quality
from sret_nas.study.records import confirmations, record
from sret_nas.units import format_quantity

FRONT, OTHER, STOPPED, KNOWN = "#2f6fde", "#8c95a4", "#b9a16b", "#d9480f"

STOPPED_NAME = "stopped at a rung"
Figure = dict[str, Any]


def front(outcome: RunResult, references: Sequence[Reference]) -> list[Figure]:
    """Quality against each known cost: a figure for every cost objective."""
    goals = outcome.config.goals
    figures = [_front(outcome, quality(goals), cost, references) for cost in costs(goals)]
    _frame_groups(figures[0], outcome, quality(goals), costs(goals)[0])
    return figures


def _front(
    outcome: RunResult, goal: Metric, sought: Metric, references: Sequence[Reference]
) -> Figure:
    quality, cost, declared = goal.name, sought.name, outcome.config.declaration
    members = outcome.front
    best = outcome.recommended()
    on_front = {member.trial for member in members}
    known = {r.id: r.name for r in references if r.id}
    traces: list[Figure] = []
    for state, name, colour, symbol in (
        (TrialState.PRUNED, STOPPED_NAME, STOPPED, "x-thin-open"),
        (TrialState.COMPLETE, declared.finished, OTHER, "circle"),
    ):
        trials = [
            t
            for t in outcome.trials
            if t.state == state
            and t.number not in on_front
            and record(t).metrics.get(cost) is not None
        ]
        if trials:
            line = {"width": 1.5, "color": colour} if state == TrialState.PRUNED else {"width": 0}
            marker = {"color": colour, "symbol": symbol, "size": 7, "opacity": 0.75, "line": line}
            traces.append(
                _points(trials, quality, cost, name, known, declared) | {"marker": marker}
            )
    for name, group, symbol in (
        ("fell behind once confirmed", [m for m in members if m.dethroned], "circle-open"),
        ("front", [m for m in members if not m.dethroned], "circle"),
    ):
        here = [m for m in group if m.metrics[cost] is not None]
        if here:
            starred = [best is not None and m.trial == best.trial for m in here]
            marker = {
                "color": FRONT,
                "size": [15 if star else 9 for star in starred],
                "symbol": ["star" if star else symbol for star in starred],
            }
            line = _members(here, outcome, quality, cost, name, known)
            traces.append(line | {"marker": marker})
    traces += _published(outcome, quality, cost, known)
    x = [value for trace in traces for value in trace["x"]]
    shown = [r for r in references if cost in ("macs", "params") and x]
    shown = [r for r in shown if min(x) / 2 <= getattr(r, cost) <= 2 * max(x)]
    for kind, name, symbol in (
        (True, "published SReT, cost only", "triangle-up"),
        (False, "timm, cost only", "square"),
    ):
        some = [r for r in shown if bool(r.id) == kind]
        if some:
            traces.append(
                {
                    "type": "scatter",
                    "name": name,
                    "mode": "markers",
                    "yaxis": "y2",
                    "showlegend": False,
                    "marker": {"color": KNOWN, "symbol": symbol, "size": 9},
                    "x": [getattr(r, cost) for r in some],
                    "y": [1 if kind else 0] * len(some),
                    "text": [f"{r.name}: {format_quantity(cost, getattr(r, cost))}" for r in some],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    axis: Figure = {"title": {"text": sought.label}, "tickformat": "~s"}
    quality_axis: Figure = {"title": {"text": goal.label}}
    layout: Figure = {"xaxis": axis, "yaxis": quality_axis, "showlegend": True}
    _focus(traces, quality_axis, -1 if goal.direction == "minimize" else 1)
    if shown:  # what only has a cost lies in a strip below: there, height means nothing
        quality_axis["domain"] = [0.2, 1]
        axis["anchor"] = "y2"
        layout["yaxis2"] = {
            "domain": [0, 0.11],
            "range": [-0.8, 1.8],
            "tickvals": [0, 1],
            "ticktext": ["timm", "SReT"],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "automargin": True,
        }
    if x:  # the candidates fill the chart; what is known is seen as far as it is near
        near = [getattr(r, cost) for r in shown]
        low, high = min(x + near), max(x + near)
        room = 0.06 * (high - low) or 0.1 * high
        axis["range"] = [low - room, high + room]
    return {"data": traces, "layout": layout}


def _frame_groups(figure: Figure, outcome: RunResult, goal: Metric, cost: Metric) -> None:
    """A frame around members that cannot be told apart, where that is more than one.

    Groups are neighbours by the first cost alone, so that is the chart for them.
    """
    groups = outcome.recommendation.groups if outcome.recommendation else {}
    spread, layout = spreads(outcome, goal.name), figure["layout"]
    layout |= {"shapes": [], "annotations": []}
    for number in dict.fromkeys(groups.values()):
        here = [m for m in outcome.front if groups.get(m.trial) == number and m.metrics[cost.name]]
        if len(here) < 2:
            continue
        x = [float(m.metrics[cost.name] or 0) for m in here]
        y = [float(m.reached(goal.name) or 0) for m in here]
        bars = [spread[m.trial] for m in here]
        low = min(value - bar for value, bar in zip(y, bars, strict=True))
        high = max(value + bar for value, bar in zip(y, bars, strict=True))
        room = 0.01 * (max(x) - min(x))
        layout["shapes"].append(
            {
                "type": "rect", "layer": "below", "fillcolor": FRONT, "opacity": 0.12,
                "line": {"width": 0}, "x0": min(x) - room, "x1": max(x) + room,
                "y0": low, "y1": high,
            }
        )  # fmt: skip
        layout["annotations"].append(
            {
                "text": f"group {number}", "x": max(x) + room, "y": high, "showarrow": False,
                "xanchor": "right", "yanchor": "bottom", "font": {"size": 11, "color": FRONT},
            }
        )  # fmt: skip


def _focus(traces: Sequence[Figure], axis: Figure, better: int) -> None:
    """Let those trained to the end fill the chart; stopped ones beyond it stand at its edge.

    Args:
        traces: Of the chart; the stopped ones are changed.
        axis: Of the quality; gets its range.
        better: -1 where less is better, 1 where more is.
    """
    values = []
    for trace in traces:
        if trace["name"] != STOPPED_NAME and "yaxis" not in trace:
            bars = trace.get("error_y", {"array": [0.0] * len(trace["y"])})["array"]
            pairs = list(zip(trace["y"], bars, strict=True))
            values += [y + bar for y, bar in pairs] + [y - bar for y, bar in pairs]
    if not values:
        return
    span = (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    worst = min(values) - 0.3 * span if better > 0 else max(values) + 0.3 * span
    best = max(values) + 0.1 * span if better > 0 else min(values) - 0.1 * span
    axis["range"] = sorted((worst, best))
    edge = worst + better * 0.03 * abs(best - worst)
    for trace in traces:
        if trace["name"] == STOPPED_NAME:
            beyond = [better * (y - edge) < 0 for y in trace["y"]]
            trace["y"] = [edge if out else y for y, out in zip(trace["y"], beyond, strict=True)]
            arrow = "arrow-up-open" if better < 0 else "arrow-down-open"
            trace["marker"]["symbol"] = [arrow if out else "x-thin-open" for out in beyond]


def _published(outcome: RunResult, quality: str, cost: str, known: dict[str, str]) -> list[Figure]:
    """A ring with a name around every published model that was trained here."""
    confirmed = {member.trial: member for member in outcome.front}
    found = [t for t in outcome.complete() if record(t).id in known]
    trials = sorted(found, key=lambda t: float(record(t).metrics[cost]))
    if not trials:
        return []
    values = [
        confirmed[t.number].reached(quality) or 0.0
        if t.number in confirmed
        else record(t).metrics[quality]
        for t in trials
    ]
    return [
        {
            "type": "scatter",
            "name": "published SReT, trained here",
            "mode": "markers+text",
            "marker": {"symbol": "circle-open", "size": 16, "color": KNOWN, "line": {"width": 2}},
            "x": [record(t).metrics[cost] for t in trials],
            "y": [round(value, 5) for value in values],
            "text": [known[record(t).id] for t in trials],
            "textposition": [("top center", "bottom center")[i % 2] for i in range(len(trials))],
            "hoverinfo": "skip",
        }
    ]


def _members(
    members: Sequence[Member],
    outcome: RunResult,
    quality: str,
    cost: str,
    name: str,
    known: dict[str, str],
) -> Figure:
    """Members of the front at their confirmed means, joined where they stand."""
    spread, declared = spreads(outcome, quality), outcome.config.declaration
    bars = {"type": "data", "array": [spread[member.trial] for member in members]}
    return {
        "type": "scatter",
        "name": name,
        "mode": "lines+markers" if name == "front" else "markers",
        "line": {"color": FRONT, "width": 1.5, "shape": "hv"},
        "x": [m.metrics[cost] for m in members],
        "y": [m.reached(quality) or 0.0 for m in members],
        "error_y": bars | {"thickness": 1.2, "width": 4},
        "text": [_told(m.trial, m.metrics, known.get(m.id), declared) for m in members],
        "hovertemplate": "%{text}<extra></extra>",
    }


def spreads(outcome: RunResult, name: str) -> dict[int, float]:
    """Standard deviation of a quality over the seeds of each member; 0 with one seed."""
    known = outcome.study.user_attrs
    found = {}
    for member in outcome.front:
        seeds = [v for number, _, v in confirmations(known) if number == member.trial]
        values = [float(member.metrics[name] or 0.0), *(v[name] for v in seeds if name in v)]
        found[member.trial] = statistics.stdev(values) if len(values) > 1 else 0.0
    return found


def _points(
    trials: Sequence[FrozenTrial],
    quality: str,
    cost: str,
    name: str,
    known: dict[str, str],
    declared: Declaration,
) -> Figure:
    metrics = [record(t).metrics for t in trials]
    return {
        "type": "scatter",
        "name": name,
        "mode": "markers",
        "x": [m[cost] for m in metrics],
        "y": [round(m[quality], 5) for m in metrics],
        "text": [
            _told(t.number, m, known.get(record(t).id), declared)
            for t, m in zip(trials, metrics, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _told(number: int, metrics: Mapping[str, Any], name: str | None, declared: Declaration) -> str:
    words = [f"trial {number}" + (f" = {name}" if name else "")]
    for shown in (declared.metrics, COSTS):
        here = [metric for metric in shown if metrics.get(metric.name) is not None]
        named = [
            metric.show(metrics[metric.name])
            if metric.known
            else f"{metric.alias or metric.heading} {metric.beside_name(metrics[metric.name])}"
            for metric in here
        ]
        words.append(", ".join(named))
    return "<br>".join(words)


def hypervolume(outcome: RunResult) -> Figure | None:
    """Share of the final hypervolume over the time of evaluating; ``None`` without one."""
    found = outcome.hypervolumes()
    if not found:
        return None
    spent = _spent(outcome)
    last = spent[found[-1][0]]
    unit, scale = ("s", 1) if last < 200 else ("min", 60) if last < 12_000 else ("h", 3600)
    times = [round(spent[number] / scale, 3) for number, _ in found]
    told = [
        f"{i} candidates, {time:.3g} {unit}: {share:.1%}"
        for i, (time, (_, share)) in enumerate(zip(times, found, strict=True), 1)
    ]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines" if len(found) > 60 else "lines+markers",
                "line": {"color": FRONT, "shape": "hv"},
                "x": times,
                "y": [round(share, 5) for _, share in found],
                "text": told,
                "hovertemplate": "%{text}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {
                "title": {"text": f"{outcome.config.declaration.doing} of all workers ({unit})"},
                "rangemode": "tozero",
            },
            "yaxis": {
                "title": {"text": "share of the final"},
                "tickformat": ".0%",
                "range": [0, 1.04],
            },
            "showlegend": False,
        },
    }


def _spent(outcome: RunResult) -> dict[int, float]:
    """Seconds that had gone into evaluating, over all workers, when each trial ended."""
    ended = [(t.datetime_complete, t.number, t) for t in outcome.trials if t.datetime_complete]
    total, spent = 0.0, {}
    for _, number, trial in sorted(ended):
        total += record(trial).training_s
        spent[number] = total
    return spent


def curve(steps: Sequence[dict[str, Any]], declared: Declaration, paper: bool = False) -> str:
    """The learning curve of one evaluation as a small SVG: its first metric by step.

    Args:
        steps: What was reached, step by step.
        declared: What the evaluator declares; what it tells by step in the same unit, e.g.
            the loss in training, is shown beside.
        paper: Whether it is a file of its own, with its own ground and style; else it
            is part of a page that has them.

    Returns:
        Empty where there are no steps.
    """
    if not steps:
        return ""
    goal = declared.quality
    beside = [one for one in declared.progress if one.unit == goal.unit]
    lines = [
        Line(
            metric.title.partition(" ")[0],
            [step[metric.name] for step in steps],
            "val" if metric == goal else "train",
        )
        for metric in (*beside, goal)
    ]
    first, final = (goal.show(step[goal.name]) for step in (steps[0], steps[-1]))
    return curves(lines, declared.step, f"{goal.title} from {first} to {final}", paper=paper)
