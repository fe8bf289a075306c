"""Notes of a dashboard in Markdown: what a trial is, what it costs, what it reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import Cost, cost
from sret_nas.metrics import LATENCY, MACS, MEMORY, PARAMS, Declaration
from sret_nas.report import answer, commands, words
from sret_nas.report.known import published_name
from sret_nas.runner import Confirmation, Member, RunResult
from sret_nas.study.records import record
from sret_nas.units import Budget, format_count

LAST_STEPS = 4
"""The last values of the curve that a note shows."""
STATES = {
    TrialState.PRUNED: "Stopped at a rung, behind others of its cost",
    TrialState.FAIL: "Failed",
}


def of_trial(
    outcome: RunResult, trial: FrozenTrial, member: Member | None = None, picture: str = ""
) -> str:
    """The note of a finished trial that has an architecture.

    Args:
        outcome: The run.
        trial: One of its trials.
        member: The same as a member of the front, where it is one.
        picture: Address of its drawing.
    """
    arch = record(trial).architecture
    metrics = dict(member.metrics) if member else record(trial).metrics
    data, out = outcome.config.data["source"], commands.model(outcome, trial.number)
    train = ["sret-nas", "train", f"RUN#{trial.number}", "--data", data, "--out", out]
    parts = [
        _reached(outcome, trial, metrics, member.confirmation if member else None),
        _costs(arch, cost(arch), metrics, outcome.config.budgets),
        _stages(arch, cost(arch)),
        _curve(record(trial).curve, outcome.config.declaration),
        f"{_code(f'sret-nas profile RUN#{trial.number}')} tells more; "
        f"{_code(commands.line(train))} trains it in full. RUN is the run's folder.",
        picture and f"![the architecture]({picture})",
    ]
    return "\n\n".join(part for part in parts if part)


def of_study(outcome: RunResult) -> str:
    """The note of the study: the answer so far, and where the whole story is."""
    config, counts = outcome.config, outcome.counts()
    best = outcome.recommended()
    lines = [
        f"### {_text(config.space.get('name', 'space'))}"
        + (f" under {', '.join(map(str, config.budgets))}" if config.budgets else ""),
        f"{counts['complete']} candidates {config.declaration.finished}, {counts['pruned']} "
        "stopped early, "
        f"{counts['failed']} failed; {_count(len(outcome.front), 'member')} of the front.",
    ]
    if best is not None:
        seeds = best.confirmation.seeds if best.confirmation else 1
        told = ", ".join(
            f"{metric.title} {words.reached(outcome, best, metric)}"
            for metric in words.metrics_of(outcome)
        )
        lines.append(f"**Recommended: trial {best.trial}**, {told}; {_count(seeds, 'seed')}.")
        lines.append(_text(" ".join(answer.chosen(outcome))))
    lines.append(f"{_text(words.how(outcome))} {words.exactness(outcome)}")
    lines.append("The whole story: `sret-nas report RUN`, or `report.html` in the run's folder.")
    return "\n\n".join(lines)


def _reached(
    outcome: RunResult, trial: FrozenTrial, metrics: dict[str, Any], seeds: Confirmation | None
) -> str:
    declared = outcome.config.declaration
    finished = declared.finished[0].upper() + declared.finished[1:]
    first = f"**{STATES.get(trial.state, finished)}**"
    if trial.state == TrialState.FAIL:
        why = record(trial).interrupted or record(trial).reason or "unknown"
        error = str(record(trial).error)
        return f"{first}: {_text(why)}" + (f"\n\n```\n{error}\n```" if error else "")
    steps = f", {_count(len(record(trial).curve), declared.step)}" if declared.step else ""
    found = [f"{metric.title} {metric.show(metrics[metric.name])}" for metric in declared.metrics]
    words = f"{first}{steps}: {', '.join(found)}."
    if record(trial).eager:
        words += f"\n\nTrained without CUDA graphs: {_text(record(trial).eager)}."
    if seeds is not None:
        words += f"\n\n**Confirmed** over {seeds.seeds} seeds: " + ", ".join(
            f"{metric.title} {metric.show(mean)}"
            + (f" ± {metric.show(seeds.std[metric.name] or 0.0)}" if i == 0 else "")
            for i, metric in enumerate((*declared.metrics, *declared.tests))
            if (mean := seeds.mean[metric.name]) is not None
        )
        words += "." + "".join(f" Failed: {_text(reason)}." for reason in seeds.failed)
    return words


def _costs(
    arch: Architecture, found: Cost, metrics: dict[str, Any], budgets: Sequence[Budget]
) -> str:
    name = published_name(arch)
    lines = [f"`{arch.id}`" + (f", the published **{name}**" if name else "")]
    for metric in (MACS, PARAMS, MEMORY, LATENCY):
        value = metrics.get(metric.name)
        if value is None:
            continue
        exact = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        bound = next((b for b in budgets if b.metric == metric.name), None)
        share = f", {value / bound.limit:.0%} of the budget of {bound}" if bound else ""
        lines.append(f"* {metric.label}: **{exact}**{share}")
    return "\n".join([lines[0], "", *lines[1:]])


def _stages(arch: Architecture, found: Cost) -> str:
    rows = []
    costs = {part.stage: part for part in found.by_stage}
    for i, (stage, side) in enumerate(zip(arch.stages, arch.sides, strict=True)):
        part = costs[f"stage {i + 1}"]
        again = stage.recursions > 1
        rows.append(
            (
                str(i + 1),
                f"{side} × {side}",
                str(stage.dim),
                str(stage.heads),
                str(stage.blocks),
                str(stage.recursions),
                stage.order if again else "–",
                stage.share if again else "–",
                ", ".join(map(str, stage.groups)),
                format_count(part.macs),
                format_count(part.params),
            )
        )
    titles = (
        "stage", "tokens", "channels", "heads", "blocks", "loops", "order", "loops share",
        "slices by loop", "MACs", "params",
    )  # fmt: skip
    return f"Depth {arch.depth}, by stage:\n\n{_table(titles, rows)}"


def _curve(steps: Sequence[dict[str, Any]], declared: Declaration) -> str:
    shown = (*declared.progress, *declared.metrics)
    rows = [
        (str(step[declared.step]), *(metric.show(step[metric.name]) for metric in shown))
        for step in steps[-LAST_STEPS:]
    ]
    titles = (declared.step, *(metric.title for metric in shown))
    return f"Learning curve, last values:\n\n{_table(titles, rows)}" if rows else ""


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with numbers at the right; the dashboard sets columns close, so they bring room."""
    lines = [[f"&emsp;{title}" for title in titles], ["--:"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: str) -> str:
    """Text in Markdown as it is, whatever signs it has."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("s" if number != 1 else "")


def _text(value: object) -> str:
    """Text from outside as Markdown shows it, character by character."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-!|~&" else c for c in str(value))
