"""Events for TensorBoard: where it is installed, through interruptions, never in the way."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from sret_nas.deploy.events import Events, with_events
from sret_nas.deploy.full_training import Watch
from sret_nas.deploy.summary import Epoch

ROWS = [Epoch(n, 2.0 / n, 3.0 / n, 0.1 * n, 1e-3 / n, 100.0 * n, 1.5) for n in (1, 2, 3)]


class Writer:
    """Torch's, as far as it matters here; ``made`` has all of them."""

    made: ClassVar[list[Writer]] = []
    full = False

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.folder, self.purge_step = log_dir, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed, self.closed = 0, False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr(Writer, "full", False)
    return Writer


def test_every_epoch_is_written_and_seen_at_once(installed: type[Writer], tmp_path: Path) -> None:
    told: list[Epoch] = []
    with with_events(Watch(epoch=told.append), tmp_path) as watch:
        watch.epoch(ROWS[0])
        (writer,) = installed.made
        assert writer.folder == str(tmp_path / "tensorboard")
        assert writer.scalars == [
            ("loss/train", 2.0, 1), ("loss/validation", 3.0, 1), ("accuracy/validation", 0.1, 1),
            ("lr", 1e-3, 1), ("images_per_second", 100.0, 1),
        ]  # fmt: skip
        assert writer.flushed == 1
        watch.epoch(ROWS[1])
        assert [step for name, _, step in writer.scalars if name == "lr"] == [1, 2]
    assert told == ROWS[:2]
    assert writer.closed and len(installed.made) == 1


def test_a_training_that_goes_on_purges_what_it_does_again(
    installed: type[Writer], tmp_path: Path
) -> None:
    for rows in (ROWS[:2], ROWS[1:]):  # killed after the second epoch, whose state was lost
        with with_events(Watch(), tmp_path) as watch:
            for row in rows:
                watch.epoch(row)
    assert [writer.purge_step for writer in installed.made] == [1, 2]


def test_the_watch_that_was_given_stays_as_it_was(installed: type[Writer], tmp_path: Path) -> None:
    watch = Watch()
    own = watch.epoch
    with with_events(watch, tmp_path):
        pass
    assert watch.epoch is own
    assert not installed.made  # no epoch, no file


def test_a_full_disk_ends_the_events_and_not_the_training(
    installed: type[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "full", True)
    said: list[str] = []
    events = Events(tmp_path, said.append)
    events(ROWS[0])
    events(ROWS[1])
    events.close()
    (line,) = said
    assert "no more events for TensorBoard" in line and "No space left on device" in line


def test_without_the_package_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    told: list[Any] = []
    with with_events(Watch(epoch=told.append, say=told.append), tmp_path) as watch:
        watch.epoch(ROWS[0])
    assert told == ROWS[:1] and not list(tmp_path.iterdir())
