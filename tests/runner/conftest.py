"""A search without training: workers over a table, on studies in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.proxy import Proxy
from sret_nas.runner.worker import Worker
from sret_nas.space import Clock, SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir
from sret_nas.training import EpochResult

Curve = Callable[[Architecture, int], Sequence[EpochResult]]

FEW = {
    "schema": 1,
    "name": "few",
    "image_size": 32,
    "num_classes": 10,
    "stem_stride": 4,
    "permute": "fixed",
    "all_stages": {"head_dim": [8, 12], "nll_ratio": 0.0},
    "each_stage": {"mlp_ratio": 2.0, "recursions": [1, 2]},
    "stages": [
        {"heads": 1, "blocks": 1, "groups": {"each_loop": [1, 4]}},
        {"heads": 2, "blocks": [1, 2]},
    ],
}
"""Few enough to be tried to the last."""


def chance(*parts: object) -> float:
    """A number in [0, 1) that is always the same for the same parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def curve(arch: Architecture, seed: int) -> Iterator[EpochResult]:
    """Four epochs; larger is better, with luck that grows smaller."""
    for epoch in range(1, 5):
        loss = 3 - 0.1 * cost(arch).macs ** 0.2 + chance(arch.id, seed, epoch) / epoch
        yield EpochResult(epoch, loss, loss, 1 / (1 + loss), 0.5, 64)


class Table(TableEvaluator):
    """The table, where not everything may fit."""

    def __init__(
        self, rungs: Sequence[int], table: Curve, fits: Callable[[Architecture], object]
    ) -> None:
        super().__init__(rungs, table, lambda *_: (0.5, 0.75))
        self.fits = fits  # type: ignore[method-assign]


@dataclass
class Lab:
    """Runs that cost no training."""

    folder: Path
    proxy: dict[str, Any] = field(
        default_factory=lambda: {"image_size": 28, "epochs": 4, "rungs": [1, 2, 4], "seeds": 2}
    )

    def config(self, space: Any = "smoke", **changes: Any) -> RunConfig:
        file = SearchSpace.load(space, allow_code=True).file
        return RunConfig(
            space=file.model_dump(mode="json", by_alias=True, exclude_unset=True),
            data={"source": "demo", "fingerprint": "0"},
            proxy=Proxy.load(self.proxy),
            **changes,
        )

    def study(self, config: RunConfig) -> optuna.Study:
        return optuna.create_study(directions=[goal.direction for goal in config.goals])

    def worker(
        self,
        config: RunConfig,
        study: optuna.Study | None = None,
        table: Curve = curve,
        fits: Callable[[Architecture], object] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
    ) -> Worker:
        return Worker(
            run=RunDir(self.folder),
            config=config,
            study=self.study(config) if study is None else study,
            space=config.search_space(),
            evaluator=Table(config.proxy.rungs, table, fits),
            stop=stop,
            clock=clock,
        )

    def search(self, **changes: Any) -> optuna.Study:
        """Search with one worker over the table."""
        worker = self.worker(self.config(**changes))
        worker.search()
        return worker.study


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "run").mkdir()
    return Lab(tmp_path / "run")


@pytest.fixture
def few() -> dict[str, Any]:
    return FEW


@pytest.fixture
def table() -> Curve:
    return curve
