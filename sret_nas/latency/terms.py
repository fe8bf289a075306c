"""Which terms a device's time is a sum of: operators on a CPU, kernels on a GPU."""

from __future__ import annotations

from sret_nas.arch import Architecture
from sret_nas.cost import shape
from sret_nas.cost.formulas import layers
from sret_nas.latency import kernels, operators
from sret_nas.latency.sums import slices


def names(device: str) -> tuple[str, ...]:
    """The terms of a device, in order.

    Args:
        device: ``cpu`` or ``cuda:N``.
    """
    return operators.NAMES if device == "cpu" else kernels.NAMES


def features(arch: Architecture, batch: int = 1, device: str = "cpu") -> dict[str, float]:
    """The value of every term: what the time of an architecture is a sum of.

    Args:
        arch: The architecture.
        batch: Images per batch.
        device: ``cpu`` or ``cuda:N``.

    Returns:
        By name, in the order of ``names``; ``operators`` and ``kernels`` say what they mean.
    """
    terms = operators if device == "cpu" else kernels
    found = dict.fromkeys(terms.NAMES, 0.0)
    found["model"] = 1.0
    for layer in layers(shape(arch)):
        terms.add_layer(found, layer, batch)
    for one in slices(arch, batch):
        terms.add_slices(found, one, batch)
    return found
