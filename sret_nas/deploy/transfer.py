"""How far the order of a search's proxy is the order of full training: measured, not assumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sret_nas import files
from sret_nas.runner import Member, Order, load
from sret_nas.runner.order import kendall

if TYPE_CHECKING:
    from sret_nas.deploy.train import Trained

TRANSFER = "transfer.json"
FEWEST = 3
"""Members below which there is no order to speak of."""


@dataclass(frozen=True)
class Transfer:
    """Members of a run's front, and what they reached in full training.

    Attributes:
        proxy: What the search judged by: the metric's name.
        rows: Trial, folder, what the proxy found, validation accuracy and loss when trained.
        orders: Kendall's τ of the trained order with that of the proxy, of the parameters and of
            the MACs; empty for fewer than three members.
    """

    proxy: str
    rows: tuple[dict[str, Any], ...]
    orders: tuple[Order, ...]

    @classmethod
    def of(cls, run: str, members: Sequence[Member], trained: Sequence[Trained]) -> Transfer:
        """Compare what a search found with what training came to.

        Args:
            run: The run's directory.
            members: Of its front.
            trained: The same, trained, in the same order.
        """
        goal = load(run).config.declaration.quality
        rows = tuple(
            {
                "trial": member.trial,
                "model": str(one.folder),
                goal.name: member.reached(goal.name),
                "params": one.metrics["cost"]["params"],
                "macs": one.metrics["cost"]["macs"],
                "trained_top1": one.metrics["validation"]["top1"],
                "trained_loss": one.metrics["validation"]["loss"],
            }
            for member, one in zip(members, trained, strict=True)
        )
        orders: tuple[Order, ...] = ()
        if len(rows) >= FEWEST:
            losses = [row["trained_loss"] for row in rows]
            by = {
                goal.name: [goal.loss(row[goal.name]) for row in rows],
                "params": [-row["params"] for row in rows],
                "macs": [-row["macs"] for row in rows],
            }
            orders = tuple(kendall(name, values, losses, seed=0) for name, values in by.items())
        return cls(goal.name, rows, orders)

    def save(self, run: str) -> Path:
        """Write it into the run, where its report finds it."""
        path = Path(run) / TRANSFER
        files.write(path, json.dumps({"schema": 1, **asdict(self)}, indent=1) + "\n")
        return path

    def __str__(self) -> str:
        if not self.orders:
            return f"{len(self.rows)} members: too few to say how the proxy orders them"
        said = ", ".join(
            f"{one.by} {one.tau:+.2f} ({one.low:+.2f} to {one.high:+.2f})" for one in self.orders
        )
        return f"Kendall's tau with the order of full training: {said}"
