"""Which terms a device's time is a sum of: operators on a CPU, kernels on a GPU."""

from __future__ import annotations

from sret_nas.arch import Architecture
from sret_nas.latency import kernels, operators


def names(device: str) -> tuple[str, ...]:
    """The terms of a device, in order.

    Args:
        device: ``cpu`` or ``cuda:N``.
    """
    return operators.NAMES if device == "cpu" else kernels.NAMES


def features(arch: Architecture, batch: int = 1, device: str = "cpu") -> dict[str, float]:
    """The value of every term, by name.

    Args:
        arch: The architecture.
        batch: Images per batch.
        device: ``cpu`` or ``cuda:N``.
    """
    if device == "cpu":
        return operators.features(arch, batch)
    return kernels.features(arch, batch)
