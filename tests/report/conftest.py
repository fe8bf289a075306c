"""Runs that were never run: trials as a search leaves them, dearer ones better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from sret_nas.cost import cost
from sret_nas.proxy import choose
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
