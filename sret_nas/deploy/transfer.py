"""How far the order of a search's proxy is the order of full training: measured, not assumed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sret_nas import files
from sret_nas.runner import Member, Order, load
from sret_nas.runner.order import kendall

if TYPE_CHECKING:
    from sret_nas.deploy.train import Trained

TRANSFER = "transfer.json"
ENOUGH = 8
"""Members from which a bootstrap interval says something: with three it has no width."""
FEWEST = 3
"""Members below which there is no order to speak of."""


class TrainedMember(files.Record):
    """A member of a front that was trained in full.

    Attributes:
        trial: Its number.
        model: Its model folder, as it was asked for.
        beside: The same from the run's folder.
        proxy: What the search found of it.
        params: Parameters of the trained network.
        macs: Its multiply-adds.
        top1: Validation accuracy, 0 to 1.
        top1_low: Lower end of its 95% interval.
        top1_high: Upper end.
        loss: Validation loss.
    """

    trial: int
    model: str
    beside: str
    proxy: float
    params: int
    macs: int
    top1: float
    top1_low: float
    top1_high: float
    loss: float


class Transfer(files.Record):
    """Members of a run's front, and what they reached in full training.

    Attributes:
        schema_version: 1.
        proxy: What the search judged by: the metric's name.
        data: What they were trained on.
        members: In the order in which they were trained.
        orders: Kendall's τ of the trained losses' order with that of the proxy, of the parameters
            and of the MACs; empty for fewer than three members.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    proxy: str
    data: str
    members: tuple[TrainedMember, ...]
    orders: tuple[Order, ...] = ()

    @classmethod
    def of(cls, run: str, members: Sequence[Member], trained: Sequence[Trained]) -> Transfer:
        """Compare what a search found with what training came to.

        Args:
            run: The run's directory.
            members: Of its front.
            trained: The same, trained, in the same order.
        """
        goal = load(run).config.declaration.quality
        rows = []
        for member, one in zip(members, trained, strict=True):
            worth, cost = one.metrics["validation"], one.metrics["cost"]
            rows.append(
                TrainedMember(
                    trial=member.trial,
                    model=str(one.folder),
                    beside=Path(os.path.relpath(one.folder, run)).as_posix(),
                    proxy=member.reached(goal.name) or 0.0,
                    params=cost["params"],
                    macs=cost["macs"],
                    loss=worth["loss"],
                    **{key: worth[key] for key in ("top1", "top1_low", "top1_high")},
                )
            )
        orders: tuple[Order, ...] = ()
        if len(rows) >= FEWEST:
            losses = [row.loss for row in rows]
            by: dict[str, list[float]] = {
                goal.name: [goal.loss(row.proxy) for row in rows],
                "params": [-row.params for row in rows],
                "macs": [-row.macs for row in rows],
            }
            orders = tuple(kendall(name, values, losses, seed=0) for name, values in by.items())
        data = str(trained[0].job.data["name"])
        return cls(proxy=goal.name, data=data, members=tuple(rows), orders=orders)

    def save(self, run: str | Path) -> Path:
        """Write it into the run, where its report finds it."""
        path = Path(run) / TRANSFER
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=1)
        files.write(path, text + "\n")
        return path

    @classmethod
    def load(cls, run: str | Path) -> Transfer | None:
        """What was measured of a run, or ``None``.

        Args:
            run: The run's directory.

        Raises:
            ConfigError: its file is broken.
        """
        path = Path(run) / TRANSFER
        return files.load(cls, path) if path.exists() else None

    def __str__(self) -> str:
        if not self.orders:
            return f"{len(self.members)} members: too few to say how the proxy orders them"
        said = ", ".join(
            f"{one.by} {one.tau:+.2f}"
            + (f" ({one.low:+.2f} to {one.high:+.2f})" if len(self.members) >= ENOUGH else "")
            for one in self.orders
        )
        return (
            f"Kendall's tau with the order of validation losses in full training, "
            f"{len(self.members)} members: {said}"
        )
