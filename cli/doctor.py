"""``sret-nas doctor``: what this machine has, and what is missing."""

from __future__ import annotations

from .output import Column, Format, FormatOption, JsonOption, emit


def doctor(form: FormatOption = Format.table, as_json: JsonOption = False) -> None:
    """What this machine has: versions, devices, threads, bf16, storage; what is missing."""
    from sret_nas.doctor import findings

    rows = [finding._asdict() for finding in findings()]
    columns = [
        Column("what", "what", left=True),
        Column("found", "found", long=True),
        Column("state", "state", left=True),
        Column("next_step", "next step", long=True, rank=1),
    ]
    emit(rows, columns, Format.json if as_json else form)
