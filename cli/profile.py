"""``sret-nas profile``: what architectures cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas import files, zoo
from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, SretNasError, UsageError
from sret_nas.units import format_count, format_quantity

from .output import (
    Column,
    Format,
    FormatOption,
    JsonOption,
    emit,
    error,
    note,
    print_table,
    say,
    status,
)
from .where import DeviceOption, DtypeOption, ModeOption, RuntimeOption, ThreadsOption, alone

if TYPE_CHECKING:
    from sret_nas.latency import Latency
    from sret_nas.profile import Profile


class By(StrEnum):
    """What a breakdown goes by."""

    stage = "stage"
    layer = "layer"


def _presets(incomplete: str) -> list[str]:
    return [name for name in zoo.PRESETS if name.startswith(incomplete)]


def profile(
    archs: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCH...",
            help="Preset, YAML or JSON file, RUN#N for a trial of a run, model folder, .onnx file, "
            "or any timm model.",
            autocompletion=_presets,
        ),
    ],
    by: Annotated[By | None, typer.Option("--by", help="Break the cost down.")] = None,
    counters: Annotated[
        bool, typer.Option("--counters", help="What every counter says, side by side.")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure the latency here.")
    ] = True,
    batch: Annotated[str, typer.Option(help="Batch sizes, e.g. 1,8,64.")] = "1",
    dtype: DtypeOption = None,
    mode: ModeOption = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", metavar="FILE.svg", help="Draw one architecture.")
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """What architectures cost: parameters, MACs, memory, latency; side by side.

    1 MAC is one multiply-add, what the vision literature calls a FLOP.
    """
    from sret_nas.device import choose
    from sret_nas.profile import Measurement
    from sret_nas.profile import profile as run

    form = Format.json if as_json else form
    if draw is not None:
        _draw(archs, draw)
    measurement = choice = None
    if latency:
        batches, choice = _batches(batch), choose(device)
        measurement = Measurement(batches, dtype, choice.name, mode, threads, runtime=runtime)
    with status() as progress, ExitStack() as held:
        if choice is not None:
            held.enter_context(alone(choice.name))
        profiles = run(
            list(dict.fromkeys(archs)),
            counters=counters,
            measurement=measurement,
            resolve=_architecture,
            progress=progress,
        )
    if choice is not None:
        note(f"device  {choice}")
    if form is Format.json:
        documents = [one.to_dict(by is By.layer) for one in profiles]
        emit([], [], form, documents[0] if len(documents) == 1 else documents)
    elif by is not None and form is Format.csv:
        emit(_parts(profiles, by), _part_columns(by), form)
    elif counters and form is Format.csv:
        emit(_counts(profiles), COUNTER_COLUMNS, form)
    else:
        left_out = emit(_rows(profiles), COLUMNS, form)
        if form is Format.table:
            _details(profiles, by, counters)
            _circumstances(profiles, left_out)
    _failures(profiles)


def _architecture(name: str) -> Architecture:
    """What ``Architecture.load`` finds; a search space in its place is named as such."""
    try:
        return Architecture.load(name)
    except ArchitectureError as error:
        from sret_nas.space import is_space

        if not is_space(name):
            raise
        raise UsageError(
            f"{name}: a search space, not an architecture",
            f"sret-nas spaces check {name}; sret-nas spaces sample {name} -n 1 --format yaml "
            "draws an architecture",
        ) from error


def _draw(archs: Sequence[str], path: Path) -> None:
    """Write the picture of the one architecture that is asked for."""
    from sret_nas.report import draw

    if len(archs) != 1 or path.suffix != ".svg":
        raise UsageError(
            f"--draw: given {len(archs)} architecture(s) and '{path}'; allowed: one, and FILE.svg",
            "e.g. sret-nas profile sret_t --draw sret_t.svg",
        )
    try:
        files.write(path, draw(_architecture(archs[0]), archs[0]))
    except OSError as problem:
        raise UsageError(f"--draw: {path} cannot be written: {problem.strerror}") from problem
    note(f"drawing {path}")


def _batches(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--batch: given '{text}'; allowed: whole numbers with commas", "e.g. --batch 1,8,64"
        ) from None


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"


COLUMNS = [
    Column("name", "architecture", left=True),
    Column("params", "params", format_count),
    Column("macs", "MACs", format_count),
    Column("depth", "depth", rank=1),
    Column("activations", "activations", format_count, rank=5),
    Column("peak_bytes", "memory", lambda v: format_quantity("peak_bytes", v), rank=3),
    Column("batch", "batch", rank=2),
    Column("runtime", "runtime", rank=12, left=True),
    Column("mode", "mode", rank=10, left=True),
    Column("dtype", "dtype", rank=11, left=True),
    Column("latency_ms", "ms", _milliseconds),
    Column("p95_ms", "p95 ms", _milliseconds, rank=6),
    Column("images_per_s", "images/s", lambda v: f"{v:,.0f}", rank=4),
    Column("least_ms", "least ms", _milliseconds, rank=7),
    Column("share", "reached", _percent, rank=8),
    Column("id", "id", rank=9, left=True),
]


def _rows(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    rows = []
    for one in profiles:
        base: dict[str, Any] = {
            "name": one.name,
            "id": one.arch and one.arch.id,
            "params": one.params,
            "macs": one.macs,
            "depth": one.cost and one.cost.depth,
            "activations": one.cost and one.cost.activations,
            "peak_bytes": one.cost and one.cost.peak_bytes,
        }
        for measured in one.measured:
            bound, found = measured.bound, measured.latency
            rows.append(
                base
                | {
                    "batch": found.batch,
                    "runtime": found.runtime,
                    "mode": found.mode,
                    "dtype": found.dtype,
                    "peak_bytes": _peak(one, found),
                    "latency_ms": found.median_ms,
                    "p95_ms": found.p95_ms,
                    "images_per_s": found.images_per_s,
                    "least_ms": bound and bound.least_ms,
                    "share": bound and bound.share,
                }
            )
        if not one.measured:
            rows.append(base)
    return rows


def _peak(one: Profile, found: Latency) -> int | None:
    """Peak memory at this batch and dtype: what budgets hold; measured for a timm model."""
    if one.cost is None or found.dtype == "int8":
        return found.peak_bytes
    return one.cost.inference_bytes(found.batch, 4 if found.dtype == "fp32" else 2)


def _part_columns(by: By) -> list[Column]:
    shares = [
        Column("params_share", "of params", _percent, rank=1),
        Column("macs_share", "of MACs", _percent, rank=1),
        Column("time_share", "of time", _percent, rank=1),
    ]
    return [
        Column("name", "architecture", rank=4, left=True),
        Column("stage", "stage", left=True),
        *([Column("layer", "layer", left=True)] if by is By.layer else []),
        *([Column("depth", "depth", rank=2)] if by is By.stage else []),
        *([Column("units", "unique"), Column("uses", "uses")] if by is By.layer else []),
        Column("params", "params", format_count),
        *shares[:1],
        Column("macs", "MACs", format_count),
        *shares[1 : 3 if by is By.stage else 2],
        Column("activations", "activations", format_count, rank=3),
    ]


def _parts(profiles: Sequence[Profile], by: By) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in profiles:
        data = one.to_dict(by_layer=True)
        for row in data[f"by_{by}"] or []:
            shares = {
                "params_share": row["params"] / one.params if one.params else None,
                "macs_share": row["macs"] / one.macs if one.macs else None,
            }
            rows.append({"name": one.name} | shares | row)
    return rows


COUNTER_COLUMNS = [
    Column("name", "architecture", left=True),
    Column("counter", "counter", left=True),
    Column("value", "number", lambda value: f"{value:,}"),
    Column("unit", "unit", left=True),
    Column("note", "note", rank=1, long=True),
    Column("convention", "convention", rank=2, long=True),
]


def _counts(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in profiles:
        if one.cost:
            about = {"unit": "MACs", "convention": "by formula", "note": "what budgets count"}
            rows.append({"name": one.name, "counter": "sret_nas", "value": one.macs} | about)
        for name, count in one.counters.items():
            data = count.to_dict()
            rows.append({"name": one.name, "counter": name, "value": count.value} | data)
    return rows


def _details(profiles: Sequence[Profile], by: By | None, counters: bool) -> None:
    by = by or (By.stage if len(profiles) == 1 and profiles[0].cost else None)
    if by is not None:
        for one in profiles:
            parts = [row | {"stage": f"├ {row['stage']}"} for row in _parts([one], by)]
            if parts:
                parts[-1]["stage"] = parts[-1]["stage"].replace("├", "└")
                say()
                print_table(parts, _part_columns(by)[1:], title=one.name)
    if counters:
        for one in profiles:
            say()
            print_table(
                _counts([one]),
                COUNTER_COLUMNS[1:],
                title=f"{one.name}: 1 MAC is 1 multiply-add, and 2 FLOPs of those that say FLOPs",
            )


def _circumstances(profiles: Sequence[Profile], left_out: Sequence[str]) -> None:
    """What the measurements depend on."""
    measured = [m.latency for one in profiles for m in one.measured]
    if measured:
        exact = ", TF32 off" if measured[0].device != "cpu" else ""
        ways = {(one.dtype, one.mode, one.runtime): one for one in measured}
        say()
        for one in ways.values():
            say(f"{one.dtype}{exact}, {one.mode}, on {one.fingerprint}")
        off = max(found.difference or 0.0 for found in measured)
        say(f"outputs compared with those of eager fp32: at most {off:.2g} of their norm apart")
        for found in measured:
            if found.compile_s is not None:
                what = f"{found.name}, batch {found.batch}"
                done = "compiled" if found.mode == "compile" else "exported and loaded"
                say(f"{what}: {done} in {found.compile_s:.0f} s, before it was timed")
        if "least ms" not in left_out:
            say("least: what the arithmetic and the bytes need at this device's measured rates")


def _failures(profiles: Sequence[Profile]) -> None:
    """Say what could not be measured, once everything else is printed."""
    worst: SretNasError | None = None
    told: set[str] = set()
    for one in profiles:
        if one.time_note:
            note(f"note: {one.name}: time by stage left out: {one.time_note}")
        for measured in one.measured:
            for said in (measured.latency.note, measured.bound and measured.bound.note):
                if said:
                    note(f"note: {one.name}: {said}")
        for failure in one.failures:
            if worst is None or failure.exit_code > worst.exit_code:
                worst = failure
            if str(failure) not in told:
                told.add(str(failure))
                error(str(failure), failure.hint)
    if worst is not None:
        raise typer.Exit(worst.exit_code)
