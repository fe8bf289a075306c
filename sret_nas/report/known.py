"""Costs of well-known models, to set a result beside; their accuracy is on other data."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from sret_nas import zoo
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


def published_name(arch_id: str) -> str | None:
    """The published SReT with this identity, if there is one."""
    return _published().get(arch_id)


@functools.cache
def _published() -> dict[str, str]:
    return {arch.id: name for name, arch in zoo.PUBLISHED.items()}


CARD = "timm's model card"
TIMM = (
    Reference("deit_tiny_patch16_224", 1.3e9, 5.7e6, CARD),
    Reference("deit_small_patch16_224", 4.6e9, 22.1e6, CARD),
    Reference("pit_ti_distilled_224", 0.7e9, 5.1e6, CARD),
    Reference("pit_s_distilled_224", 2.9e9, 24.0e6, CARD),
)
"""As the model cards of timm on Hugging Face state them, rounded as there; GMACs at 224 px."""


def references() -> list[Reference]:
    """The published SReT and the baselines of timm, cheapest first."""
    published = [
        Reference(name, cost(arch).macs, cost(arch).params, "exact, by formula", arch.id)
        for name, arch in zoo.PUBLISHED.items()
    ]
    return sorted([*published, *TIMM], key=lambda reference: reference.macs)
