"""Cost of one ask after so many finished trials, beside the same sampler in plain Optuna.

Three arms, one after the other in every round, each on a study of its own:

- ``ask``: ``study.ask`` with one of ``sret_nas.runner.SAMPLERS`` under its filter;
- ``plain``: the same with Optuna's own sampler, no budget and nothing kept distinct;
  there is none for ``known-cost``;
- ``turn``: all that a ``Worker`` does for a candidate beside training it: asking, claiming,
  writing the curve after each of 12 epochs, comparing at two rungs, telling.

``first`` is the first time in a process: it reads the whole study and fits models.
An arm whose later asks took longer than ``--patience`` is not tried on larger studies.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from scale_study import RUNGS, SEED, Finished, StandIn, configuration, kept, learning

from sret_nas.runner import constraints
from sret_nas.runner.sampling import FilteredSampler
from sret_nas.runner.strategies import POPULATION, SAMPLERS
from sret_nas.runner.worker import Worker
from sret_nas.study.address import Address
from sret_nas.study.rundir import RunDir
from sret_nas.study.storage import open_storage

SIZES = (100, 1_000, 10_000)
STORAGES = ("memory", "sqlite")
PLAIN: dict[str, Callable[[], BaseSampler]] = {
    "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, seed=SEED),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=SEED),
    "nsga3": lambda: optuna.samplers.NSGAIIISampler(population_size=POPULATION, seed=SEED),
    "gp": lambda: optuna.samplers.GPSampler(seed=SEED),
    "qmc": lambda: optuna.samplers.QMCSampler(scramble=True, seed=SEED),
    "random": lambda: optuna.samplers.RandomSampler(seed=SEED),
}
Step = Callable[[], float]
"""Does something once; seconds that it took."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--storages", nargs="+", default=list(STORAGES), choices=list(STORAGES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds")
    parser.add_argument("--resume", action="store_true", help="keep what the file has already")


@dataclass
class Stage:
    """Studies of one size on one kind of storage."""

    finished: Finished
    size: int
    storage: str
    folder: Path
    made: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def study(self) -> optuna.Study:
        """A study of its own with so many finished trials."""
        if self.storage == "memory":
            return self.finished.study(self.size)
        template = self.folder / f"{self.size}.db"
        if not template.exists():
            self.finished.study(self.size, f"sqlite:///{template}")
        self.made += 1
        own = shutil.copy(template, self.folder / f"own-{self.made}.db")
        return optuna.load_study(
            study_name="scale", storage=open_storage(Address(f"sqlite:///{own}"))
        )

    def ask(self, study: optuna.Study) -> float:
        """Ask, and finish what was asked as a search does."""
        start = time.perf_counter()
        trial = study.ask(self.finished.space.distributions)
        seconds = time.perf_counter() - start
        space = self.finished.space
        arch = space.decode(space.from_params(trial.params))
        metrics = self.finished.costs(arch)
        curve = [vars(result) for result in learning(arch, RUNGS[-1], self.rng)]
        metrics["val_loss"] = curve[-1]["val_loss"]
        for name, value in (("id", arch.id), ("metrics", metrics), ("curve", curve)):
            trial.set_user_attr(name, value)
        constraints.record(trial, self.finished.budgets, lambda bound: metrics[bound.metric])
        study.tell(trial, [metrics["val_loss"], metrics["macs"]])
        return seconds

    def filtered(self, name: str) -> Step:
        """Ours."""
        study = self.study()
        study.sampler = FilteredSampler(self.finished.space, self.finished.budgets, name, SEED)
        return lambda: self.ask(study)

    def plain(self, name: str) -> Step:
        """Optuna's."""
        study = self.study()
        study.sampler = PLAIN[name]()
        return lambda: self.ask(study)

    def worker(self, name: str) -> Step:
        """A worker whose training takes no time."""
        space = self.finished.space
        study = self.study()
        config = configuration(space, name)
        evaluator = StandIn(0.0)
        worker = Worker(
            run=RunDir(self.folder / "run"),
            config=config,
            study=study,
            space=space,
            evaluator=evaluator,
            stop=lambda: evaluator.over,
        )

        def turn() -> float:
            evaluator.begin(1)
            start = time.perf_counter()
            worker.search()
            return time.perf_counter() - start

        return turn


def measure(options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    finished = Finished(max(options.sizes))
    told = {"rounds": options.rounds, "retry_s": options.patience}
    rows: list[dict[str, Any]] = kept(options, told, "asks")
    done = {(row["storage"], row["trials"], row["sampler"]) for row in rows}
    for storage in options.storages:
        gave_up: dict[tuple[str, str], float] = {}
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                stage = Stage(finished, size, storage, Path(folder))
                for name in options.samplers:
                    if (storage, size, name) in done:
                        continue
                    for row in compare(stage, name, options, gave_up):
                        rows.append({"storage": storage, "trials": size, "sampler": name} | row)
                        show(rows[-1])
                        save(told | {"asks": rows})


def compare(
    stage: Stage, name: str, options: argparse.Namespace, gave_up: dict[tuple[str, str], float]
) -> Iterator[dict[str, Any]]:
    """Times of all arms of one sampler, taken in turn."""
    make = {"ask": stage.filtered, "plain": stage.plain, "turn": stage.worker}
    if name not in PLAIN:
        del make["plain"]
    arms: dict[str, Step] = {}
    for arm in make:
        if (name, arm) in gave_up:
            yield {"arm": arm, "skipped": f"one took {gave_up[name, arm]:.0f} s on fewer trials"}
        else:
            arms[arm] = make[arm](name)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(options.rounds + 1):
        for arm, step in arms.items():
            if max(seconds[arm][1:], default=0.0) < options.patience:
                seconds[arm].append(step())
    for arm, found in seconds.items():
        later = found[1:]
        if max(later, default=0.0) >= options.patience:
            gave_up[name, arm] = max(later)
        yield {
            "arm": arm,
            "first_s": found[0],
            "median_s": statistics.median(later) if later else None,
            "least_s": min(later, default=None),
            "most_s": max(later, default=None),
        }


def show(row: dict[str, Any]) -> None:
    text = f"{row['storage']:7}{row['trials']:>7,} {row['sampler']:>11} {row['arm']:>6} "
    if "skipped" in row:
        print(f"{text} skipped: {row['skipped']}", flush=True)
    elif row["median_s"] is None:
        print(f"{text} first {row['first_s']:8.2f} s", flush=True)
    else:
        print(
            f"{text} first {row['first_s']:8.2f} s, then {row['median_s'] * 1e3:9.1f} ms "
            f"({row['least_s'] * 1e3:.1f} to {row['most_s'] * 1e3:.1f})",
            flush=True,
        )
