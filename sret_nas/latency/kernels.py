"""What a model's time on a GPU is a sum of: its kernels, what they move and what they multiply.

A small kernel takes a fixed time, whatever it does; a larger one the time of its bytes or of
its products, and a product of few tiles the time of one tile's sum. Which of them counts goes
by the batch and the device, so all are terms, and the fit says what each costs.
"""

from __future__ import annotations

from sret_nas.arch import Architecture
from sret_nas.cost import shape
from sret_nas.cost.formulas import Affine, Attention, Norm, layers

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


def features(arch: Architecture, batch: int = 1) -> dict[str, float]:
    """Sums over the kernels of an architecture: what its time on a GPU is a sum of.

    Args:
        arch: The architecture.
        batch: Images per batch.

    Returns:
        By name; ``macs/M64.N64`` are multiply-adds with rows and outputs rounded up to 64, a
        ``tile`` of attention is 128 queries of a slice and head, ``depth`` is what a tile adds
        up one after the other: fan-in, or keys in a slice. ``ragged`` is no multiple of 8, which
        kernels for half precision pad or do more slowly. What goes element by element (GELU,
        residuals) comes with the linear layer before it.
    """
    found = dict.fromkeys(NAMES, 0.0)
    found["model"] = 1.0
    for layer in layers(shape(arch)):
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
    for stage, tokens, schedule in zip(arch.stages, arch.tokens, arch.schedules, strict=True):
        for step in schedule:
            slices, size = batch * step.groups * stage.heads, tokens // step.groups
            padded = _up(size, 64)
            found["attention tiles"] += slices * _up(size, 128) // 128
            found["attention macs/S64.D16"] += 2 * slices * padded**2 * _up(stage.head_dim, 16)
            found["attention depth"] += padded
            found["permuted calls"] += 2 * step.permuted
            found["permuted elements"] += 4 * batch * tokens * stage.dim * step.permuted
    return found


def _affine(found: dict[str, float], layer: Affine, batch: int) -> None:
    if layer.stage == "stem":
        found["stem macs"] += batch * layer.macs
        found["stem elements"] += batch * layer.activations
    elif layer.name == "down-sampling":
        found["down-sampling calls"] += layer.uses
        found["down-sampling elements"] += batch * layer.activations
    elif layer.uses:
        uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
        found["linear calls"] += uses
        found["linear weights"] += layer.units * k * n  # from memory
        found["linear weights read"] += uses * k * n  # from a cache, where a loop shares them
        found["linear elements"] += uses * rows * (k + n)
        found["linear macs/M64.N64"] += uses * _up(rows, 64) * k * _up(n, 64)
        found["linear macs/M128.N128"] += uses * _up(rows, 128) * k * _up(n, 128)
        found["linear macs/K ragged"] += uses * rows * k * n * (k % 8 > 0)
        found["linear macs/N ragged"] += uses * rows * k * n * (n % 8 > 0)
        found["linear depth"] += uses * k


def _up(number: int, tile: int) -> int:
    return -(-number // tile) * tile
