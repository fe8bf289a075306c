"""Plots of a study that Optuna's dashboard does not have, as Plotly figures in plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sret_nas.cost import cost
from sret_nas.report import charts
from sret_nas.report.charts import FRONT, OTHER, STOPPED, Figure
from sret_nas.report.known import published_name, references
from sret_nas.search import Outcome
from sret_nas.search.objectives import TITLES

MOST_BARS = 24
MOST_POINTS = 6_000
"""Of all learning curves together; longer ones are thinned."""
INK, GRID = "#808a99", "rgba(128,138,153,.25)"
"""They read on the dashboard's white and on its dark ground."""
STAGES = ("#8c95a4", "#a9c4f7", "#5b8be6", "#2458c5", "#163a85", "#0d2452")


def of_study(outcome: Outcome) -> dict[str, Figure]:
    """Figures by name; a name is an identifier in HTML."""
    costs = [goal.name for goal in outcome.config.goals if not goal.trained] or ["macs"]
    fronts = charts.front(outcome, references())
    found = {
        f"front-{name}": _dressed(figure, f"Front: quality and {TITLES[name]}")
        for name, figure in zip(costs, fronts, strict=True)
    }
    found["learning-curves"] = _dressed(curves(outcome), "Learning curves of all trials")
    found["cost-by-stage"] = _dressed(stages(outcome), "Where the MACs of the front go")
    return found


def curves(outcome: Outcome) -> Figure:
    """Validation loss by epoch of every trial that was trained."""
    on_front = {member.trial for member in outcome.front}
    trained = [trial for trial in outcome.trials if trial.user_attrs.get("curve")]
    points = sum(len(trial.user_attrs["curve"]) for trial in trained)
    step = -(-points // MOST_POINTS) or 1
    stopped = [t for t in trained if t.state == TrialState.PRUNED]
    front = [t for t in trained if t.number in on_front]
    others = [t for t in trained if t not in stopped and t not in front]
    traces = [
        _lines(group, name, colour, step)
        for group, name, colour in (
            (stopped, "stopped at a rung", STOPPED),
            (others, "others", OTHER),
            (front, "front", FRONT),
        )
        if group
    ]
    axes = {
        "xaxis": {"title": {"text": "epoch"}, "dtick": 1 if _longest(trained) <= 12 else None},
        "yaxis": {"title": {"text": TITLES["val_loss"]}},
    }
    return {"data": traces, "layout": axes}


def _longest(trials: Sequence[FrozenTrial]) -> int:
    return max((len(trial.user_attrs["curve"]) for trial in trials), default=0)


def _lines(trials: Sequence[FrozenTrial], name: str, colour: str, step: int) -> Figure:
    """Many curves as one trace; a gap ends each."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        curve = trial.user_attrs["curve"]
        for epoch in [*curve[-1::-step][::-1], None]:  # the last value always stays
            x.append(epoch and epoch["epoch"])
            y.append(epoch and round(epoch["val_loss"], 4))
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
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y}<extra></extra>",
    }


def stages(outcome: Outcome) -> Figure:
    """MACs of each member of the front by stage, cheapest first."""
    members = outcome.front[:MOST_BARS]
    parts = [{p.stage: p.macs for p in cost(m.architecture).by_stage} for m in members]
    names = list(dict.fromkeys(name for part in parts for name in part))
    titles = [
        f"trial {m.trial}" + (f"<br>{name}" if (name := published_name(m.id)) else "")
        for m in members
    ]
    traces: list[Figure] = [
        {
            "type": "bar",
            "name": name,
            "x": titles,
            "y": [part.get(name, 0) for part in parts],
            "marker": {"color": STAGES[i % len(STAGES)]},
            "hovertemplate": "%{x}: %{y:.4s} MACs<extra>%{fullData.name}</extra>",
        }
        for i, name in enumerate(names)
    ]
    axes: dict[str, Any] = {
        "barmode": "stack",
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": TITLES["macs"]}, "tickformat": "~s"},
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
