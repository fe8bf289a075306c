"""Samplers against each other on spaces whose every candidate has a known quality.

    python benchmarks/samplers.py --seeds 20

Nothing is trained. Two kinds of problem:

- ``pit …``: 100 PiT vision transformers that were really trained on CIFAR-100 (``tables/
  pit-cifar100.json``: ViT-Bench-101 of Auto-Prox, AAAI 2024, Apache-2.0). A surrogate
  fitted on them, kernel ridge or extra-trees, tells the top-1 of all 4,320 architectures
  of their grid; two kinds, so that a Gaussian process is not judged by its own kind alone.
  Observations have Gaussian noise of 0.4 points.
- ``own``: the architectures of ``tables/smoke-fashion.json`` (see ``table.py``), each
  with the validation loss that it really reached; no noise is added.

Objectives are the quality and the logarithm of the parameters; the budget is the 40%
quantile of the MACs. Every sampler works under the same filter: only what is feasible and
was not tried becomes a trial. What a sampler proposes otherwise is asked again eight times,
then replaced by a neighbour, then by a random candidate; nothing of that counts.

Score: the noise-free hypervolume of what was tried, as a share of that of the whole
feasible space; the reference is the worst value of either objective in the whole grid. With
the worst feasible values instead it is given as ``strict``. Intervals:
percentile bootstrap over seeds, paired by seed; a seed decides the proposals and the
noise, which is the same for all samplers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from table import PROXY, Table

from sret_nas import pareto
from sret_nas.device import fingerprint
from sret_nas.samplers import KnownCostSampler
from sret_nas.samplers.candidates import FromDistributions, Rows
from sret_nas.study.config import versions

HERE = Path(__file__).parent
POINTS = (10, 15, 25, 50, 100)
QUANTILE = 0.4
NOISE = 0.4
TRIES = 8
BOOTSTRAPS = 5_000
MINE = "known-cost"
MOST = {"gp": 25}
"""Evaluations of a search whose proposals take seconds; all others go to the last point."""

Floats = npt.NDArray[np.float64]
Params = dict[str, Any]


@dataclass
class Problem:
    """A space whose every candidate's quality is known.

    Attributes:
        name: Of the problem.
        grid: Candidates as parameters.
        quality: To maximise, by candidate.
        macs: By candidate.
        params: By candidate.
        noise: Standard deviation of an observation.
    """

    name: str
    grid: list[Params]
    quality: Floats
    macs: Floats
    params: Floats
    noise: float

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter by its choices in the grid."""
        return {
            name: CategoricalDistribution(sorted({candidate[name] for candidate in self.grid}))
            for name in self.grid[0]
        }

    @cached_property
    def index(self) -> dict[tuple[Any, ...], int]:
        """Number of a candidate by its parameters."""
        return {tuple(c[n] for n in self.grid[0]): i for i, c in enumerate(self.grid)}

    def number(self, params: Mapping[str, Any]) -> int | None:
        """Number of a candidate, or ``None`` where the grid has no such one."""
        return self.index.get(tuple(params[name] for name in self.grid[0]))

    @cached_property
    def limit(self) -> float:
        """The budget in MACs."""
        return float(np.quantile(self.macs, QUANTILE))

    def feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether a candidate is one, and within the budget."""
        i = self.number(params)
        return i is not None and bool(self.macs[i] <= self.limit)

    def log_params(self, params: Mapping[str, Any]) -> float:
        """The known objective."""
        return float(np.log(self.params[self.index[tuple(params[n] for n in self.grid[0])]]))

    def log_macs(self, params: Mapping[str, Any]) -> float:
        """Another known quantity."""
        return float(np.log(self.macs[self.index[tuple(params[n] for n in self.grid[0])]]))

    @cached_property
    def candidates(self) -> FromDistributions:
        """The feasible ones."""
        return FromDistributions(self.distributions, feasible=self.feasible)

    @cached_property
    def inside(self) -> list[int]:
        """Numbers of the feasible ones."""
        return np.flatnonzero(self.macs <= self.limit).tolist()

    def share(self, numbers: Sequence[int], strict: bool = False) -> float:
        """Hypervolume of feasible candidates over that of all."""
        return self.volume(numbers, strict) / self.best[strict]

    def volume(self, numbers: Sequence[int], strict: bool) -> float:
        """Hypervolume of feasible candidates."""
        judged = self.inside if strict else slice(None)
        reference = (-self.quality[judged].min(), np.log(self.params[judged]).max())
        points = np.column_stack([-self.quality[numbers], np.log(self.params[numbers])])
        return pareto.hypervolume(points, reference)

    @cached_property
    def best(self) -> dict[bool, float]:
        """Hypervolume of all that is feasible, by strictness."""
        return {strict: self.volume(self.inside, strict) for strict in (False, True)}

    def observed(self, number: int, seed: int) -> float:
        """What a training of a candidate shows; the same for every sampler."""
        luck = np.random.default_rng((seed, number)).normal()
        return float(self.quality[number] + self.noise * luck)


# -- problems ------------------------------------------------------------------------------------


def pit_cost(arch: Mapping[str, Any]) -> tuple[float, float]:
    """MACs and parameters of a PiT at 224 px, 16 px patches of stride 8, 100 classes.

    Source: timm's ``pit``; normalisation and softmax cost no MACs here.
    """
    dims = [arch["base_dim"] * arch[f"heads{i}"] for i in range(3)]
    macs = 27 * 27 * dims[0] * 3 * 256.0
    params = dims[0] * (3 * 256 + 1) + 27 * 27 * dims[0] + dims[0] + 100.0 * (dims[2] + 1)
    macs += 100.0 * dims[2]
    for i, side in enumerate((27, 14, 7)):
        d, r, depth, n = dims[i], arch["mlp_ratio"], arch[f"depth{i}"], side * side + 1
        params += depth * ((4 + 2 * r) * d * d + (9 + r) * d)
        macs += depth * (n * (4 + 2 * r) * d * d + 2 * n * n * d)
        if i < 2:
            then = dims[i + 1]
            params += 10 * then + d * then + then
            macs += ((side + 1) // 2) ** 2 * 9 * then + d * then
    return macs, params


def pit_grid() -> list[Params]:
    """The 4,320 architectures of ViT-Bench's PiT space."""
    heads = [(a, b, c) for a in (2, 4, 8) for b in (2, 4, 8) for c in (2, 4, 8) if a <= b <= c]
    return [
        {
            "base_dim": base,
            "mlp_ratio": ratio,
            **{f"depth{i}": d for i, d in enumerate(depth)},
            **{f"heads{i}": h for i, h in enumerate(some)},
        }
        for base in (16, 24, 32, 40)
        for ratio in (2, 4, 6, 8)
        for depth in [(a, b, c) for a in (1, 2, 3) for b in (4, 6, 8) for c in (2, 4, 6)]
        for some in heads
    ]


def pit(surrogate: str, path: Path = HERE / "tables" / "pit-cifar100.json") -> Problem:
    """The grid with the top-1 that a surrogate of the trained ones tells."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV

    def inputs(archs: Sequence[Params]) -> Floats:
        rows = []
        for arch in archs:
            macs, params = pit_cost(arch)
            logs = [np.log(x) for x in (params, macs, arch["base_dim"], arch["mlp_ratio"])]
            depths = [arch[f"depth{i}"] for i in range(3)]
            rows.append([*logs, *depths, *(np.log2(arch[f"heads{i}"]) for i in range(3))])
        return np.array(rows)

    trained = json.loads(path.read_text())
    archs = [
        {
            "base_dim": row["base_dim"],
            "mlp_ratio": row["mlp_ratio"],
            **{f"depth{i}": d for i, d in enumerate(row["depth"])},
            **{f"heads{i}": h for i, h in enumerate(row["num_heads"])},
        }
        for row in trained
    ]
    x, y = inputs(archs), np.array([row["top1"] for row in trained])
    grid = pit_grid()
    target = inputs(grid)
    mean, std = x.mean(axis=0), x.std(axis=0)
    if surrogate == "kernel":
        choices = {"alpha": np.logspace(-3, 1, 9), "gamma": np.logspace(-3, 0, 7)}
        model = GridSearchCV(KernelRidge(kernel="rbf"), choices, cv=10)
        model.fit((x - mean) / std, y - y.mean())
        quality = model.predict((target - mean) / std) + y.mean()
    else:
        trees = ExtraTreesRegressor(500, min_samples_leaf=2, random_state=0).fit(x, y)
        quality = trees.predict(target)
    costs = np.array([pit_cost(arch) for arch in grid])
    return Problem(f"pit {surrogate}", grid, quality, costs[:, 0], costs[:, 1], NOISE)


def own() -> Problem:
    """This project's table: what was really reached, by the parameters of its space."""
    table = Table()
    space = table.space
    rows = list(table.rows.values())
    return Problem(
        "own",
        [space.params(space.encode(row.architecture)) for row in rows],
        np.array([-row.loss(PROXY.epochs) for row in rows]),
        np.array([row.macs for row in rows], dtype=float),
        np.array([row.params for row in rows], dtype=float),
        0.0,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "pit kernel": lambda: pit("kernel"),
    "pit extra-trees": lambda: pit("extra-trees"),
    "own": own,
}

# -- contenders ----------------------------------------------------------------------------------


class Filtered(BaseSampler):
    """Any sampler, its proposals replaced where they are infeasible or were tried."""

    def __init__(self, base: BaseSampler, problem: Problem, seed: int, tries: int = TRIES) -> None:
        self.base, self.problem, self.tries = base, problem, tries
        self.rng = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.problem.distributions

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.base.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self.base.after_trial(study, trial, state, values)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        candidates = self.problem.candidates
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        tried = {self.problem.number(t.params) for t in others if t.params}
        last: Rows | None = None
        for _ in range(self.tries):
            params = self.base.sample_relative(study, trial, search_space)
            if len(params) < len(search_space):
                break
            if self.problem.feasible(params) and self.problem.number(params) not in tried:
                return params
            last = candidates.encode(params)
        near = [] if last is None else self.rng.permutation(candidates.around(last[None], self.rng))
        everything = candidates.everything()
        assert everything is not None
        for row in [*near, *self.rng.permutation(everything)]:
            params = candidates.params(row)
            if self.problem.number(params) not in tried:
                return params
        raise SystemExit(f"{self.problem.name}: nothing is left")

    def sample_independent(self, *_: Any) -> Any:
        raise AssertionError("all parameters are sampled together")


def known_cost(problem: Problem, seed: int) -> BaseSampler:
    return KnownCostSampler(
        known={1: problem.log_params},
        feasible=problem.feasible,
        features=lambda params: [problem.log_macs(params)],
        seed=seed,
        search_space=problem.distributions,
    )


def filtered(
    make: Callable[[int], BaseSampler], tries: int = TRIES
) -> Callable[[Problem, int], BaseSampler]:
    return lambda problem, seed: Filtered(make(seed), problem, seed, tries)


CONTENDERS: dict[str, Callable[[Problem, int], BaseSampler]] = {
    MINE: known_cost,
    "random": filtered(lambda seed: RandomSampler(seed=seed), tries=0),
    "tpe multivariate": filtered(lambda seed: TPESampler(multivariate=True, seed=seed)),
    "nsga2": filtered(lambda seed: NSGAIISampler(population_size=20, seed=seed)),
    # A second proposal of the same model is nearly the same, and takes as long.
    "gp": filtered(lambda seed: GPSampler(seed=seed), tries=1),
}


def search(problem: Problem, name: str, seed: int, most: int) -> dict[str, Any]:
    """One search; scores at every point and the median seconds of a proposal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = CONTENDERS[name](problem, seed)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        tried: list[int] = []
        seconds: list[float] = []
        for _ in range(most):
            start = time.perf_counter()
            trial = study.ask(problem.distributions)
            seconds.append(time.perf_counter() - start)
            number = problem.number(trial.params)
            assert number is not None
            assert problem.feasible(trial.params)
            assert number not in tried
            tried.append(number)
            study.tell(trial, [problem.observed(number, seed), problem.log_params(trial.params)])
    points = [point for point in POINTS if point <= most]
    return {
        "scores": [problem.share(tried[:point]) for point in points],
        "strict": [problem.share(tried[:point], strict=True) for point in points],
        "ask_s": statistics.median(seconds),
    }


# -- figures -------------------------------------------------------------------------------------

_problems: dict[str, Problem] = {}


def _task(task: tuple[str, str, int, int]) -> tuple[str, int, dict[str, Any]]:
    name, contender, seed, most = task
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name not in _problems:
        _problems[name] = PROBLEMS[name]()
    problem = _problems[name]
    most = min(most, MOST.get(contender, most), len(problem.candidates.everything()) - 1)  # type: ignore[arg-type]
    return contender, seed, search(problem, contender, seed, most)


def interval(values: Floats) -> tuple[float, float]:
    """95% percentile bootstrap of the mean."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summary(runs: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, Any]:
    """Scores of every contender, and what the known-cost sampler has over it, seed by seed."""
    found = {}
    seeds = sorted(set.intersection(*(set(some) for some in runs.values())))
    scores = {
        name: np.array([some[seed]["scores"] for seed in seeds]) for name, some in runs.items()
    }
    if not seeds:
        return {}
    for name, some in runs.items():
        points = scores[name].shape[1]
        over = scores[MINE][:, :points] - scores[name] if MINE in scores else None
        found[name] = {
            "mean": scores[name].mean(axis=0).tolist(),
            "interval": [interval(column) for column in scores[name].T],
            "strict": np.mean([some[seed]["strict"] for seed in seeds], axis=0).tolist(),
            "seeds": len(seeds),
            "ask_s": statistics.median(run["ask_s"] for run in some.values()),
            "mine_minus_this": None
            if over is None or name == MINE
            else [{"mean": float(c.mean()), "interval": interval(c)} for c in over.T],
        }
    return found


def show(problem: str, found: Mapping[str, Any]) -> None:
    points = POINTS[: max(len(row["mean"]) for row in found.values())]
    print(f"\n{problem}: share of the best hypervolume" + "".join(f"{p:>8}" for p in points))
    for name, row in found.items():
        cells = "".join(f"{mean:8.3f}" for mean in row["mean"]).ljust(8 * len(points))
        print(f"{name:>34}{cells}   {row['ask_s'] * 1e3:.0f} ms an ask")
    for name, row in found.items():
        if row["mine_minus_this"]:
            cells = [
                f"{d['mean']:+.3f} [{d['interval'][0]:+.3f} {d['interval'][1]:+.3f}]"
                for d in row["mine_minus_this"]
            ]
            print(f"{MINE} - {name:21}" + "  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--most", type=int, default=100, help="evaluations of one search")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument(
        "--only",
        nargs="+",
        default=list(CONTENDERS),
        choices=list(CONTENDERS),
        help="contenders to run; the others' results are kept from --out",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "samplers.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    machine = fingerprint(torch.device("cpu"), 1).to_dict()
    made = {
        "noise": NOISE,
        "budget_quantile_of_macs": QUANTILE,
        "points": list(POINTS),
        "device": {key: machine[key] for key in ("device", "name", "cores", "threads", "torch")},
        "versions": versions() | {"scikit-learn": version("scikit-learn")},
    }
    earlier = json.loads(options.out.read_text()) if options.out.exists() else {}
    problems = earlier.get("problems", {}) if earlier.get("made") == made else {}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for name in options.problems:
            kept = problems.get(name, {}).get("runs", {})
            runs = {
                contender: {int(seed): run for seed, run in some.items()}
                for contender, some in kept.items()
                if contender not in options.only
            }
            tasks = [
                (name, contender, seed, options.most)
                for contender in options.only
                for seed in range(options.seeds)
            ]
            for contender, seed, run in pool.imap_unordered(_task, tasks):
                runs.setdefault(contender, {})[seed] = run
                problems[name] = {"summary": summary(runs), "runs": runs}
                options.out.write_text(json.dumps({"made": made, "problems": problems}) + "\n")
            show(name, problems[name]["summary"])


if __name__ == "__main__":
    main()
