"""Workers for Ray's processes, which import this by its name: a table that takes a while."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import UsageError
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.runner.executors.base import Stop
from sret_nas.runner.slots import Slot
from sret_nas.runner.worker import Worker
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir
from sret_nas.training import EpochResult

EPOCH_S = 0.05
FEW = 3
HELD_S = 120.0
"""Longer than any test takes to kill it."""


class SlowTable(TableEvaluator):
    """Trains nothing, for a while, and notes what it began."""

    def __init__(self, rungs: tuple[int, ...], slot: Slot, log: Path) -> None:
        super().__init__(rungs, self.epochs)  # type: ignore[arg-type]
        self.slot = slot
        self.log = log

    def epochs(self, arch: Architecture, seed: int) -> Iterator[EpochResult]:
        """One after the other, each after its time."""
        note = {
            "id": arch.id,
            "seed": seed,
            "pid": os.getpid(),
            "machine": ray.get_runtime_context().get_node_id(),
            "device": self.slot.device,
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(note) + "\n")
        if _is_held(self.log, note):
            time.sleep(HELD_S)
        for epoch in range(1, self.declaration.full + 1):
            time.sleep(EPOCH_S)
            loss = 3 - 0.1 * cost(arch).macs ** 0.2
            yield EpochResult(epoch, loss, loss, 1 / (1 + loss), EPOCH_S, 64)


def make(run: RunDir, config: RunConfig, stop: Stop, slot: Slot, quiet: bool) -> Worker:
    """The real worker over the table; its data are refused where the source says so."""
    if config.data["source"] == "other":
        raise UsageError("data 'other' are not those that the run was begun with")
    log = Path(config.data["source"])
    return Worker(
        run=run,
        config=config,
        study=run.study(quiet=quiet),
        space=config.search_space(),
        evaluator=SlowTable(config.proxy.rungs, slot, log),
        stop=stop,
        slot=slot,
        until=stop.deadline,
    )


def notes(log: Path) -> list[dict[str, Any]]:
    """What the workers began."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


def hold(log: Path, machine: str = "") -> None:
    """Have the next training, once a few have begun, never end; on a machine, if one is named."""
    log.with_suffix(".hold").write_text(machine)


def held(log: Path) -> dict[str, Any] | None:
    """The note of the training that was held, once there is one."""
    file = log.with_suffix(".held")
    return json.loads(file.read_text()) if file.exists() else None


def _is_held(log: Path, note: dict[str, Any]) -> bool:
    """Whether this training is the one; of several that ask, one is."""
    if len(notes(log)) <= FEW:
        return False
    mine = log.with_suffix(f".{os.getpid()}")
    try:
        if log.with_suffix(".hold").read_text() not in ("", note["machine"]):
            return False
        log.with_suffix(".hold").rename(mine)
    except FileNotFoundError:
        return False
    mine.write_text(json.dumps(note))
    mine.rename(log.with_suffix(".held"))
    return True
