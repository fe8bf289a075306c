"""What a model's time is a sum of: its operators' arithmetic, traffic and calls."""

from __future__ import annotations

from sret_nas.arch import Architecture
from sret_nas.cost import shape
from sret_nas.cost.formulas import Affine, Norm, layers

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


def features(arch: Architecture, batch: int = 1) -> dict[str, float]:
    """Sums over an architecture's operators: what its time is a sum of.

    Args:
        arch: The architecture.
        batch: Images per batch.

    Returns:
        By name; ``macs/K16.N16`` are multiply-adds with the fan-in and the outputs
        rounded up to 16, ``rows48`` with the rows to 48, and so on; ``ragged``
        are slices of no multiple of 32 tokens, for which kernels are slower.
    """
    found = dict.fromkeys(NAMES, 0.0)
    found["model"] = 1.0
    for layer in layers(shape(arch)):
        if isinstance(layer, Norm) and layer.stage != "stem":
            found["norm elements"] += batch * layer.elements
        elif isinstance(layer, Affine):
            _affine(found, layer, batch)
    for stage, tokens, schedule in zip(arch.stages, arch.tokens, arch.schedules, strict=True):
        for step in schedule:
            slices, size = batch * step.groups * stage.heads, tokens // step.groups
            found["attention slices"] += slices
            found["attention rows"] += slices * size
            found["attention pairs"] += slices * size * size
            found["attention pairs/ragged"] += slices * size * size * (size % 32 > 0)
            found["attention macs/S32.D16"] += (
                2 * slices * size * _up(size, 32) * _up(stage.head_dim, 16)
            )
            found["permuted elements"] += 2 * batch * tokens * stage.dim * step.permuted
    return found


def _affine(found: dict[str, float], layer: Affine, batch: int) -> None:
    if layer.stage == "stem":
        found["stem macs"] += batch * layer.macs
    elif layer.name == "down-sampling":
        found["down-sampling elements"] += batch * layer.activations
    elif layer.uses:
        uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
        found["linear calls"] += uses
        found["linear weights"] += layer.units * k * n  # from memory
        found["linear weights read"] += uses * k * n  # from a cache, where a loop shares them
        found["linear elements"] += uses * rows * (k + n)
        found["linear macs/K16.N16"] += uses * rows * _up(k, 16) * _up(n, 16)
        found["linear macs/N128"] += uses * rows * k * _up(n, 128)
        found["linear macs/rows48"] += uses * _up(rows, 48) * k * n


def _up(number: int, tile: int) -> int:
    return -(-number // tile) * tile
