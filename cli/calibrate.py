"""``sret-nas calibrate``: a latency predictor for this device."""

from __future__ import annotations

from typing import Annotated

import typer

from sret_nas.latency.default import TORCH

from .output import Column, Format, FormatOption, JsonOption, emit, note, status
from .where import (
    CodeOption,
    DeviceOption,
    DtypeOption,
    ModeOption,
    RuntimeOption,
    ThreadsOption,
    alone,
    choose_device,
    space_of,
)


def calibrate(
    space: Annotated[
        str, typer.Argument(metavar="[SPACE]", help="Space to predict in: a name or a YAML path.")
    ] = "sret",
    number: Annotated[
        int,
        typer.Option(
            "-n", "--number", min=20, max=1000, help="Architectures to fit on; 20 to 50 do."
        ),
    ] = 40,
    holdout: Annotated[
        int, typer.Option(min=0, max=1000, help="Other architectures, to judge the predictor on.")
    ] = 40,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 1,
    dtype: DtypeOption = None,
    mode: ModeOption = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Which architectures are drawn.")] = 0,
    allow_code: CodeOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """Fit a latency predictor to measured architectures, and keep it for this device.

    Budgets such as 2ms use it from then on, its error as the margin. On a busy machine, wait.
    """
    from sret_nas import latency

    form = Format.json if as_json else form
    drawn = space_of(space, allow_code)
    device = choose_device(device)
    archs = drawn.sample(number + holdout, seed=seed)
    with status() as progress, alone(device):
        found = latency.calibrate(
            archs[:number],
            archs[number:],
            batch=batch,
            dtype=dtype,
            device=device,
            mode=mode,
            threads=threads,
            runtime=runtime,
            space=drawn.name,
            progress=progress,
        )
    predictor, held_out = found.predictor, found.held_out
    path = predictor.save()
    runs = "" if predictor.runtime == TORCH else f" of {predictor.runtime}"
    rows = held_out.rows() if held_out else []
    document = {
        "schema": 1,
        "path": str(path),
        "seconds": found.seconds,
        "predictor": predictor.model_dump(mode="json", by_alias=True),
        "held_out": held_out and held_out.to_dict(),
        "skipped": found.skipped,
    }
    if rows or form is not Format.table:
        emit(rows, COLUMNS, form, document)
    for line in found.skipped:
        note(f"note: skipped: {line}")
    if held_out:
        note(
            f"measured again, everything took {held_out.drift:.3f} times as long; "
            f"the margin held {held_out.covered:.0%} of the others, "
            f"{held_out.warned} of them outside the calibrated range"
        )
    note(
        f"{predictor.architectures} architectures of '{predictor.space}' in {found.seconds:.0f} s; "
        f"margin ±{predictor.margin:.1%}; {predictor.dtype}, {predictor.mode}{runs}, batch "
        f"{predictor.batch}, on {predictor.fingerprint}"
    )
    note(f"kept in {path}")


COLUMNS = [
    Column("method", "on other architectures", long=True),
    Column("architectures", "compared", rank=1),
    Column("within_5", "within ±5%", lambda value: f"{value:.1%}"),
    Column("within_10", "within ±10%", lambda value: f"{value:.1%}"),
    Column("median_error", "median error", lambda value: f"{value:.1%}"),
    Column("kendall_tau", "Kendall τ", lambda value: f"{value:.3f}"),
]
