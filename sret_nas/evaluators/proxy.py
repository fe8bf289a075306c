"""Short trainings: what a search evaluates candidates by unless told otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from sret_nas.arch import Architecture
from sret_nas.data import DataSet
from sret_nas.device import resolve
from sret_nas.evaluate import Evaluation, Evaluator, Progress, Report, Work
from sret_nas.metrics import Declaration
from sret_nas.proxy import Proxy
from sret_nas.training import EpochResult, Trainer
from sret_nas.training.checkpoints import latest, save

MEASURED_STEPS = 10


def progress(result: EpochResult) -> Progress:
    """An epoch as a step of an evaluation."""
    found = {
        "train_loss": result.train_loss,
        "val_loss": result.val_loss,
        "val_accuracy": result.val_accuracy,
    }
    return Progress(result.epoch, found, result.seconds, result.images)


def follow(epochs: Iterable[EpochResult], report: Report | None) -> tuple[Progress, ...]:
    """The curve of a training that is reported epoch by epoch, as far as it goes on."""
    curve: list[Progress] = []
    for result in epochs:
        curve.append(progress(result))
        if report is not None and not report(curve[-1]):
            break
    return tuple(curve)


def evaluation(
    curve: tuple[Progress, ...], declared: Declaration, why_eager: str | None = None
) -> Evaluation:
    """Sum up a curve of at least one epoch: what the last of them reached."""
    last = curve[-1].metrics
    return Evaluation(
        metrics={metric.name: last[metric.name] for metric in declared.metrics},
        seconds=sum(one.seconds for one in curve),
        curve=curve,
        why_eager=why_eager,
    )


class ProxyEvaluator(Evaluator):
    """Trains what a proxy makes of an architecture.

    Args:
        proxy: At what scale and for how long.
        data: Loaded with ``**proxy.load_options()``.
        device: Where; default the first GPU that can be used, else the CPU.
    """

    def __init__(self, proxy: Proxy, data: DataSet, device: torch.device | None = None) -> None:
        self.proxy = proxy
        self.data = data
        self.device = device or resolve()

    @property
    def declaration(self) -> Declaration:
        """Validation loss and accuracy, at the proxy's rungs."""
        return self.proxy.declaration

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Train at the proxy's scale.

        Raises:
            ArchitectureError: the design does not exist at that scale.
            TrainingError: it cannot be trained.
        """
        return self._run(arch, seed, report)[1]

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Train at the proxy's scale, on from the epoch after which this was ended.

        Raises:
            ArchitectureError: the design does not exist at that scale.
            TrainingError: it cannot be trained.
            OSError: the state cannot be read or written.
        """
        if type(self).evaluate is not ProxyEvaluator.evaluate:  # a subclass evaluates otherwise
            return super().resume(arch, folder, seed=seed, report=report)
        trainer = self._trainer(arch, seed)
        done: list[EpochResult] = []
        state = latest(folder)
        if state is not None:
            trainer.load_state_dict(state["trainer"])
            done = [EpochResult(**one) for one in state["curve"]]

        def epochs() -> Iterator[EpochResult]:
            yield from [replace(one, seconds=0.0, images=0) for one in done]
            for result in trainer.epochs():
                done.append(result)
                yield result

        curve = follow(epochs(), report)
        if curve[-1].step < self.declaration.full:
            whole = {"trainer": trainer.state_dict(), "curve": [asdict(one) for one in done]}
            save(whole, folder, curve[-1].step)
        return evaluation(curve, self.declaration, trainer.why_eager)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Train at the proxy's scale; at the end the test images, if there are any."""
        trainer, found = self._run(arch, seed, report)
        if found.step < self.declaration.full or not self.data.has_test:
            return found
        images = self.data.at(self.fits(arch).image_size)
        loss, accuracy = trainer.validate(images.test())
        return replace(found, tests={"test_loss": loss, "test_accuracy": accuracy})

    def fits(self, arch: Architecture) -> Architecture:
        """The architecture as it is trained.

        Raises:
            ArchitectureError: the design does not exist at the proxy's scale.
        """
        return self.proxy.apply(arch, self.data)

    def work(self, arch: Architecture) -> Work:
        """Training images, validation among them, and how many are trained on in a second."""
        images = self.proxy.images(self.proxy.epochs, self.data)
        return Work(images, "training images", self.images_per_second(arch))

    def images_per_second(self, arch: Architecture) -> float:
        """Measured speed of training in this process, in training images."""
        trainer = self._trainer(arch, 0, self.proxy.batch * (MEASURED_STEPS + 1))
        while not trainer.settled:
            trainer.train_epoch()
        start = time.perf_counter()
        _, images = trainer.train_epoch()
        return images / (time.perf_counter() - start)

    def _run(
        self, arch: Architecture, seed: int, report: Report | None
    ) -> tuple[Trainer, Evaluation]:
        trainer = self._trainer(arch, seed)
        curve = follow(trainer.epochs(), report)
        return trainer, evaluation(curve, self.declaration, trainer.why_eager)

    def _trainer(self, arch: Architecture, seed: int, most: int | None = None) -> Trainer:
        """The training of an architecture, on so many of the images at most."""
        arch = self.fits(arch)
        data, recipe = self.data.at(arch.image_size), self.proxy.suited(arch.image_size)
        if most is not None:
            data = replace(data, train=data.train.first(most))
        return Trainer(arch, data, recipe, seed=seed, device=self.device)
