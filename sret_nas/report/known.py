"""Costs of well-known models, to set a result beside; their accuracy is on other data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.cost import cost


@dataclass(frozen=True)
class Reference:
    """A model that people know.

    Attributes:
        name: As timm or the zoo calls it.
        macs: Multiply-adds at 224 px.
        params: Parameters.
        source: Where the figures come from.
        id: Of its architecture, where it is an SReT.
    """

    name: str
    macs: float
    params: float
    source: str
    id: str | None = None


def published_name(arch: Architecture) -> str | None:
    """The published SReT that an architecture is, whatever its classes and channels."""
    known = _published(arch.num_classes, arch.in_chans)
    return next((name for name, other in known.items() if other.id == arch.id), None)


@functools.cache
def _published(num_classes: int, in_chans: int) -> dict[str, Architecture]:
    return {
        name: arch.at(num_classes=num_classes, in_chans=in_chans)
        for name, arch in zoo.PUBLISHED.items()
    }


CARD = "timm's model card"
TIMM = (
    Reference("deit_tiny_patch16_224", 1.3e9, 5.7e6, CARD),
    Reference("deit_small_patch16_224", 4.6e9, 22.1e6, CARD),
    Reference("pit_ti_distilled_224", 0.7e9, 5.1e6, CARD),
    Reference("pit_s_distilled_224", 2.9e9, 24.0e6, CARD),
)
"""As the model cards of timm on Hugging Face state them, rounded as there; GMACs at 224 px."""


def references(space: Mapping[str, Any]) -> list[Reference]:
    """The published SReT with the classes of a space, and baselines of timm, cheapest first.

    Args:
        space: The space file; where it has a choice of classes or channels, 1000 and 3.
    """
    head = {"num_classes": 1000, "in_chans": 3}
    head |= {key: space[key] for key in head if isinstance(space.get(key), int)}
    published = [
        Reference(name, cost(arch).macs, cost(arch).params, "exact, by formula", arch.id)
        for name, arch in _published(**head).items()
    ]
    return sorted([*published, *TIMM], key=lambda reference: reference.macs)
