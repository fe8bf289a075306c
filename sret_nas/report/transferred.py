"""What the members of a front reached in full training, in words for the run's page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from sret_nas.deploy.transfer import FEWEST, TrainedMember, Transfer
from sret_nas.errors import ConfigError
from sret_nas.report import commands
from sret_nas.runner import Order, RunResult

ENOUGH = 8
"""Members below which an order, whatever it is, says little."""
LUCK = 0.05
"""Share of random orders above which an agreement may be luck."""
NAMES = {"params": "more parameters (baseline)", "macs": "more MACs (baseline)"}


def transferred(outcome: RunResult) -> dict[str, Any] | None:
    """What the page says of the trained members; ``None`` where none were trained.

    Args:
        outcome: The run.
    """
    if not outcome.run.has_folder:
        return None
    try:
        found = Transfer.load(outcome.run.path)
    except ConfigError as error:  # the rest of the page is sound
        again = commands.several(outcome, FEWEST)
        return {"problem": str(error).splitlines()[0], "again": again}
    if found is None:
        return None
    declared = outcome.config.declaration
    metric = next((one for one in declared.metrics if one.name == found.proxy), None)
    placed = sorted(found.members, key=lambda one: one.loss)
    return {
        "problem": None,
        "data": found.data,
        "title": metric.title if metric else found.proxy,
        "members": [
            (member, metric.beside_name(member.proxy) if metric else f"{member.proxy:.4g}")
            for member in placed
        ],
        "orders": [(NAMES.get(one.by, metric.title if metric else one.by), one)
                   for one in found.orders],
        "verdict": verdict(found.members, found.orders),
    }  # fmt: skip


def verdict(members: Sequence[TrainedMember], orders: Sequence[Order]) -> list[str]:
    """How far the search's order can be trusted, in sentences.

    Args:
        members: Trained.
        orders: Of the proxy, and of what it has to beat.
    """
    if not orders:
        return [f"{len(members)} members have no order to speak of; from {FEWEST} on it is shown."]
    proxy, *bare = orders
    luck = f"an order that agrees as well comes by luck in {proxy.chance:.0%} of cases"
    if proxy.tau <= 0:
        told = ["The search did not order them as full training did"]
        told[0] += f", and {len(members)} are few." if len(members) < ENOUGH else "."
    elif proxy.chance > LUCK:
        few = f"{len(members)} members are too few to tell: " if len(members) < ENOUGH else ""
        rest = "the agreement may be luck: " if not few else ""
        told = [f"{few}{rest}{luck}."]
    else:
        told = [f"The search ordered them much as full training did: {luck}."]
    told[0] = told[0][0].upper() + told[0][1:]
    better = [
        NAMES[one.by].removesuffix(" (baseline)") for one in bare if one.tau >= max(proxy.tau, 1e-9)
    ]
    if better:
        told.append(f"By {' or '.join(better)} alone they are ordered as well or better.")
    pairs = list(combinations(members, 2))
    close = sum(a.top1_low <= b.top1_high and b.top1_low <= a.top1_high for a, b in pairs)
    if close:
        told.append(
            f"In {close} of {len(pairs)} pairs the intervals of the trained accuracy overlap: "
            "which of the two is better is not certain."
        )
    return told
