"""Who may train what, where several propose the same: claims instead of a lock.

Optuna's storages have no compare-and-set that every one of them offers, so a proposal
is a claim: a worker

1. writes its claim (the architecture's id on its trial),
2. reads all claims of the same thing by others that stand, and asks ``verdict``:
   ``lost``: it drops its own; ``wait``: it reads again a little later; ``won``:
3. it writes that its claim is confirmed, and trains.

Ranks are unique and totally ordered (the trial's number). A claim that was dropped, or
closed because its worker is gone, does not stand.

**Never two.** Suppose A and B, A of the lower rank, both confirm, and both stand. A
storage answers a read with every write that was completed before, and each wrote its
claim before its deciding read. Had A's claim been complete before B's deciding read
began, B would have seen a claim of lower rank: ``lost``. So B's deciding read began
earlier, and B's claim was complete earlier still; then all reads of A saw B's claim, and
answered ``lost`` or ``wait``, never ``won``. Contradiction.

**Never stuck.** One waits for higher ranks only, so the highest undecided claim never
waits: no circle. A worker that dies undecided is closed after its heartbeat fell silent.

**Never none.** The lowest of the undecided is told ``lost`` only where another has
confirmed; so of several that live on, one wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["won", "lost", "wait"]


@dataclass(frozen=True)
class Claim:
    """Another's claim of the same thing.

    Attributes:
        rank: Its place in a total order; no two are equal.
        confirmed: Whether its worker was told that it won.
    """

    rank: Any
    confirmed: bool


def verdict(own: Any, others: Iterable[Claim]) -> Verdict:
    """What becomes of a claim, from one reading of all others of the same thing that stand.

    Args:
        own: The rank of the claim.
        others: The other claims.

    Returns:
        ``won``: confirm it, and train. ``lost``: drop it. ``wait``: read them again.
    """
    others = list(others)
    if any(other.confirmed or other.rank < own for other in others):
        return "lost"
    return "wait" if others else "won"
