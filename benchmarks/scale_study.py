"""Finished trials as a search leaves them, without one: for ``scale.py``.

Architectures are drawn from the space under the budget; their losses follow a law of
scale with luck, and a share of them was stopped at a rung or failed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, insert
from sqlalchemy.orm import Session

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.evaluate import Evaluation, Evaluator, Progress, Report
from sret_nas.evaluators.proxy import evaluation, follow
from sret_nas.metrics import Declaration, training
from sret_nas.proxy import Proxy
from sret_nas.runner.strategies import POPULATION
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.training import EpochResult
from sret_nas.units import Budget, parse_budgets

SPACE, BUDGET, SEED = "sret", "4GFLOPs", 0
RUNGS = (3, 6, 12)
"""Those of the proxy ``fast``."""
PRUNED, FAILED = 0.35, 0.02
"""Shares of the candidates."""
DIRECTIONS = ("minimize", "minimize")
GENETIC = (NSGAIISampler, NSGAIIISampler)


def kept(options: argparse.Namespace, told: dict[str, Any], rows: str) -> list[dict[str, Any]]:
    """With ``--resume``, the rows that the file has already; measured in the same way."""
    if not (options.resume and options.out.exists()):
        return []
    before = json.loads(options.out.read_text())
    if {key: before[key] for key in told} != told:
        raise SystemExit(f"{options.out}: measured otherwise; leave --resume away")
    found: list[dict[str, Any]] = before[rows]
    return found


def learning(arch: Architecture, epochs: int, rng: np.random.Generator) -> Iterator[EpochResult]:
    """A learning curve: larger is better, with luck; slow to begin with."""
    floor = 2.2 - 0.15 * math.log10(cost(arch).macs / 1e8) + rng.normal(0, 0.05)
    for epoch in range(1, epochs + 1):
        loss = floor + 1.5 * math.exp(-4 * epoch / RUNGS[-1]) + rng.normal(0, 0.01)
        yield EpochResult(epoch, loss - 0.05, loss, math.exp(-loss), 0.8, 2048)


class StandIn(Evaluator):
    """An evaluator that waits, always to the last epoch, and has its worker stop in time.

    Args:
        seconds: What a training takes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rng = np.random.default_rng(SEED)
        self.begin(0)

    def begin(self, trainings: int) -> None:
        """Let the worker do so many."""
        self.left = trainings
        self.first_at: float | None = None

    @property
    def declaration(self) -> Declaration:
        """A training's, with nothing to confirm."""
        return training(RUNGS, seeds=1)

    @property
    def over(self) -> bool:
        """Whether it has."""
        return self.left == 0

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Wait, and report every epoch; what is said to that is not heard."""
        if self.first_at is None:
            self.first_at = time.monotonic()

        def heed(progress: Progress) -> bool:
            if report is not None:
                report(progress)
            return True

        curve = follow(self._epochs(arch), heed)
        self.left -= 1
        return evaluation(curve, self.declaration)

    def _epochs(self, arch: Architecture) -> Iterator[EpochResult]:
        for result in learning(arch, RUNGS[-1], self.rng):
            time.sleep(self.seconds / RUNGS[-1])
            yield result


def configuration(space: SearchSpace, sampler: str) -> RunConfig:
    """A search of the space under the budget, with no end and nothing to confirm."""
    return RunConfig(
        space=space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
        budget=(BUDGET,),
        data={"source": "none", "fingerprint": "none"},
        proxy=Proxy(image_size=28, epochs=RUNGS[-1], rungs=RUNGS, seeds=1),
        sampler=sampler,
        seed=SEED,
        published=False,
    )


@dataclass
class Finished:
    """As many finished trials as wanted, always the same.

    Args:
        most: How many there can be.
    """

    most: int
    space: SearchSpace = field(default_factory=lambda: SearchSpace.load(SPACE))
    budgets: tuple[Budget, ...] = field(default_factory=lambda: parse_budgets([BUDGET]))

    def __post_init__(self) -> None:
        archs = self.space.sample(self.most, seed=1, budgets=self.budgets)
        rng = np.random.default_rng(1)
        self.trials = [self._trial(number, arch, rng) for number, arch in enumerate(archs)]

    def _trial(self, number: int, arch: Architecture, rng: np.random.Generator) -> FrozenTrial:
        metrics = self.costs(arch)
        luck = rng.uniform()
        state, epochs = TrialState.COMPLETE, RUNGS[-1]
        if luck < PRUNED + FAILED:
            state, epochs = TrialState.PRUNED, int(rng.choice(RUNGS[:-1]))
        if luck < FAILED:
            state, epochs = TrialState.FAIL, 0
        curve = [vars(result) for result in learning(arch, epochs, rng)]
        attributes: dict[str, Any] = {
            "id": arch.id,
            "architecture": arch.to_dict(),
            "metrics": metrics,
            **metrics,
            "depth": arch.depth,
            "rejected": {"over budget": 3},
            "seconds": {"sampling": 0.4, "latency": 0.0},
            "curve": curve,
        }
        if state == TrialState.FAIL:
            attributes |= {"reason": "diverged", "error": "diverged: the loss is not finite"}
        else:
            reached = {key: curve[-1][key] for key in ("val_loss", "val_accuracy")}
            attributes |= reached | {"metrics": metrics | reached}
        limit = self.budgets[0].limit
        system: dict[str, Any] = {
            "owner": {"name": f"host/{number % 64}", "pid": number % 64},
            "confirmed": True,
            "beat": 1,
            "constraints": [(metrics["macs"] - limit) / limit],
            "point": number,
        }
        system |= {kind._get_generation_key(): number // POPULATION for kind in GENETIC}
        complete = state == TrialState.COMPLETE
        return create_trial(
            params=self.params(arch),
            distributions=self.space.distributions,
            values=[attributes["val_loss"], metrics["macs"]] if complete else None,
            state=state,
            user_attrs=attributes,
            system_attrs=system,
        )

    def costs(self, arch: Architecture) -> dict[str, float]:
        """What is known before training."""
        found = cost(arch)
        return {"macs": found.macs, "params": found.params, "peak_bytes": found.peak_bytes}

    def params(self, arch: Architecture) -> dict[str, Any]:
        """As parameters of a trial."""
        return self.space.params(self.space.encode(arch))

    def study(self, n: int, storage: str | None = None) -> optuna.Study:
        """A study with the first ``n`` trials, and with what evolutionary samplers note on it.

        Args:
            n: How many.
            storage: Address of a database; default in memory.
        """
        study = optuna.create_study(study_name="scale", directions=DIRECTIONS, storage=storage)
        if storage is None:
            study.add_trials(self.trials[:n])
        else:
            _insert(study, self.trials[:n])
        ids = [trial._trial_id for trial in study.get_trials(deepcopy=False)]
        attributes = {}
        for kind in GENETIC:
            for generation in range(1, -(-n // POPULATION)):
                parents = ids[(generation - 1) * POPULATION : generation * POPULATION]
                attributes[f"{kind._get_parent_cache_key_prefix()}{generation}"] = parents
        if storage is None:
            for key, value in attributes.items():
                study._storage.set_study_system_attr(study._study_id, key, value)
        else:
            _insert_attributes(study, attributes)
        return study


def _insert(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """As ``study.add_trials``, which takes 50 ms for each in a database."""
    tables: dict[type[models.BaseModel], list[dict[str, Any]]] = defaultdict(list)
    for number, trial in enumerate(trials):
        own = {"trial_id": number + 1}
        tables[models.TrialModel].append(
            own
            | {
                "number": number,
                "study_id": study._study_id,
                "state": trial.state,
                "_datetime_start_utc": trial.datetime_start,
                "_datetime_complete_utc": trial.datetime_complete,
            }
        )
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            tables[models.TrialParamModel].append(
                own
                | {
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        for objective, value in enumerate(trial.values or ()):
            kind = models.TrialValueModel.TrialValueType.FINITE
            tables[models.TrialValueModel].append(
                own | {"objective": objective, "value": value, "value_type": kind}
            )
        for table, attributes in (
            (models.TrialUserAttributeModel, trial.user_attrs),
            (models.TrialSystemAttributeModel, trial.system_attrs),
        ):
            tables[table] += [
                own | {"key": key, "value_json": json.dumps(value)}
                for key, value in attributes.items()
            ]
    with Session(_engine(study)) as session, session.begin():
        for table, rows in tables.items():
            session.execute(insert(table), rows)


def _insert_attributes(study: optuna.Study, attributes: dict[str, Any]) -> None:
    rows = [
        {"study_id": study._study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    with Session(_engine(study)) as session, session.begin():
        session.execute(insert(models.StudySystemAttributeModel), rows)


def _engine(study: optuna.Study) -> Engine:
    engine: Engine = study._storage._backend.engine
    return engine
