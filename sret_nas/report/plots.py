"""Plots of a study that Optuna's dashboard does not have, as Plotly figures in plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sret_nas.cost import cost
from sret_nas.metrics import MACS, PARAMS, Metric
from sret_nas.report import charts
from sret_nas.report.charts import FRONT, OTHER, STOPPED, Figure
from sret_nas.report.known import published_name, references
from sret_nas.runner import RunResult
from sret_nas.study import objectives
from sret_nas.study.records import record

MOST_BARS = 24
MOST_POINTS = 6_000
"""Of all learning curves together; longer ones are thinned."""
INK, GRID = "#808a99", "rgba(128,138,153,.25)"
"""They read on the dashboard's white and on its dark ground."""
STAGES = ("#8c95a4", "#a9c4f7", "#5b8be6", "#2458c5", "#163a85", "#0d2452")


def of_study(outcome: RunResult) -> dict[str, Figure]:
    """Figures by name; a name is an identifier in HTML."""
    costs = objectives.costs(outcome.config.goals)
    part = counted(outcome)
    fronts = charts.front(outcome, references(outcome.config.space))
    found = {
        f"front-{metric.name}": _dressed(figure, f"Front: {metric.title}")
        for metric, figure in zip(costs, fronts, strict=True)
    }
    if outcome.config.declaration.step:
        found["learning-curves"] = _dressed(curves(outcome), "Learning curves of all trials")
    found["cost-by-stage"] = _dressed(stages(outcome), f"Where the {part.title} of the front go")
    return found


def curves(outcome: RunResult) -> Figure:
    """The quality by step, e.g. epoch, of every trial that has some."""
    quality, step_name = objectives.quality(outcome.config.goals), outcome.config.declaration.step
    on_front = {member.trial for member in outcome.front}
    trained = [trial for trial in outcome.trials if record(trial).curve]
    points = sum(len(record(trial).curve) for trial in trained)
    step = -(-points // MOST_POINTS) or 1
    stopped = [t for t in trained if t.state == TrialState.PRUNED]
    front = [t for t in trained if t.number in on_front]
    others = [t for t in trained if t not in stopped and t not in front]
    traces = [
        _lines(group, name, colour, step, quality.name, step_name)
        for group, name, colour in (
            (stopped, "stopped at a rung", STOPPED),
            (others, "others", OTHER),
            (front, "front", FRONT),
        )
        if group
    ]
    axes = {
        "xaxis": {"title": {"text": step_name}, "dtick": 1 if _longest(trained) <= 12 else None},
        "yaxis": {"title": {"text": quality.label}},
    }
    return {"data": traces, "layout": axes}


def _longest(trials: Sequence[FrozenTrial]) -> int:
    return max((len(record(trial).curve) for trial in trials), default=0)


def _lines(
    trials: Sequence[FrozenTrial], name: str, colour: str, step: int, quality: str, word: str
) -> Figure:
    """Many curves as one trace; a gap ends each."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        curve = list(enumerate(record(trial).curve, 1))
        for at, reached in [*curve[-1::-step][::-1], (None, None)]:  # the last value always stays
            x.append(at)
            y.append(None if reached is None else round(reached[quality], 4))
            numbers.append(trial.number)
    return {
        "type": "scatter",
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2 if name == "front" else 1},
        "marker": {"size": 4},
        "opacity": 1 if name == "front" else 0.6,
        "x": x,
        "y": y,
        "customdata": numbers,
        "hovertemplate": f"trial %{{customdata}}, {word} %{{x}}: %{{y}}<extra></extra>",
    }


def counted(outcome: RunResult) -> Metric:
    """The cost that is shown by stage: of those that are sought the first that is counted so."""
    sought = objectives.costs(outcome.config.goals)
    return next((metric for metric in sought if metric in (MACS, PARAMS)), MACS)


def stages(outcome: RunResult) -> Figure:
    """MACs, or parameters where those are sought, of each member of the front by stage."""
    metric = counted(outcome)
    members = outcome.front[:MOST_BARS]
    parts = [
        {p.stage: getattr(p, metric.name) for p in cost(m.architecture).by_stage} for m in members
    ]
    names = list(dict.fromkeys(name for part in parts for name in part))
    titles = [
        f"trial {m.trial}" + (f"<br>{name}" if (name := published_name(m.architecture)) else "")
        for m in members
    ]
    traces: list[Figure] = [
        {
            "type": "bar",
            "name": name,
            "x": titles,
            "y": [part.get(name, 0) for part in parts],
            "marker": {"color": STAGES[i % len(STAGES)]},
            "hovertemplate": "%{x}: %{y:.4s} " + metric.title + "<extra>%{fullData.name}</extra>",
        }
        for i, name in enumerate(names)
    ]
    axes: dict[str, Any] = {
        "barmode": "stack",
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": metric.label}, "tickformat": "~s"},
    }
    return {"data": traces, "layout": axes}


def _dressed(figure: Figure, title: str) -> Figure:
    layout = figure["layout"]
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "automargin": True}
    return figure | {
        "layout": layout
        | {
            "title": {"text": title, "x": 0.02, "font": {"size": 16}},
            "font": {"color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 60, "r": 16, "t": 48, "b": 40},
            "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
            "showlegend": True,
            "xaxis": axis | layout["xaxis"],
            "yaxis": axis | layout["yaxis"],
        }
    }
