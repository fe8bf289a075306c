"""Runs that were never run: trials as a search leaves them, dearer ones better."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from sret_nas.cost import cost
from sret_nas.deploy.job import Job
from sret_nas.deploy.summary import Epoch, write_summary
from sret_nas.proxy import choose
from sret_nas.recipe import FullRecipe
from sret_nas.runner import RunResult
from sret_nas.runner.constraints import KEY
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
States = Callable[[int], TrialState]


@dataclass
class Runs:
    """Makes runs below a folder."""

    folder: Path

    def config(self, name: str = "smoke", **changes: Any) -> RunConfig:
        space = SearchSpace.load("smoke").file
        plan, _ = choose("fast", "cpu")
        return RunConfig(
            space=space.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"name": name},
            data={"source": "demo", "fingerprint": "0" * 16},
            proxy=plan,
            versions={"torch": "2"},
            **({"budget": ("2MMACs",), "trials": 8} | changes),
        )

    def trials(
        self,
        number: int,
        states: States = lambda _: COMPLETE,
        first: int = 0,
        goals: Sequence[str] = ("val_loss", "macs"),
    ) -> list[FrozenTrial]:
        space, made = SearchSpace.load("smoke"), []
        rungs = choose("fast", "cpu")[0].rungs
        for i, arch in enumerate(space.sample(first + number, seed=0)[first:], first):
            found, state = cost(arch), states(i)
            epochs = rungs[-1] if state == COMPLETE else rungs[0]
            loss = 2.0 - found.macs / 4e6 + 0.02 * (i * 7 % 11)
            curve = [
                {"epoch": e, "train_loss": loss + 2 / e, "val_loss": loss + 1 / e,
                 "val_accuracy": 0.5, "seconds": 1.0, "images": 100}
                for e in range(1, epochs + 1)
            ]  # fmt: skip
            metrics = {"macs": found.macs, "params": found.params, "peak_bytes": found.peak_bytes}
            metrics |= {"val_loss": curve[-1]["val_loss"], "val_accuracy": 0.5}
            if "val_accuracy" in goals:
                metrics["val_accuracy"] = 1 / metrics["val_loss"]
            if "latency_ms" in goals:
                metrics["latency_ms"] = found.macs / 1e6
            params = space.params(space.encode(arch))
            attributes: dict[str, Any] = {
                "id": arch.id, "architecture": arch.to_dict(), "metrics": metrics, "curve": curve,
                "seconds": {"sampling": 0.1, "latency": 0.0}, "rejected": {"too slow <i>": 2},
            }  # fmt: skip
            if state == FAIL:
                attributes |= {"reason": "diverged <i>"}
            made.append(
                create_trial(
                    state=state,
                    values=[metrics[name] for name in goals] if state == COMPLETE else None,
                    params=params,
                    distributions={key: space.distributions[key] for key in params},
                    user_attrs=attributes | metrics,
                    system_attrs={KEY: [found.macs / 2e6 - 1]},
                )
            )
        return made

    def outcome(
        self,
        number: int,
        states: States = lambda _: COMPLETE,
        confirmed: bool = False,
        stored: bool = False,
        **changes: Any,
    ) -> RunResult:
        """A run; in memory, or ``stored`` in its own database."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        run = RunDir(self.folder / "run")
        with run.only_one():
            made = run.begin(self.config(**changes))
            directions = [goal.direction for goal in made.goals]
            study = run.study(create=made) if stored else optuna.create_study(directions=directions)
        study.add_trials(self.trials(number, states, goals=made.objectives))
        found = RunResult(run, made, study)
        if confirmed:
            self.confirm(found)
            found = RunResult(run, made, study)
        return found

    @staticmethod
    def mixed(i: int) -> TrialState:
        """Mostly trained to the end, some stopped, few failed."""
        return FAIL if i % 12 == 11 else PRUNED if i % 3 == 2 else COMPLETE

    def confirm(self, found: RunResult) -> None:
        for member in found.front:
            for seed in (1, 2):
                loss = float(member.metrics["val_loss"] or 0) + 0.01 * seed
                result = {"val_loss": loss, "val_accuracy": 0.5, "test_accuracy": 0.4 + seed / 50}
                key = f"confirmed:{member.trial}:{seed}"
                found.study.set_user_attr(key, result | {"seconds": 2.0})


@pytest.fixture(scope="session")
def make_runs() -> Callable[[Path], Runs]:
    return Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """36 candidates, the front confirmed."""
    made = Runs(tmp_path_factory.mktemp("usual"))
    return made.outcome(36, made.mixed, confirmed=True)


CLASSES = ("coat", "pullover", "shirt", "bag", "boot", "cap")


def write_training(
    folder: Path, epochs: int = 5, whole: bool = True, data: str = "demo", **changes: Any
) -> Path:
    """A model folder as a training leaves it, without weights: ``epochs`` of 5 are done."""
    folder.mkdir(parents=True)
    arch = SearchSpace.load("smoke").sample(1, seed=0)[0]
    facts = {"name": data, "fingerprint": "f" * 16, "train": 8000, "val": 60, "num_classes": 6,
             "own_val": False, "notes": ["2 files were skipped"]}  # fmt: skip
    asked = {"network": "runs/demo#7", "architecture": arch.to_dict(), "data": facts,
             "recipe": FullRecipe(epochs=5, ema=0.9), "versions": {"torch": "2"}}  # fmt: skip
    Job(**(asked | changes)).save(folder)
    rows = [
        Epoch(n, 2.5 / n, 2 / n, (0.3, 0.5, 0.7, 0.65, 0.6)[n - 1], 1e-3 / n, 900.0 + n, 3.0)
        for n in range(1, epochs + 1)
    ]
    if rows:
        write_summary(folder, rows)
    if whole:
        found = cost(arch)
        confusion = [[name, name, 8] for name in CLASSES[:-1]]
        confusion += [["cap", "cap", 5], ["cap", "bag", 1], ["coat", "pullover", 2],
                      ["pullover", "shirt", 4]]  # fmt: skip
        worth = {"top1": 0.7, "top1_low": 0.575, "top1_high": 0.8, "top5": 0.975, "loss": 0.66,
                 "calibration_error": 0.08, "images": 60,
                 "per_class": dict.fromkeys(CLASSES, 0.8), "confusion": confusion}  # fmt: skip
        metrics = {"schema": 1, "epoch": 3, "epochs": 5, "seconds": 15.5, "device": "cpu, as asked",
                   "cost": {"params": found.params, "macs": found.macs, "peak_bytes": 85200},
                   "validation": worth, "test": worth | {"top1": 0.65, "images": 53},
                   "latency": [{"runtime": "torch", "dtype": "fp32", "batch": 1, "device": "A CPU",
                                "median_ms": 1.25, "p95_ms": 1.5, "mode": "eager"}]}  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture(scope="session")
def make_training() -> Callable[..., Path]:
    return write_training
