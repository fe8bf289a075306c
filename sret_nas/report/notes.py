"""Notes of a dashboard in Markdown: what a trial is, what it costs, what it reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import Cost, cost
from sret_nas.report import words
from sret_nas.report.known import published_name
from sret_nas.runner import Confirmation, Member, RunResult
from sret_nas.study.objectives import TITLES
from sret_nas.study.records import record
from sret_nas.units import Budget, format_count

LAST_EPOCHS = 4
"""The last values of the curve that a note shows."""
STATES = {
    TrialState.COMPLETE: "Trained to the end",
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
    parts = [
        _reached(trial, metrics, member.confirmation if member else None),
        _costs(arch, cost(arch), metrics, outcome.config.budgets),
        _stages(arch, cost(arch)),
        _curve(record(trial).curve),
        f"`sret-nas profile RUN#{trial.number}` tells more, with the run's folder for RUN.",
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
        f"{counts['complete']} candidates trained to the end, {counts['pruned']} stopped early, "
        f"{counts['failed']} failed; {_count(len(outcome.front), 'member')} of the front.",
    ]
    if best is not None:
        seeds = best.confirmation.seeds if best.confirmation else 1
        told = ", ".join(
            f"{words.NAMES[name]} {words.reached(outcome, best, name)}"
            for name in words.metrics_of(outcome)
        )
        lines.append(f"**Recommended: trial {best.trial}**, {told}; {_count(seeds, 'seed')}.")
    lines.append(
        f"Trained by the proxy: {config.proxy.epochs} epochs at {config.proxy.image_size} px on "
        f"{_text(words.data(outcome))}. They order architectures; they do not promise what a "
        f"full training reaches. {words.exactness(outcome)}"
    )
    lines.append("The whole story: `sret-nas report RUN`, or `report.html` in the run's folder.")
    return "\n\n".join(lines)


def _reached(trial: FrozenTrial, metrics: dict[str, Any], seeds: Confirmation | None) -> str:
    epochs = len(record(trial).curve)
    first = f"**{STATES.get(trial.state, trial.state.name)}**"
    if trial.state == TrialState.FAIL:
        why = record(trial).interrupted or record(trial).reason or "unknown"
        error = str(record(trial).error)
        return f"{first}: {_text(why)}" + (f"\n\n```\n{error}\n```" if error else "")
    words = f"{first}, {_count(epochs, 'epoch')}: "
    words += f"validation loss {metrics['val_loss']:.4f}, accuracy {metrics['val_accuracy']:.1%}."
    if record(trial).eager:
        words += f"\n\nTrained without CUDA graphs: {_text(record(trial).eager)}."
    if seeds is not None:
        words += (
            f"\n\n**Confirmed** over {seeds.seeds} seeds: validation loss {seeds.val_loss:.4f} "
            f"± {seeds.val_loss_std:.4f}, accuracy {seeds.val_accuracy:.1%}"
        )
        if seeds.test_accuracy is not None:
            words += f", test accuracy {seeds.test_accuracy:.1%}"
        words += "." + "".join(f" Failed: {_text(reason)}." for reason in seeds.failed)
    return words


def _costs(
    arch: Architecture, found: Cost, metrics: dict[str, Any], budgets: Sequence[Budget]
) -> str:
    name = published_name(arch)
    lines = [f"`{arch.id}`" + (f", the published **{name}**" if name else "")]
    for metric in ("macs", "params", "peak_bytes", "latency_ms"):
        value = metrics.get(metric)
        if value is None:
            continue
        exact = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        bound = next((b for b in budgets if b.metric == metric), None)
        share = f", {value / bound.limit:.0%} of the budget of {bound}" if bound else ""
        lines.append(f"* {TITLES[metric]}: **{exact}**{share}")
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


def _curve(epochs: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            str(e["epoch"]),
            f"{e['train_loss']:.4f}",
            f"{e['val_loss']:.4f}",
            f"{e['val_accuracy']:.1%}",
        )
        for e in epochs[-LAST_EPOCHS:]
    ]
    titles = ("epoch", "training loss", "validation loss", "accuracy")
    return f"Learning curve, last values:\n\n{_table(titles, rows)}" if rows else ""


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with numbers at the right; the dashboard sets columns close, so they bring room."""
    lines = [[f"&emsp;{title}" for title in titles], ["--:"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("s" if number != 1 else "")


def _text(value: object) -> str:
    """Text from outside as Markdown shows it, character by character."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-!|~&" else c for c in str(value))
