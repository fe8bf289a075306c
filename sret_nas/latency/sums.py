"""What the terms of a CPU and of a GPU share: which layers and slices there are to add up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sret_nas.arch import Application, Architecture, Stage
from sret_nas.cost.formulas import Affine


class Slices(NamedTuple):
    """The slices of one application of self-attention to a batch.

    Attributes:
        step: The application.
        stage: Its stage.
        tokens: Tokens of one image.
        number: How many slices there are, of all images and heads.
        size: Tokens in each.
    """

    step: Application
    stage: Stage
    tokens: int
    number: int
    size: int


def slices(arch: Architecture, batch: int) -> Iterator[Slices]:
    """All applications of self-attention, in order."""
    for stage, tokens, schedule in zip(arch.stages, arch.tokens, arch.schedules, strict=True):
        for step in schedule:
            number = batch * step.groups * stage.heads
            yield Slices(step, stage, tokens, number, tokens // step.groups)


def add_linear(found: dict[str, float], layer: Affine, batch: int) -> None:
    """Add the calls, weights and elements of a linear layer to the terms of those names."""
    uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
    found["linear calls"] += uses
    found["linear weights"] += layer.units * k * n  # from memory
    found["linear weights read"] += uses * k * n  # from a cache, where a loop shares them
    found["linear elements"] += uses * rows * (k + n)


def round_up(number: int, tile: int) -> int:
    """The least multiple of ``tile`` that is not below a number."""
    return -(-number // tile) * tile
