"""From an architecture to its metrics: the interface, and who satisfies it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from sret_nas.arch import Architecture
from sret_nas.data import DataSet
from sret_nas.device import resolve
from sret_nas.proxy import Proxy
from sret_nas.training import EpochResult, Trainer

Report = Callable[[EpochResult], bool]
"""Called after each epoch; ``False`` ends the training there."""

MEASURED_STEPS = 10


@dataclass(frozen=True)
class Metrics:
    """What a training came to.

    Attributes:
        epochs: Epochs done.
        val_loss: After the last of them; what candidates are ranked by.
        val_accuracy: Likewise, 0 to 1.
        train_loss: Likewise.
        seconds: Wall time of all epochs.
        images: Training images seen.
        curve: Every epoch.
        why_eager: Why training ran one operation at a time on a device where whole steps
            can be recorded; ``None`` where they were, and on other devices.
        test_loss: ``None`` unless confirmed, and where there are no test images.
        test_accuracy: Likewise.
    """

    epochs: int
    val_loss: float
    val_accuracy: float
    train_loss: float
    seconds: float
    images: int
    curve: tuple[EpochResult, ...]
    why_eager: str | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None

    @classmethod
    def of(cls, curve: Sequence[EpochResult], why_eager: str | None = None) -> Metrics:
        """Sum up a curve of at least one epoch."""
        last = curve[-1]
        return cls(
            epochs=last.epoch,
            val_loss=last.val_loss,
            val_accuracy=last.val_accuracy,
            train_loss=last.train_loss,
            seconds=sum(result.seconds for result in curve),
            images=sum(result.images for result in curve),
            curve=tuple(curve),
            why_eager=why_eager,
        )


class Evaluator(Protocol):
    """Tries architectures. Equal architecture and seed: equal metrics, times aside.

    On a GPU, up to what its kernels leave open (docs/gpu.md).
    """

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which candidates are compared, ascending; training ends at the last."""

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """Train and validate; never touches the test images.

        Args:
            arch: The target architecture; the evaluator brings it to its own scale.
            seed: Of everything random.
            report: Called after each epoch; ``False`` ends the training there.
                What it raises passes through.

        Raises:
            ArchitectureError: it does not exist at the evaluator's scale.
            TrainingError: it cannot be trained, with the reason.
        """

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """The same, and where it is trained to the end, the test images too."""


class ProxyEvaluator:
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
    def rungs(self) -> tuple[int, ...]:
        """The proxy's."""
        return self.proxy.rungs

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """Train at the proxy's scale."""
        return self._run(arch, seed, report)[1]

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """Train at the proxy's scale; at the end the test images, if there are any."""
        trainer, metrics = self._run(arch, seed, report)
        if metrics.epochs < self.rungs[-1] or not self.data.has_test:
            return metrics
        loss, accuracy = trainer.validate(self.data.test())
        return replace(metrics, test_loss=loss, test_accuracy=accuracy)

    def _run(self, arch: Architecture, seed: int, report: Report | None) -> tuple[Trainer, Metrics]:
        trainer = self._trainer(arch, seed)
        curve: list[EpochResult] = []
        for result in trainer.epochs():
            curve.append(result)
            if report is not None and not report(result):
                break
        return trainer, Metrics.of(curve, trainer.why_eager)

    def images_per_second(self, arch: Architecture) -> float:
        """Measured speed of training in this process, in training images.

        With ``Proxy.search_images`` and the number of workers it gives the time to expect.
        """
        short = self.data.train.first(self.proxy.batch * (MEASURED_STEPS + 1))
        trainer = self._trainer(arch, 0, replace(self.data, train=short))
        while not trainer.settled:
            trainer.train_epoch()
        start = time.perf_counter()
        _, images = trainer.train_epoch()
        return images / (time.perf_counter() - start)

    def _trainer(self, arch: Architecture, seed: int, data: DataSet | None = None) -> Trainer:
        data = data or self.data
        return Trainer(
            self.proxy.apply(arch, data), data, self.proxy, seed=seed, device=self.device
        )


class TableEvaluator:
    """Looks results up instead of training: for benchmarks over a fixed table.

    Args:
        rungs: Epochs at which candidates are compared.
        curve: Results of every epoch of an architecture and a seed.
        test: Loss and accuracy on test images of both, where they are known.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        curve: Callable[[Architecture, int], Sequence[EpochResult]],
        test: Callable[[Architecture, int], tuple[float, float]] | None = None,
    ) -> None:
        self._rungs = tuple(rungs)
        self.curve = curve
        self.test = test

    @property
    def rungs(self) -> tuple[int, ...]:
        """As given."""
        return self._rungs

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """Replay the curve."""
        done: list[EpochResult] = []
        for result in self.curve(arch, seed):
            done.append(result)
            if report is not None and not report(result):
                break
        return Metrics.of(done)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Metrics:
        """Replay the curve; at the end the test results, where they are known."""
        metrics = self.evaluate(arch, seed=seed, report=report)
        if metrics.epochs < self.rungs[-1] or self.test is None:
            return metrics
        loss, accuracy = self.test(arch, seed)
        return replace(metrics, test_loss=loss, test_accuracy=accuracy)
