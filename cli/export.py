"""``sret-nas export``: a model as a file of another runtime, which has run there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas.errors import UsageError
from sret_nas.units import format_quantity

from .output import Column, Format, FormatOption, JsonOption, emit, note, print_table, say, status
from .where import ThreadsOption, alone

if TYPE_CHECKING:
    from sret_nas.deploy.exported import Exported
    from sret_nas.deploy.exporting import Exporter, Wanted
    from sret_nas.deploy.opening import Opened

SCHEMA = 1
IMAGES, IMAGES_OF_INT8 = 128, 1000
POINT = 0.01
"""Loss of accuracy above which it is said first."""


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model folder, checkpoint with --arch, or any timm model.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", help="onnx, torch, executorch, openvino or coreml."),
    ] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers: several ways, the best is kept.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to run the file on, and to calibrate int8 with; default those that the "
            "model was trained on, else demo.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Default: in the model folder, else here.", show_default=False
        ),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            min=4,
            max=4096,
            help="Side of the images in px; a file each.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_536, help="A fixed batch; default any number.", show_default=False
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX operators; default 20.", show_default=False)
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help=f"Most validation images; default {IMAGES}, with --int8 {IMAGES_OF_INT8}.",
            show_default=False,
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture of a checkpoint that does not say it.")
    ] = None,
    threads: ThreadsOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """A file for another runtime, run there and compared on real images.

    A file that does not run, or computes something else, is not kept.
    """
    form = Format.json if as_json else form
    from sret_nas.deploy import export as work
    from sret_nas.deploy.about import own_data
    from sret_nas.deploy.exporting import Wanted
    from sret_nas.deploy.opening import open_model
    from sret_nas.deploy.sample import take
    from sret_nas.report.commands import line

    if int8 and fp16:
        raise UsageError("given --int8 and --fp16; allowed: one of the two")
    exporter = work.find_exporter(to)
    if data is None:
        data = own_data(model)
        if data is not None:
            note(f"images  {data}, which it was trained on")
    data = data or "demo"
    made: list[Exported] = []
    with status() as progress:
        progress(f"loading {model}")
        opened = open_model(model, arch=arch, device="cpu")
        for said in opened.notes:
            note(f"note: {said}")
        sides = list(dict.fromkeys(size or [opened.side]))
        many = images or (IMAGES_OF_INT8 if int8 else IMAGES)
        for side in sides:
            wanted = Wanted(
                side=side,
                in_chans=opened.in_chans,
                dtype="fp16" if fp16 else "fp32",
                batch=batch,
                opset=opset,
                classes=opened.classes,
                preprocessing=opened.preprocessing,
            )
            work.check(exporter, opened, wanted, int8)
            path = _path(out, model, opened, exporter, wanted, int8, len(sides) > 1)
            calibration = work.CALIBRATION if int8 else 0
            sample = take(opened, data, side, many, calibration, progress)
            for said in sample.notes:
                note(f"note: {said}")
            with alone("cpu"):
                found = work.export(
                    opened,
                    exporter,
                    path,
                    sample,
                    wanted,
                    int8=int8,
                    threads=threads,
                    tell=progress,
                )
            made.append(found)
    if opened.kind == "folder":
        _note(Path(model.removeprefix("local-dir:")), made)
    _show(made, opened, form)
    if exporter.name == "onnx":
        note(f"next    {line(['sret-nas', 'evaluate', made[0].path, '--data', data])}")


def _note(folder: Path, made: list[Exported]) -> None:
    """Note in a model folder that has metrics how fast its files are."""
    from sret_nas.deploy.card import write_card
    from sret_nas.deploy.metrics_file import METRICS, Timed, note_latency
    from sret_nas.device import fingerprint, resolve

    timed = [
        Timed(
            runtime=one.after.runtime.split()[0],
            dtype=one.after.dtype,
            batch=one.wanted.batch or 1,
            device=str(fingerprint(resolve("cpu"), one.threads)),
            median_ms=one.after.latency_ms,
            p95_ms=one.after.p95_ms,
            file=one.path.name,
        )
        for one in made
        if one.path.parent.resolve() == folder.resolve()
        and one.after.latency_ms is not None
        and one.after.p95_ms is not None
    ]
    if timed and (folder / METRICS).is_file():
        note_latency(folder, timed)
        write_card(folder)


def _path(
    out: Path | None,
    model: str,
    opened: Opened,
    exporter: Exporter,
    wanted: Wanted,
    int8: bool,
    several: bool,
) -> Path:
    """Where the file goes; of several, each says its size.

    Raises:
        UsageError: the name does not end as such files do, or its folder is not there.
    """
    marks = [str(wanted.side)] if several else []
    if out is None:
        kind = "int8" if int8 else wanted.dtype
        marks += [] if kind == "fp32" else [kind]
        base = "model" if opened.kind == "folder" else Path(opened.name).stem
        folder = Path(model.removeprefix("local-dir:")) if opened.kind == "folder" else Path()
        return folder / ("-".join([base.replace("/", "-"), *marks]) + exporter.suffix)
    if out.suffix != exporter.suffix:
        raise UsageError(
            f"--out: given {out}; allowed with --to {exporter.name}: *{exporter.suffix}"
        )
    if not out.parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}", f"mkdir -p {out.parent}")
    return out.with_stem("-".join([out.stem, *marks]))


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _ms(value: float) -> str:
    return f"{value:.3g}"


def _size(value: int) -> str:
    return format_quantity("peak_bytes", value)


COLUMNS = [
    Column("file", "file", left=True),
    Column("dtype", "dtype", left=True),
    Column("size_bytes", "size", _size),
    Column("difference", "difference", "{:.2g}".format, rank=1),
    Column("equal_predictions", "equal", _percent),
    Column("top1_before", "top-1 before", _percent, rank=2),
    Column("top1_after", "after", _percent, rank=2),
    Column("latency_before_ms", "ms before", _ms, rank=3),
    Column("latency_after_ms", "after", _ms, rank=3),
]
WAYS = [
    Column("name", "way to int8", left=True),
    Column("size_bytes", "size", _size),
    Column("difference", "difference", "{:.2g}".format, rank=1),
    Column("equal_predictions", "equal", _percent),
    Column("top1", "top-1", _percent),
    Column("latency_ms", "ms", _ms),
    Column("error", "error", left=True, long=True, rank=2),
]


def _show(made: list[Exported], opened: Opened, form: Format) -> None:
    from sret_nas.device import fingerprint, resolve

    device = str(fingerprint(resolve("cpu"), made[0].threads))
    rows: list[dict[str, Any]] = [one.to_dict(opened.name, device) for one in made]
    for one in made:
        if one.lost is not None and one.lost > POINT:
            first = (
                f"{100 * one.lost:.1f} points of top-1 lost: {one.before.top1:.2%} in "
                f"{one.before.dtype}, {one.after.top1:.2%} in {one.after.dtype}, on "
                f"{one.images:,} validation images"
            )
            (say if form is Format.table else note)(first)
    emit(
        rows,
        COLUMNS,
        form,
        {"schema": SCHEMA, "files": rows} if len(rows) > 1 else {"schema": SCHEMA, **rows[0]},
    )
    if form is not Format.table:
        return
    for one in made:
        if one.candidates:
            say()
            ways = [
                way.to_dict() | {"name": f"{way.name}{' *' * (way.name == one.chosen)}"}
                for way in one.candidates
            ]
            ways = [
                way if not way["error"] else {k: way[k] for k in ("name", "error")} for way in ways
            ]
            print_table(ways, WAYS)
    say()
    for one in made:
        if one.not_run is not None:
            say(f"not run: {one.not_run}; compare {one.path} there before it is used")
        if one.after.latency_ms and one.before.latency_ms:
            if one.after.dtype != one.before.dtype and one.after.latency_ms > one.before.latency_ms:
                say(f"{one.after.dtype} is not faster than {one.before.dtype} here")
            say(
                f"before: {one.before.runtime}, {one.before.dtype}; after: {one.after.runtime}, "
                f"{one.after.dtype}; batch {one.wanted.batch or 1}, on {device}"
            )
