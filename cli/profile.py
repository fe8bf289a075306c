"""``sret-nas profile``: what architectures cost."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Column, Format, FormatOption, JsonOption, emit


def profile(
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="Preset or file.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """What one or several architectures cost."""
