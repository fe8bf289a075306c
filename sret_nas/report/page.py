"""One self-contained HTML page of a run; it loads nothing from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
import plotly.offline
from markupsafe import Markup

from sret_nas import files
from sret_nas.cost import cost
from sret_nas.deploy.transfer import FEWEST
from sret_nas.drawing import draw
from sret_nas.evaluators.registry import PROXY, is_own
from sret_nas.report import answer, charts, commands, words
from sret_nas.report.findings import findings
from sret_nas.report.known import published_name, references
from sret_nas.report.rendering import render
from sret_nas.report.transferred import transferred
from sret_nas.runner import Member, RunResult
from sret_nas.study.records import record
from sret_nas.study.rundir import RunDir, reported

MOST_MEMBERS = 40
"""Members that are shown in full; the page says where the others are."""
LEAST_TRIALS = 10
"""Complete trials below which importances would be noise."""


def write(outcome: RunResult) -> Path:
    """Write the page of a run to its ``report.html``, and return where that is.

    Raises:
        SretNasError: the folder cannot be written, or the study not be read.
    """
    with reported(outcome.run.label):
        files.write(outcome.run.report, page(outcome))
    return outcome.run.report


def page(outcome: RunResult) -> str:
    """The page as text."""
    return render("page.html.j2", _content(outcome))


def _content(outcome: RunResult) -> dict[str, Any]:
    config = outcome.config
    known = references(config.space)
    best = outcome.recommended()
    members = outcome.front
    shown = members[:MOST_MEMBERS]
    if best is not None and best not in shown:
        shown = [*shown[:-1], best]
    hypervolume = charts.hypervolume(outcome)
    figures = [*charts.front(outcome, known), *([hypervolume] if hypervolume else [])]
    shared = findings(outcome)
    importances, why_not = _importances(outcome, shared.unseen)
    return {
        "title": str(config.space.get("name", "space")),
        "run": outcome.run.label,
        "saved": outcome.run.has_folder,
        "config": config,
        "counts": outcome.counts(),
        "best": best and _member(outcome, best),
        "use": best and commands.take_away(outcome, best.trial),
        "metrics": words.metrics_of(outcome),
        "declared": config.declaration,
        "how": words.how(outcome),
        "own": is_own(config.evaluator),
        "trained_by_proxy": config.evaluator == PROXY,
        "exactness": words.exactness(outcome),
        "data": words.data(outcome),
        "classes": words.classes(outcome),
        "stripped": any("yaxis2" in figure["layout"] for figure in figures),
        "ordered_by": _ordered_by(outcome),
        "stopped": outcome.counts()["pruned"] > 0,
        "why": best and answer.why(outcome),
        "members": [_member(outcome, member) for member in shown],
        "hidden": len(members) - len(shown),
        "front": [_row(outcome, member) for member in members],
        "front_figures": len(figures) - bool(hypervolume),
        "hypervolume": bool(hypervolume),
        "figures": figures,
        "importances": importances,
        "why_no_importances": why_not,
        "findings": shared,
        "groups": answer.groups(outcome),
        "references": known,
        "fidelity": outcome.fidelity(),
        "one_size": answer.one_size(outcome),
        "seconds": outcome.seconds(),
        "saving": outcome.saving(),
        "failures": outcome.failures(),
        "rejected": outcome.rejected(),
        "machines": outcome.machines(),
        "command": commands.search(outcome),
        "transfer": transferred(outcome),
        "measure": commands.several(outcome, FEWEST)
        if outcome.run.has_folder and len(members) >= FEWEST
        else "",
        "plotly": Markup(plotly.offline.get_plotlyjs()),  # noqa: S704 (the library's own file)
    }


def _row(outcome: RunResult, member: Member) -> dict[str, Any]:
    """A member as its figures are shown: each metric, with its spread over the seeds."""
    return {
        "trial": member.trial,
        "shown": {m.name: words.reached(outcome, member, m) for m in words.metrics_of(outcome)},
        "confirmation": member.confirmation,
        "dethroned": member.dethroned,
        "group": outcome.recommendation and outcome.recommendation.groups.get(member.trial),
    }


def _member(outcome: RunResult, member: Member) -> dict[str, Any]:
    arch = member.architecture
    (trial,) = [t for t in outcome.trials if t.number == member.trial]
    found = cost(arch)
    name = published_name(arch)
    return _row(outcome, member) | {
        "id": member.id,
        "name": name,
        "drawing": Markup(draw(arch, f"trial {member.trial}", paper=False)),  # noqa: S704 (it escapes)
        "curve": Markup(charts.curve(record(trial).curve, outcome.config.declaration)),  # noqa: S704 (likewise)
        "stages": found.by_stage,
        "macs": found.macs,
        "params": found.params,
        "yaml": arch.to_yaml(),
        "file": _file(outcome.run, member.trial),
    }


def _file(run: RunDir, trial: int) -> Path:
    """Where the architecture of a member is, or is to be put by the reader."""
    name = f"{trial:03d}.yaml"
    return run.architectures / name if run.has_folder else Path(name)


def _ordered_by(outcome: RunResult) -> str:
    """What the order of candidates is compared with."""
    title = outcome.config.declaration.quality.title
    return f"the final {title}"


def _importances(
    outcome: RunResult, unseen: Collection[str]
) -> tuple[list[tuple[str, float]], str]:
    """Share of each parameter in the quality, largest first; else why there is none.

    Args:
        outcome: The run.
        unseen: Choices of which the proxy takes values for one, so that a share may be luck.
    """
    complete = outcome.complete()
    if len(complete) < LEAST_TRIALS:
        return [], (
            f"{len(complete)} candidates were {outcome.config.declaration.finished}; "
            f"from {LEAST_TRIALS} on, importances are shown."
        )
    index = [goal.known for goal in outcome.config.goals].index(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                outcome.study, target=lambda trial: trial.values[index]
            )
    except (ValueError, RuntimeError) as error:
        return [], f"Optuna could not tell: {error}"
    shown = [(name, share) for name, share in found.items() if share > 0.004]
    return [one for one in shown if one[0] not in unseen][:12], ""
