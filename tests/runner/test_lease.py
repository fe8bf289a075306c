"""Trainings share a device; a measurement has it alone, and they wait for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from sret_nas.arch import Architecture
from sret_nas.errors import UsageError
from sret_nas.evaluate import Progress
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.runner.lease import Lease, Leased
from sret_nas.training import EpochResult


@pytest.fixture
def sret_t() -> Architecture:
    return Architecture.load("sret_t")


def free(path: Path, alone: bool) -> bool:
    """Whether another process could take a lock now."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def test_trainings_share_a_device_and_a_measurement_has_it_alone(tmp_path: Path) -> None:
    lease = Lease("cpu", tmp_path)
    with lease.computing(), Lease("cpu", tmp_path).computing():
        assert not free(lease.device, alone=True)
        assert free(Lease("cuda", tmp_path).device, alone=True)
    with lease.measuring():
        assert not free(lease.gate, alone=False)
        assert not free(lease.device, alone=False)
    with suppress(ValueError), lease.measuring():
        raise ValueError
    assert free(lease.device, alone=True)


def test_who_waits_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    with Lease("cpu", tmp_path).computing(said.append):
        pass
    assert not said
    other = Lease("cpu", tmp_path)
    inside, out = Event(), Event()

    def compute() -> None:
        with other.computing():
            inside.set()
            out.wait(60)

    training = Thread(target=compute)
    training.start()
    assert inside.wait(60)

    def tell(text: str) -> None:
        said.append(text)
        out.set()

    with Lease("cpu", tmp_path).measuring(tell):
        pass
    training.join()
    assert said == ["waiting until nothing of ours computes on cpu"]


def test_without_a_folder_is_trained_but_not_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lease, done = Lease("cpu", tmp_path / "file"), []
    with lease.computing():
        done.append("trained")
    with pytest.raises(UsageError, match="cannot be written"), lease.measuring():
        done.append("measured")
    assert done == ["trained"]


@pytest.mark.parametrize("what", ["evaluate", "confirm"])
def test_a_training_makes_way_after_an_epoch(
    tmp_path: Path, sret_t: Architecture, what: str
) -> None:
    lease, log = Lease("cpu", tmp_path), list[str]()

    def measure() -> None:
        with Lease("cpu", tmp_path).measuring():
            log.append("measured")

    measurement = Thread(target=measure)

    def epochs(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        for epoch in range(1, 4):
            assert not free(lease.device, alone=True)
            log.append(f"epoch {epoch}")
            if epoch == 1:
                measurement.start()
                while free(lease.gate, alone=False):  # until it waits
                    pass
            yield EpochResult(epoch, 1.0, 1.0, 0.5, 0.5, 64)

    def report(_: Progress) -> bool:
        return True

    evaluator = Leased(TableEvaluator((1, 3), epochs, lambda *_: (0.5, 0.75)), lease)
    assert evaluator.declaration.fidelities == (1, 3)
    getattr(evaluator, what)(sret_t, report=report)
    measurement.join()
    assert log == ["epoch 1", "measured", "epoch 2", "epoch 3"]
    assert free(lease.device, alone=True)


def test_a_training_that_is_stopped_gives_its_lease_back(
    tmp_path: Path, sret_t: Architecture
) -> None:
    lease = Lease("cpu", tmp_path)

    def epochs(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        yield EpochResult(1, 1.0, 1.0, 0.5, 0.5, 64)

    def report(_: Progress) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Leased(TableEvaluator((1,), epochs, lambda *_: (0.5, 0.75)), lease).evaluate(
            sret_t, report=report
        )
    assert free(lease.device, alone=True)


def test_only_what_is_measured_needs_the_device_alone(
    sret_t: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sret_nas.space import clock

    entered: list[str] = []

    @contextmanager
    def alone() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    class Known:
        def predict(self, arch: Architecture) -> tuple[float, float, None]:
            return 2.0, 0.5, None

    class Found:
        median_ms, high_ms, note = 3.0, 3.25, "noisy"

    def measured(archs: dict[str, Architecture], **_: Any) -> Any:
        assert entered == ["in"]
        return {(name, 1): Found for name in archs}

    monkeypatch.setattr("sret_nas.latency.predictor.load_predictor", lambda *_, **__: Known())
    monkeypatch.setattr("sret_nas.latency.measurement.measure", measured)
    assert clock(alone=alone)(sret_t, 1) == (2.0, 0.5, "predicted", None)
    assert entered == []

    def uncalibrated(*_: object, **__: object) -> None:
        raise UsageError("not calibrated")

    monkeypatch.setattr("sret_nas.latency.predictor.load_predictor", uncalibrated)
    assert clock(alone=alone)(sret_t, 1) == (3.0, 0.25, "measured", "noisy")
    assert entered == ["in", "out"]
