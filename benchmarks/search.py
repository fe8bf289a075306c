"""Hypervolume against training seconds: this tool, plain Optuna and random search.

    python benchmarks/search.py --seeds 20

Nothing is trained: curves come from ``tables/smoke-fashion.json`` (see ``table.py``), the search
is the real one (``Worker``, filter, rungs). Contenders:

- ``sret_nas …``: the filter over one of its samplers, with rungs or without; stopped candidates
  go on where the front is near, unless ``none goes on``;
- ``optuna …``: the sampler as Optuna has it, the budget as a soft constraint
  (``constraints_func``), every proposal trained to the end, infeasible and repeated ones too;
- ``random``: uniform over encodings, likewise.

A budget is a quantile of the MACs in the table: .4, which few satisfy, and .8, where the filter
has little to turn down and more is left to try. Score: hypervolume of (validation loss, log
MACs) of what was trained to the end within the budget, as a share of the best possible; the
reference is the worst feasible loss and the budget. Trainings that are infeasible, repeated or
stopped at a rung cost their time and score nothing; one that goes on costs what is left of it.
Time is counted in trainings of average length among the feasible; points in time are the same for
all. A contender that has nothing left to try keeps its score.

Intervals: percentile bootstrap over seeds, paired by seed. Losses are those of seed 0 and
noise-free to the searcher: what looks best is best, although between architectures of similar
cost most of it is luck of the seed (see ``fidelity.py``). A seed here decides proposals alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from table import PROXY, Row, Table

from sret_nas import pareto
from sret_nas.arch import Architecture
from sret_nas.evaluate import Evaluation, Report
from sret_nas.evaluators.proxy import evaluation, follow
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.runner import sampling
from sret_nas.runner.strategies import DEFAULT, SAMPLERS
from sret_nas.runner.worker import Worker, limits
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

RESULTS = Path(__file__).parent / "results"
POINTS = (5, 10, 15, 20, 30, 40)
"""When scores are read, in trainings of average length among the feasible."""
BOOTSTRAPS = 5_000
SLOW = ("gp",)
"""Samplers that are tried only when they are named."""


@dataclass(frozen=True)
class Training:
    """One training of a search.

    Attributes:
        id: Of the architecture.
        seconds: What it cost.
        complete: Whether it was trained to the end.
    """

    id: str
    seconds: float
    complete: bool


@dataclass
class Problem:
    """A table under a budget.

    Attributes:
        table: The table.
        quantile: Share of its architectures that the budget leaves.
    """

    table: Table
    quantile: float

    @cached_property
    def limit(self) -> int:
        """The budget in MACs."""
        macs = sorted(row.macs for row in self.table.rows.values())
        return macs[math.ceil(self.quantile * len(macs)) - 1]

    @cached_property
    def feasible(self) -> dict[str, Row]:
        """What satisfies it."""
        return {i: row for i, row in self.table.rows.items() if row.macs <= self.limit}

    @cached_property
    def unit_s(self) -> float:
        """Seconds of an average feasible training."""
        seconds = [row.epoch_seconds * PROXY.epochs for row in self.feasible.values()]
        return statistics.fmean(seconds)

    @property
    def horizon_s(self) -> float:
        """When a search ends."""
        return POINTS[-1] * self.unit_s

    def volume(self, ids: Sequence[str]) -> float:
        """Hypervolume of feasible ones among them."""
        rows = [self.feasible[i] for i in ids if i in self.feasible]
        worst = max(row.loss(PROXY.epochs) for row in self.feasible.values())
        points = [(row.loss(PROXY.epochs), math.log(row.macs)) for row in rows]
        return pareto.hypervolume(points, (worst, math.log(self.limit))) if points else 0.0

    @cached_property
    def best(self) -> float:
        """Hypervolume of everything feasible."""
        return self.volume(list(self.feasible))

    def scores(self, trainings: Sequence[Training]) -> list[float]:
        """Share of the best hypervolume at every point in time."""
        ends = np.cumsum([training.seconds for training in trainings])
        return [
            self.volume(
                [
                    training.id
                    for training, end in zip(trainings, ends, strict=True)
                    if training.complete and end <= point * self.unit_s
                ]
            )
            / self.best
            for point in POINTS
        ]


Contender = Callable[[Problem, int], list[Training]]
"""Searches a problem from a seed until the horizon; its trainings in order."""


class Resumable(TableEvaluator):
    """The table, where epochs before a stop cost nothing again."""

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Replay the curve; the folder has the number of epochs that are done."""
        file = folder / "epochs"
        done = int(file.read_text()) if file.exists() else 0
        results = [
            replace(one, seconds=0.0) if one.epoch <= done else one
            for one in self.curve(arch, seed)
        ]
        found = evaluation(follow(results, report), self.declaration)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(str(found.step))
        return found


def ours(sampler: str, rungs: bool = True, goes_on: bool = True) -> Contender:
    """The tool's own search, one worker, its study in memory."""

    def search(problem: Problem, seed: int) -> list[Training]:
        table = problem.table
        config = RunConfig(
            space=table.space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
            budget=(f"{problem.limit}MACs",),
            data={"source": "table", "fingerprint": "table"},
            proxy=PROXY,
            sampler=sampler,
            seed=seed,
        )
        study = optuna.create_study(directions=[goal.direction for goal in config.goals])

        def stop() -> bool:
            return sum(training.seconds for training in trainings(study)) >= problem.horizon_s

        def nothing(*_: object) -> list[FrozenTrial]:
            return []

        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            for place in () if goes_on else (sampling, limits):
                stack.enter_context(mock.patch.object(place, "near", nothing))
            Worker(
                run=RunDir(Path(folder)),
                config=config,
                study=study,
                space=config.search_space(),
                evaluator=Resumable(
                    PROXY.rungs if rungs else PROXY.rungs[-1:],
                    lambda arch, _: table.rows[arch.id].results(),
                ),
                stop=stop,
            ).search()
        return trainings(study)

    return search


def trainings(study: optuna.Study) -> list[Training]:
    """What a study of the tool's trained, in order."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        curve = trial.user_attrs.get("curve", [])
        if curve:
            seconds = sum(epoch["seconds"] for epoch in curve)
            complete = trial.state == optuna.trial.TrialState.COMPLETE
            found.append(Training(trial.user_attrs["id"], seconds, complete))
    return found


def excess(trial: FrozenTrial) -> list[float]:
    """The soft constraint: how far over the budget, as a share of it; ≤ 0 is feasible."""
    return [trial.user_attrs["excess"]]


def plain(make: Callable[[int], BaseSampler]) -> Contender:
    """Optuna as it comes."""

    def search(problem: Problem, seed: int) -> list[Training]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constraints_func, deprecated for 7.0, is what users of a soft budget have today.
            warnings.simplefilter("ignore", FutureWarning)
            study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(seed))
        found: list[Training] = []
        while sum(training.seconds for training in found) < problem.horizon_s:
            trial = study.ask()
            row = problem.table.rows[problem.table.space.suggest(trial).id]
            trial.set_user_attr("excess", row.macs / problem.limit - 1)
            study.tell(trial, [row.loss(PROXY.epochs), row.macs])
            seconds = row.epoch_seconds * PROXY.epochs
            found.append(Training(row.architecture.id, seconds, True))
        return found

    return search


MINE = "sret_nas default"
BASELINES: dict[str, Contender] = {
    "optuna tpe": plain(lambda seed: TPESampler(seed=seed, constraints_func=excess)),
    "optuna tpe multivariate": plain(
        lambda seed: TPESampler(seed=seed, multivariate=True, constraints_func=excess)
    ),
    "optuna nsga2": plain(
        lambda seed: NSGAIISampler(population_size=20, seed=seed, constraints_func=excess)
    ),
    "random": plain(lambda seed: RandomSampler(seed=seed)),
}
CONTENDERS: dict[str, Contender] = {
    MINE: ours("auto"),
    **BASELINES,
    **{f"sret_nas {name}, rungs": ours(name) for name in SAMPLERS if name != DEFAULT},
    "sret_nas default, none goes on": ours("auto", goes_on=False),
    **{f"sret_nas {name}, no rungs": ours(name, rungs=False) for name in (DEFAULT, "random")},
}
"""By name. One more is one more line; samplers of the tool come by themselves."""


def interval(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95% percentile bootstrap of the mean."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(differences), size=(BOOTSTRAPS, len(differences)))
    low, high = np.percentile(differences[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summary(
    problem: Problem, runs: Sequence[list[Training]], mine: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Scores of a contender, their difference to this tool's, and what it trained."""
    scores = np.array([problem.scores(run) for run in runs])
    differences = mine - scores
    known = [[training.id for training in run] for run in runs]
    whole = [[training.id for training in run if training.complete] for run in runs]
    return {
        "mean": scores.mean(axis=0).tolist(),
        "interval": [interval(column) for column in scores.T],
        "default_minus_this": [
            {"mean": float(column.mean()), "interval": interval(column)} for column in differences.T
        ],
        "trainings": {
            "all": statistics.fmean(map(len, runs)),
            "infeasible": statistics.fmean(
                sum(i not in problem.feasible for i in ids) for ids in known
            ),
            "repeated": statistics.fmean(len(ids) - len(set(ids)) for ids in whole),
            "stopped_early": statistics.fmean(sum(not t.complete for t in run) for run in runs),
        },
    }


def verdict(difference: dict[str, Any]) -> str:
    """Whether an interval leaves zero out."""
    low, high = difference["interval"]
    return "win" if low > 0 else "loss" if high < 0 else "even"


def show(found: dict[str, dict[str, Any]]) -> None:
    head = "".join(f"{point:>9}" for point in POINTS)
    print(f"\nshare of the best hypervolume after … average trainings\n{'':30}{head}")
    for name, row in found.items():
        print(f"{name:30}" + "".join(f"{mean:9.3f}" for mean in row["mean"]))
    print(f"\n{MINE} minus the other, 95% interval, paired")
    for name, row in found.items():
        if name != MINE:
            cells = [
                f"{d['mean']:+.3f} [{d['interval'][0]:+.3f} {d['interval'][1]:+.3f}] {verdict(d)}"
                for d in row["default_minus_this"]
            ]
            print(f"{name:30}" + " | ".join(cells))
    print(f"\n{'trainings, mean':30}{'all':>9}{'infeas.':>9}{'repeated':>9}{'stopped':>9}")
    for name, row in found.items():
        print(f"{name:30}" + "".join(f"{value:9.1f}" for value in row["trainings"].values()))


def race(problem: Problem, seeds: int, contenders: dict[str, Contender]) -> dict[str, Any]:
    """Every contender from every seed under one budget, seed by seed."""
    runs: dict[str, list[list[Training]]] = {}
    for seed in range(seeds):
        for name, search in contenders.items():
            runs.setdefault(name, []).append(search(problem, seed))
    mine = np.array([problem.scores(run) for run in runs[MINE]])
    return {
        "quantile": problem.quantile,
        "budget_macs": problem.limit,
        "feasible": len(problem.feasible),
        "average_training_s": problem.unit_s,
        "contenders": {name: summary(problem, some, mine) for name, some in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument(
        "--quantiles", type=float, nargs="+", default=[0.4, 0.8], help="of MACs; the budgets"
    )
    parser.add_argument("--add", nargs="*", default=[], choices=SLOW, help="slow samplers too")
    parser.add_argument("--out", type=Path, default=RESULTS / "search-cpu.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table()
    skipped = {f"sret_nas {name}, rungs" for name in set(SLOW) - set(options.add)}
    contenders = {name: search for name, search in CONTENDERS.items() if name not in skipped}
    budgets = []
    for quantile in options.quantiles:
        found = race(Problem(table, quantile), options.seeds, contenders)
        print(
            f"\nbudget: {found['budget_macs']:,} MACs, {found['feasible']} of {len(table.rows)} "
            f"architectures; an average training takes {found['average_training_s']:.1f} s"
        )
        show(found["contenders"])
        budgets.append(found)
    document = {
        "table": table.path.name,
        "made": table.made,
        "default_sampler": DEFAULT,
        "points": POINTS,
        "seeds": options.seeds,
        "budgets": budgets,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
