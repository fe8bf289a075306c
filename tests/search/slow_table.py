"""Workers for Ray's processes, which import this by its name: a table that takes a while."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import UsageError
from sret_nas.evaluate import TableEvaluator
from sret_nas.search import RunConfig, RunDir
from sret_nas.search.crew import Stop
from sret_nas.search.placement import Seat
from sret_nas.search.trials import owner
from sret_nas.search.work import Worker
from sret_nas.training import EpochResult

EPOCH_S = 0.05


class SlowTable(TableEvaluator):
    """Trains nothing, for a while, and notes what it began."""

    def __init__(self, rungs: tuple[int, ...], seat: Seat, log: Path) -> None:
        super().__init__(rungs, self.epochs)  # type: ignore[arg-type]
        self.seat = seat
        self.log = log

    def epochs(self, arch: Architecture, seed: int) -> Iterator[EpochResult]:
        """One after the other, each after its time."""
        note = {
            "id": arch.id,
            "seed": seed,
            "pid": os.getpid(),
            "machine": ray.get_runtime_context().get_node_id(),
            "device": self.seat.device,
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(note) + "\n")
        for epoch in range(1, self.rungs[-1] + 1):
            time.sleep(EPOCH_S)
            loss = 3 - 0.1 * cost(arch).macs ** 0.2
            yield EpochResult(epoch, loss, loss, 1 / (1 + loss), EPOCH_S, 64)


def make(run: RunDir, config: RunConfig, stop: Stop, seat: Seat, quiet: bool) -> Worker:
    """The real worker over the table; its data are refused where the source says so."""
    if config.data["source"] == "other":
        raise UsageError("data 'other' are not those that the run was begun with")
    log = Path(config.data["source"])
    return Worker(
        run=run,
        config=config,
        study=run.study(quiet=quiet),
        space=config.search_space(),
        evaluator=SlowTable(config.proxy.rungs, seat, log),
        fits=lambda _: None,
        stop=stop,
        seat=seat,
        until=stop.deadline,
    )


def notes(log: Path) -> list[dict[str, Any]]:
    """What the workers began."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


def lose(study: optuna.Study, pids: set[int], log: Path) -> set[str]:
    """Kill processes that train something for the search; without it, let them go on.

    Returns:
        Ids of what they trained. They are halted while that is looked at.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    begun = {note["id"] for note in notes(log)}
    found = {
        trial.user_attrs["id"]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if (who := owner(trial)) and who.pid in pids and trial.user_attrs.get("id") in begun
    }
    for pid in pids:
        os.kill(pid, signal.SIGKILL if found else signal.SIGCONT)
    return found
