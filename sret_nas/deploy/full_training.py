"""A full training from its beginning, or from where it was interrupted, to a model folder.

What lies in the folder while it goes on: ``training.yaml`` (what was asked for),
``checkpoints/`` (the last two states), ``summary.csv`` (a line an epoch).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from sret_nas.deploy.summary import Epoch, write_summary
from sret_nas.runner.lease import lease
from sret_nas.training import checkpoints
from sret_nas.training.full import FullTrainer

CHECKPOINTS = "checkpoints"
EVERY_S = 600.0
"""Seconds between two states amid an epoch."""


@dataclass(frozen=True)
class Moment:
    """Where a training is, for whoever watches.

    Attributes:
        epoch: Being gone through, from 1.
        epochs: Of the whole training.
        step: Done of this epoch.
        steps: Of an epoch.
        images_per_second: Since the epoch was begun or gone on with.
        seconds_left: Of the whole training, estimated from its epochs here; ``None`` at first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    seconds_left: float | None


@dataclass
class Watch:
    """Whom a training tells.

    Attributes:
        moment: Told after each step.
        epoch: Told after each epoch.
        say: Told a line that matters.
        detail: Told how far what takes seconds is.
    """

    moment: Callable[[Moment], None] = lambda _: None
    epoch: Callable[[Epoch], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    detail: Callable[[str], None] = lambda _: None


@dataclass
class Progress:
    """What a training has come to: part of its state.

    Attributes:
        rows: An entry an epoch.
        best: Epoch whose weights validated best; 0 before the first.
        weights: Those weights, on the CPU.
        seconds: Spent in all.
    """

    rows: list[Epoch] = field(default_factory=list)
    best: int = 0
    weights: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, row: Epoch, weights: Mapping[str, torch.Tensor]) -> None:
        """Note an epoch; keep its weights if none validated better.

        Args:
            row: The epoch.
            weights: Of the network that was validated.
        """
        before = self.rows[self.best - 1] if self.best else None
        self.rows.append(row)
        rank = (row.val_accuracy, -row.val_loss)
        if before is None or rank > (before.val_accuracy, -before.val_loss):
            self.best = row.epoch
            self.weights = {key: value.detach().cpu().clone() for key, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        rows = [asdict(row) for row in self.rows]
        return {
            "rows": rows,
            "best": self.best,
            "weights": self.weights,
            "seconds": self.seconds,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Of ``state_dict``."""
        return cls(**{**state, "rows": [Epoch(**row) for row in state["rows"]]})


def run(trainer: FullTrainer, folder: Path, watch: Watch) -> Progress:
    """Train to the end; from the last state in the folder, where there is one.

    Of several processes that train together, the first one writes.

    Ctrl-C and SIGTERM end the step at work and write a state; twice, they stop at once.

    Args:
        trainer: At its beginning.
        folder: Of the model.
        watch: Told how it goes.

    Raises:
        KeyboardInterrupt: as asked; a state is written.
        TrainingError: it cannot be trained.
        OSError: a state cannot be written; the one before it is there.
    """
    processes = trainer.processes
    states = folder / CHECKPOINTS
    found = checkpoints.latest(states, watch.say)
    progress = Progress()
    if found is not None:
        trainer.load_state_dict(found["trainer"])
        progress = Progress.from_state(found["progress"])
        amid = f", step {trainer.done} of {trainer.feed.steps}" if trainer.done else ""
        done = trainer.epoch - bool(trainer.done)
        watch.say(f"going on after epoch {done} of {trainer.recipe.epochs}{amid}")
    clock = _Clock(progress.seconds)

    def keep() -> None:
        progress.seconds = clock.seconds
        if processes.first:
            state = {"trainer": trainer.state_dict(), "progress": progress.state_dict()}
            checkpoints.save(state, states, trainer.step)
            write_summary(folder, progress.rows)
        clock.kept = time.monotonic()

    with _stopping() as asked:
        while trainer.epoch - bool(trainer.done) < trainer.recipe.epochs:
            clock.begin(trainer)

            def after() -> None:
                watch.moment(clock.moment(trainer))
                if asked():
                    keep()
                    raise KeyboardInterrupt
                if time.monotonic() - clock.kept > EVERY_S:
                    keep()

            with lease(trainer.device).computing(watch.say):
                train_loss, _ = trainer.train_epoch(after)
                rate = clock.images_per_second(trainer.feed.steps, trainer.feed.batch)
                val_loss, val_accuracy = trainer.validate(trainer.val_split)
            row = Epoch(
                trainer.epoch,
                train_loss,
                val_loss,
                val_accuracy,
                float(trainer.rates_T[-1]),
                rate * processes.count,
                clock.since_begun,
            )
            progress.add(row, trainer.judged.state_dict())
            keep()
            watch.epoch(row)
            if asked():
                raise KeyboardInterrupt
    return progress


class _Clock:
    """Time of a training over its interruptions."""

    def __init__(self, before: float) -> None:
        self.before = before
        self.start = self.begun = self.kept = time.monotonic()
        self.first = 0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    @property
    def since_begun(self) -> float:
        return time.monotonic() - self.begun

    def begin(self, trainer: FullTrainer) -> None:
        self.begun, self.first = time.monotonic(), trainer.done
        self.epochs_before = trainer.epoch - bool(trainer.done)

    def images_per_second(self, done: int, batch: int) -> float:
        return (done - self.first) * batch / max(1e-9, self.since_begun)

    def moment(self, trainer: FullTrainer) -> Moment:
        steps, epochs = trainer.feed.steps, trainer.recipe.epochs
        done = trainer.done
        left = None
        if done > self.first:
            a_step = self.since_begun / (done - self.first)
            left = a_step * (steps * (epochs - self.epochs_before) - done)
        return Moment(
            trainer.epoch,
            epochs,
            done,
            steps,
            self.images_per_second(done, trainer.feed.batch) * trainer.processes.count,
            left,
        )


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is only noted, so that a step ends; the second stops."""
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
