"""What a model's time on a GPU is a sum of: its kernels, what they move and what they multiply.

A small kernel takes a fixed time, whatever it does; a larger one the time of its bytes or of
its products, and a product of few tiles the time of one tile's sum. Which of them counts goes
by the batch and the device, so all are terms, and the fit says what each costs.

``macs/M64.N64`` are multiply-adds with rows and outputs rounded up to 64, a ``tile`` of attention
is 128 queries of a slice and head, ``depth`` is what a tile adds up one after the other: fan-in, or
keys in a slice. ``ragged`` is no multiple of 8, which kernels for half precision pad or do more
slowly. What goes element by element (GELU, residuals) comes with the linear layer before it.
"""

from __future__ import annotations

from sret_nas.cost.formulas import Affine, Attention, Layer, Norm
from sret_nas.latency.sums import Slices, add_linear, round_up

NAMES = (
    "model",
    "stem macs",
    "stem elements",
    "down-sampling calls",
    "down-sampling elements",
    "norm calls",
    "norm elements",
    "linear calls",
    "linear weights",
    "linear weights read",
    "linear elements",
    "linear macs/M64.N64",
    "linear macs/M128.N128",
    "linear macs/K ragged",
    "linear macs/N ragged",
    "linear depth",
    "attention calls",
    "attention tiles",
    "attention elements",
    "attention calls/ragged",
    "attention elements/ragged",
    "attention macs/S64.D16",
    "attention depth",
    "permuted calls",
    "permuted elements",
)


def add_layer(found: dict[str, float], layer: Layer, batch: int) -> None:
    """Add the terms of one kind of layer, for a batch of so many images."""
    if isinstance(layer, Affine):
        _affine(found, layer, batch)
    elif isinstance(layer, Norm) and layer.stage != "stem":
        found["norm calls"] += layer.uses
        found["norm elements"] += batch * layer.elements
    elif isinstance(layer, Attention):
        elements = 4 * batch * layer.uses * layer.tokens * layer.dim
        ragged = layer.dim // layer.heads % 8 > 0
        found["attention calls"] += layer.uses
        found["attention elements"] += elements
        found["attention calls/ragged"] += layer.uses * ragged
        found["attention elements/ragged"] += elements * ragged


def add_slices(found: dict[str, float], one: Slices, batch: int) -> None:
    """Add the terms of one application of self-attention, for a batch of so many images."""
    padded = round_up(one.size, 64)
    found["attention tiles"] += one.number * round_up(one.size, 128) // 128
    found["attention macs/S64.D16"] += 2 * one.number * padded**2 * round_up(one.stage.head_dim, 16)
    found["attention depth"] += padded
    found["permuted calls"] += 2 * one.step.permuted
    found["permuted elements"] += 4 * batch * one.tokens * one.stage.dim * one.step.permuted


def _affine(found: dict[str, float], layer: Affine, batch: int) -> None:
    if layer.stage == "stem":
        found["stem macs"] += batch * layer.macs
        found["stem elements"] += batch * layer.activations
    elif layer.name == "down-sampling":
        found["down-sampling calls"] += layer.uses
        found["down-sampling elements"] += batch * layer.activations
    elif layer.uses:
        add_linear(found, layer, batch)
        uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
        found["linear macs/M64.N64"] += uses * round_up(rows, 64) * k * round_up(n, 64)
        found["linear macs/M128.N128"] += uses * round_up(rows, 128) * k * round_up(n, 128)
        found["linear macs/K ragged"] += uses * rows * k * n * (k % 8 > 0)
        found["linear macs/N ragged"] += uses * rows * k * n * (n % 8 > 0)
        found["linear depth"] += uses * k
