"""What a model's time on a CPU is a sum of: its operators' arithmetic, traffic and calls.

``macs/K16.N16`` are multiply-adds with the fan-in and the outputs rounded up to 16, ``rows48``
with the rows to 48, and so on; ``ragged`` are slices of no multiple of 32 tokens, for which
kernels are slower.
"""

from __future__ import annotations

from sret_nas.cost.formulas import Affine, Layer, Norm
from sret_nas.latency.sums import Slices, add_linear, round_up

NAMES = (
    "model",
    "stem macs",
    "down-sampling elements",
    "linear calls",
    "linear weights",
    "linear weights read",
    "linear elements",
    "linear macs/K16.N16",
    "linear macs/N128",
    "linear macs/rows48",
    "norm elements",
    "attention slices",
    "attention rows",
    "attention pairs",
    "attention pairs/ragged",
    "attention macs/S32.D16",
    "permuted elements",
)


def add_layer(found: dict[str, float], layer: Layer, batch: int) -> None:
    """Add the terms of one kind of layer, for a batch of so many images."""
    if isinstance(layer, Norm) and layer.stage != "stem":
        found["norm elements"] += batch * layer.elements
    elif isinstance(layer, Affine):
        _affine(found, layer, batch)


def add_slices(found: dict[str, float], one: Slices, batch: int) -> None:
    """Add the terms of one application of self-attention, for a batch of so many images."""
    rows = one.number * one.size
    padded = round_up(one.size, 32) * round_up(one.stage.head_dim, 16)
    found["attention slices"] += one.number
    found["attention rows"] += rows
    found["attention pairs"] += rows * one.size
    found["attention pairs/ragged"] += rows * one.size * (one.size % 32 > 0)
    found["attention macs/S32.D16"] += 2 * rows * padded
    found["permuted elements"] += 2 * batch * one.tokens * one.stage.dim * one.step.permuted


def _affine(found: dict[str, float], layer: Affine, batch: int) -> None:
    if layer.stage == "stem":
        found["stem macs"] += batch * layer.macs
    elif layer.name == "down-sampling":
        found["down-sampling elements"] += batch * layer.activations
    elif layer.uses:
        add_linear(found, layer, batch)
        uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
        found["linear macs/K16.N16"] += uses * rows * round_up(k, 16) * round_up(n, 16)
        found["linear macs/N128"] += uses * rows * k * round_up(n, 128)
        found["linear macs/rows48"] += uses * round_up(rows, 48) * k * n
