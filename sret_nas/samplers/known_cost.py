"""A sampler for studies of which only one objective is uncertain.

Costs that are functions of the parameters are computed, not learned. What is left is one
quantity to model, and the expected hypervolume improvement becomes exact (``acquisition``).
It serves any Optuna study, whatever the parameters are.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from sret_nas import pareto
from sret_nas.samplers.acquisition import KnownCostEHVI
from sret_nas.samplers.candidates import Candidates, FromDistributions, Params, Rows

if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Kernel

    from sret_nas.samplers.surrogate import Posterior

Floats = npt.NDArray[np.float64]

STARTUP = 4
"""Candidates that are spread over the costs before there is a model."""
BEST_OF = 200
"""Random candidates among which one of them is chosen."""
POOL = 2_000
"""Candidates drawn at random for one proposal."""
CLIMBS = 3
"""Rounds in which the best candidates are replaced by better neighbours."""
CLIMBERS = 5
FIT = 128
"""Observations that hyperparameters are fitted to; more are thinned evenly."""
REFIT = 1.1
"""Hyperparameters are fitted again when there are so many times as many observations."""
MOST = 1_000
"""Observations that a model is conditioned on, beside the front; more are thinned evenly."""
PENDING = 16
"""Workers asking at the same moment that are told apart."""
FAILED = 0.25
"""Doubt about a failed trial's place among the worst, as a share of the variance."""
MARGIN = 0.05
"""Of the range, beyond the worst: the reference point."""


@dataclass
class _Seen:
    """What the trials of a study tell.

    Attributes:
        rows: Trials with something to learn from, (N, P).
        values: The uncertain objective to minimise, or what stands for it, (N,).
        noise: Its extra variance as a share of the variance of all, (N,).
        running: Trials at work, (R, P).
        placed: All candidates that were tried or will be, (T, P).
        pending: Trials being asked for before this one, of which nothing is known yet.
    """

    rows: Rows
    values: Floats
    noise: Floats
    running: Rows
    placed: Rows
    pending: int


class KnownCostSampler(BaseSampler):
    """Expected hypervolume improvement where only one objective is uncertain.

    The uncertain objective is modelled by a Gaussian process on the parameters, the known
    costs and the features; the front is that of the posterior means of what was tried, and
    the proposal is the feasible, untried candidate with the largest exact expected
    hypervolume improvement. A model is used after ``n_startup_trials`` candidates that are
    spread over the costs; enqueued trials are counted among them.

    Trials that were pruned count with what they would have reached, as the shift from their
    last step to the final value, learned from complete trials, says; failed ones as among
    the worst. Running ones are taken to reach what the model expects.

    A proposal is a function of the seed and of the study's trials. Search spaces must be
    static: a parameter that only some trials have is refused, since a cost must be known
    before anything is suggested. Without ``search_space``, the first trials' parameters are
    not known in advance: the first trial takes small numbers, later ones random ones, and the
    last parameter is chosen so that the trial is feasible if it can be.

    Args:
        known: Objective index → its exact value from the parameters. The one index that is
            missing is the uncertain objective.
        feasible: Whether parameters may be tried at all, checked before a trial has them.
        features: Further inputs of the model, e.g. logarithms of costs.
        seed: Of everything random; ``None`` draws one.
        search_space: The distributions, where they are known before the first trial.
        n_startup_trials: See above.

    Example:
        >>> import math, optuna
        >>> from sret_nas import KnownCostSampler
        >>> sampler = KnownCostSampler(known={1: lambda params: params["width"]}, seed=0)
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        >>> def objective(trial):
        ...     width = trial.suggest_int("width", 1, 64)
        ...     return 1 - 1 / width, width
        >>> study.optimize(objective, n_trials=3)

    Source: see ``acquisition`` and ``gp``.
    """

    def __init__(
        self,
        known: Mapping[int, Callable[[Params], float]],
        feasible: Callable[[Params], bool] | None = None,
        features: Callable[[Params], Sequence[float]] | None = None,
        seed: int | None = None,
        *,
        search_space: Mapping[str, BaseDistribution] | None = None,
        n_startup_trials: int = STARTUP,
    ) -> None:
        self.known = dict(known)
        self.feasible = feasible
        self.features = features
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.search_space = search_space
        self.n_startup_trials = n_startup_trials
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._lock = threading.RLock()
        self._proposed: dict[int, Rows] = {}
        self._made: tuple[dict[str, BaseDistribution], Candidates] | None = None
        self._limits: tuple[Floats, Floats] | None = None
        self._kernels: dict[bytes, Kernel] = {}
        self._rows: dict[int, tuple[Params, Rows | None]] = {}
        self._checked: set[tuple[str, int]] = set()
        import sret_nas.samplers.surrogate  # noqa: F401  # now, so that the first proposal need not wait

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_made": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.RLock()

    # -- Optuna's side -----------------------------------------------------------------------

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that every trial so far had, or ``search_space``."""
        if self.search_space is not None:
            return dict(self.search_space)
        return self._intersection.calculate(study)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """The next candidate.

        Raises:
            ValueError: not exactly one objective is uncertain, nothing feasible is left, or what
                is said to be known is not what trials returned.
        """
        if not search_space:
            return {}
        self._check(study)
        params = self.propose(study, trial, search_space)
        if params is None:
            tried = any(t.number != trial.number for t in study.get_trials(deepcopy=False))
            raise ValueError(
                "KnownCostSampler: every feasible candidate has been tried"
                if tried
                else "KnownCostSampler: no candidate is feasible, of all or of many at random"
            )
        return params

    def _check(self, study: optuna.Study) -> None:
        """Compare what is known with what complete trials returned, each trial once.

        Raises:
            ValueError: they differ, or a known cost is no number.
        """
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in done:
            if (study.study_name, trial.number) in self._checked:
                continue
            for index, cost in self.known.items():
                known, told = self._ask_user(f"known[{index}]", cost, trial.params), trial.values
                if not math.isclose(known, told[index], rel_tol=1e-6, abs_tol=1e-9):
                    raise ValueError(
                        f"KnownCostSampler: known[{index}] says {known:g} of trial {trial.number}, "
                        f"which returned {told[index]:g}; is it another objective's?"
                    )
            self._checked.add((study.study_name, trial.number))

    def _ask_user(self, name: str, function: Callable[[Params], Any], params: Params) -> Any:
        """What a function of the user says.

        Raises:
            ValueError: it needs a parameter that is not there, or says no number.
        """
        try:
            found = function(dict(params))
        except KeyError as error:
            raise ValueError(
                f"KnownCostSampler: {name} needs parameter {error}; every trial has "
                f"{', '.join(params) or 'none'}"
            ) from error
        if name.startswith("known") and not math.isfinite(found):
            raise ValueError(f"KnownCostSampler: {name} says {found} of {params}")
        return found

    def propose(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params | None:
        """The next candidate; ``None`` where none is left among those looked at."""
        # Matrices of a few hundred rows: more threads than one cost more than they save.
        self._uncertain(study)
        with self._lock, threadpool_limits(1):
            candidates = self._from(study, search_space)
            row = self._propose(study, trial, candidates)
            if row is None:
                return None
            self._proposed[trial.number] = row
            return candidates.params(row)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value while no trial has told the search space yet.

        Raises:
            ValueError: the parameter is conditional, or its range changes.
        """
        if self.infer_relative_search_space(study, trial):
            raise ValueError(
                f"KnownCostSampler: parameter '{param_name}' is not one that every trial has with "
                "the same range; costs are known before a trial in a static search space alone"
            )
        rng = np.random.default_rng((self.seed, trial.number, *param_name.encode()))
        one = FromDistributions({param_name: param_distribution})
        rows = one.draw(100, rng)
        # The first trial is cheap where costs rise with the numbers; others are random.
        rows = rng.permutation(rows) if trial.number else np.roll(rows, -(len(rows) // 10), axis=0)
        for row in rows:
            try:
                if not self.feasible or self.feasible({**trial.params, **one.params(row)}):
                    return one.params(row)[param_name]
            except KeyError:  # it needs parameters that are still to come
                return one.params(row)[param_name]
        warnings.warn(
            f"KnownCostSampler: trial {trial.number} is infeasible: it was drawn before any trial "
            "told the search space; give search_space=…",
            stacklevel=2,
        )
        return one.params(rows[0])[param_name]

    # -- what is known -----------------------------------------------------------------------

    def _candidates(
        self, study: optuna.Study, search_space: Mapping[str, BaseDistribution]
    ) -> Candidates:
        """What can be proposed."""
        signs = [-1 if d == StudyDirection.MAXIMIZE else 1 for d in study.directions]

        def known(index: int) -> Callable[[Params], float]:
            name, cost, sign = f"known[{index}]", self.known[index], signs[index]
            return lambda params: sign * float(self._ask_user(name, cost, params))

        def safe(name: str, function: Callable[[Params], Any] | None) -> Any:
            return function and (lambda params: self._ask_user(name, function, params))

        return FromDistributions(
            search_space,
            [known(index) for index in sorted(self.known)],
            safe("feasible", self.feasible),
            safe("features", self.features),
        )

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials that count."""
        return study.get_trials(deepcopy=False)

    def _curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """The uncertain objective after each step of a trial."""
        return trial.intermediate_values

    def _acceptable(self, row: Rows) -> bool:
        """The last word on what would be proposed."""
        return True

    def _uncertain(self, study: optuna.Study) -> int:
        open_ = [i for i in range(len(study.directions)) if i not in self.known]
        if len(open_) != 1 or max(self.known, default=0) >= len(study.directions):
            raise ValueError(
                f"KnownCostSampler: known objectives {sorted(self.known)} of a study with "
                f"{len(study.directions)}; allowed: all but one"
            )
        return open_[0]

    def _from(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> Candidates:
        if self._made is None or self._made[0] != search_space:
            self._made = (dict(search_space), self._candidates(study, search_space))
            self._limits = None
            self._rows = {}
        return self._made[1]

    def _look(self, study: optuna.Study, trial: FrozenTrial, candidates: Candidates) -> _Seen:
        """Read the study."""
        index = self._uncertain(study)
        sign = -1 if study.directions[index] == StudyDirection.MAXIMIZE else 1
        complete: list[tuple[Rows, float, Mapping[int, float]]] = []
        pruned: list[tuple[Rows, Mapping[int, float]]] = []
        failed: list[Rows] = []
        running: list[Rows] = []
        placed: list[Rows] = []
        pending = 0
        for other in self._trials(study):
            if other.number == trial.number:
                continue
            row = self._encoded(candidates, other)
            if row is None and other.state == TrialState.RUNNING:
                row = self._proposed.get(other.number)
                if row is None:
                    pending += other.number < trial.number
            if row is None:
                continue
            placed.append(row)
            match other.state:
                case TrialState.COMPLETE:
                    value = sign * other.values[index]
                    if math.isfinite(value):
                        complete.append((row, value, self._curve(other)))
                    else:
                        failed.append(row)
                case TrialState.PRUNED:
                    curve = {k: sign * v for k, v in self._curve(other).items()}
                    pruned.append((row, {k: v for k, v in curve.items() if math.isfinite(v)}))
                case TrialState.FAIL:
                    failed.append(row)
                case TrialState.RUNNING:
                    running.append(row)
        self._proposed = {n: r for n, r in self._proposed.items() if n > trial.number - 1_000}
        rows, values, noise = _learned(complete, pruned, failed, sign)
        return _Seen(
            _stack(rows, placed), values, noise, _stack(running, placed), _stack(placed), pending
        )

    def _encoded(self, candidates: Candidates, trial: FrozenTrial) -> Rows | None:
        """The row of a trial; an enqueued one has parameters before it runs."""
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        known = self._rows.get(trial.number)
        if known is None or known[0] != params:
            known = self._rows[trial.number] = (dict(params), candidates.encode(params))
        return known[1]

    # -- proposing ---------------------------------------------------------------------------

    def _propose(
        self, study: optuna.Study, trial: FrozenTrial, candidates: Candidates
    ) -> Rows | None:
        seen = self._look(study, trial, candidates)
        taken = set(candidates.keys(seen.placed)) if len(seen.placed) else set()
        rng = np.random.default_rng((self.seed, len(seen.placed)))
        pool = self._pool(candidates, rng)
        row = None
        # Workers that ask at the same moment see the same study: each takes its own place
        # in one sequence of proposals, the earlier ones taken as running.
        for _ in range(min(seen.pending, PENDING) + 1):
            if len(seen.placed) < self.n_startup_trials or len(seen.values) < 2:
                ranked = self._spread(candidates, seen.placed, pool, rng)
            else:
                ranked = self._improving(candidates, seen, pool, taken, rng)
            untried = (r for r, k in _keyed(candidates, ranked) if k not in taken)
            row = next((r for r in untried if self._acceptable(r)), None)
            if row is None:
                return None
            taken.add(candidates.keys(row[None])[0])
            seen.running = np.vstack([seen.running, row]) if len(seen.placed) else row[None]
            seen.placed = np.vstack([seen.placed, row]) if len(seen.placed) else row[None]
        return row

    def _pool(self, candidates: Candidates, rng: np.random.Generator) -> Rows:
        everything = candidates.everything()
        return candidates.draw(POOL, rng) if everything is None else everything

    def _inputs(self, candidates: Candidates, rows: Rows) -> Floats:
        """What the model sees, in the unit cube of a sample that is always the same."""
        if self._limits is None:
            sample = candidates.inputs(self._pool(candidates, np.random.default_rng(self.seed)))
            self._limits = sample.min(axis=0), np.ptp(sample, axis=0)
        low, width = self._limits
        varies = width > 0
        return (candidates.inputs(rows)[:, varies] - low[varies]) / width[varies]

    def _spread(
        self, candidates: Candidates, placed: Rows, pool: Rows, rng: np.random.Generator
    ) -> Rows:
        """Candidates where there are fewest yet: over the costs first, then over the inputs.

        Of ``BEST_OF`` random ones from the emptiest range of costs, the one that is farthest
        from all others comes first (Mitchell's best candidate).
        """
        n = max(self.n_startup_trials, 1)
        pool = pool[rng.permutation(len(pool))]
        some, rest = pool[: BEST_OF * n], pool[BEST_OF * n :]
        if not len(some):
            return some
        x, far = self._inputs(candidates, some), np.full(len(some), np.inf)
        for other in self._inputs(candidates, placed) if len(placed) else ():
            far = np.minimum(far, ((x - other) ** 2).sum(axis=1))
        costs = candidates.costs(pool)
        crowd = np.zeros(len(some))
        if costs.shape[1]:
            first = np.sort(costs[:, 0])
            bounds = first[(np.arange(1, n) * len(pool)) // n]
            old = candidates.costs(placed)[:, 0] if len(placed) else np.empty(0)
            filled = np.bincount(np.searchsorted(bounds, old, side="right"), minlength=n)
            order = np.array([_van_der_corput(i) for i in range(n)])  # low, middle, low again, …
            stratum = np.searchsorted(bounds, costs[: len(some), 0], side="right")
            crowd = (filled + order / 2)[stratum]
        return np.concatenate([some[np.lexsort((-far, crowd))], rest])

    def _improving(
        self,
        candidates: Candidates,
        seen: _Seen,
        pool: Rows,
        taken: set[bytes],
        rng: np.random.Generator,
    ) -> Rows:
        """Candidates by expected improvement, the best first."""
        model = self._model(candidates, seen)
        tried = np.concatenate([seen.rows, seen.running])
        expected, _ = model(self._inputs(candidates, tried))
        costs = candidates.costs(tried)
        reach = np.concatenate([costs, candidates.costs(pool)])
        low, high = reach.min(axis=0), reach.max(axis=0)
        worst, best = expected.max(), expected.min()
        acquisition = KnownCostEHVI(
            expected,
            (costs - low) / np.maximum(high - low, 1e-12),
            worst + MARGIN * (worst - best),
            np.full(costs.shape[1], 1 + MARGIN),
        )

        def gain(rows: Rows) -> Floats:
            mean, std = model(self._inputs(candidates, rows))
            return acquisition.log(
                mean, std, (candidates.costs(rows) - low) / np.maximum(high - low, 1e-12)
            )

        if candidates.everything() is not None:
            return pool[np.argsort(-gain(pool), kind="stable")]
        front = tried[pareto.front(np.column_stack([expected, costs]))]
        pool = np.concatenate([pool, candidates.around(front, rng)])
        gains = gain(pool)
        for _ in range(CLIMBS):
            order = np.argsort(-gains, kind="stable")
            keys = candidates.keys(pool[order[: 10 * CLIMBERS]])
            fresh = [i for i, key in zip(order, keys, strict=False) if key not in taken]
            nearby = candidates.around(pool[fresh[:CLIMBERS]], rng)
            known = set(candidates.keys(pool))
            new = [i for i, key in enumerate(candidates.keys(nearby)) if key not in known]
            if not new:
                break
            pool = np.concatenate([pool, nearby[new]])
            gains = np.concatenate([gains, gain(nearby[new])])
        return pool[np.argsort(-gains, kind="stable")]

    # -- the model ---------------------------------------------------------------------------

    def _model(self, candidates: Candidates, seen: _Seen) -> Posterior:
        from sret_nas.samplers.surrogate import Posterior

        rows, values, noise = seen.rows, seen.values, seen.noise
        if len(rows) > MOST:
            points = np.column_stack([values, candidates.costs(rows)])
            evenly = np.linspace(0, len(rows) - 1, MOST).astype(int)
            some = np.union1d(np.flatnonzero(pareto.front(points)), evenly)
            rows, values, noise = rows[some], values[some], noise[some]
        x = self._inputs(candidates, rows)
        scale = float(values.mean()), float(values.std()) or 1.0
        kernel = self._kernel(candidates, seen)
        model = Posterior(kernel, x, values, noise, scale)
        if len(seen.running):
            running = self._inputs(candidates, seen.running)
            expected, _ = model(running)
            model = Posterior(
                kernel,
                np.concatenate([x, running]),
                np.concatenate([values, expected]),
                np.concatenate([noise, np.zeros(len(running))]),
                scale,
            )
        return model

    def _kernel(self, candidates: Candidates, seen: _Seen) -> Kernel:
        """Hyperparameters from the first so many observations, fitted again now and then."""
        n = len(seen.values)
        used = 2
        while (following := max(used + 1, int(used * REFIT))) <= n:
            used = following
        some = np.arange(used)
        if used > FIT:
            some = np.linspace(0, used - 1, FIT).round().astype(int)
        x, y, noise = seen.rows[some], seen.values[some], seen.noise[some]
        key = x.tobytes() + y.tobytes() + noise.tobytes()
        if key not in self._kernels:
            from sret_nas.samplers.surrogate import fit

            scaled = (y - y.mean()) / (y.std() or 1.0)
            self._kernels = {key: fit(self._inputs(candidates, x), scaled, noise)}
        return self._kernels[key]


def _learned(
    complete: Sequence[tuple[Rows, float, Mapping[int, float]]],
    pruned: Sequence[tuple[Rows, Mapping[int, float]]],
    failed: Sequence[Rows],
    sign: int,
) -> tuple[list[Rows], Floats, Floats]:
    """Observations, what stands for them, and extra noise as a share of the variance."""
    rows = [row for row, _, _ in complete]
    values = [value for _, value, _ in complete]
    noise = [0.0] * len(values)
    spread = float(np.var(values)) if len(values) > 1 else 1.0
    final = np.array(values)
    lines: dict[int, _Line | None] = {}
    for row, curve in pruned:
        if not curve:
            continue
        step = max(curve)
        if step not in lines:
            lines[step] = _line(
                [
                    (sign * c[step], v)
                    for _, v, c in complete
                    if math.isfinite(c.get(step, math.inf))
                ]
            )
        line = lines[step]
        if line is None:
            continue
        rows.append(row)
        values.append(line.at(curve[step]))
        noise.append(line.variance / max(spread, 1e-12))
    for row in failed:
        if len(final):
            rows.append(row)
            values.append(float(final.max()))
            noise.append(FAILED)
    return rows, np.array(values), np.array(noise)


class _Line(NamedTuple):
    """What a trial that had a value at a step would have reached, and its variance."""

    step: float
    end: float
    slope: float
    variance: float

    def at(self, here: float) -> float:
        return self.end + self.slope * (here - self.step)


def _line(pairs: Sequence[tuple[float, float]]) -> _Line | None:
    """Through values at a step and at the end; drawn towards a slope of 1 where they are few."""
    if len(pairs) < 2:
        return None
    x, y = np.array(pairs).T
    weight = np.var(x) * 2 + 1e-12  # as if two more trials had said so
    slope = (len(x) * np.cov(x, y, bias=True)[0, 1] + weight) / (len(x) * np.var(x) + weight)
    residual = y - y.mean() - slope * (x - x.mean())
    prior = np.var(y) * 0.25
    variance = (residual @ residual + 2 * prior) / (len(x) + 2)
    return _Line(float(x.mean()), float(y.mean()), float(slope), float(variance))


def _keyed(candidates: Candidates, rows: Rows) -> Any:
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        yield from zip(part, candidates.keys(part), strict=True)


def _stack(rows: Sequence[Rows], like: Sequence[Rows] = ()) -> Rows:
    """Rows as an array, of the columns and numbers of others where there are none."""
    some = rows or like
    return np.array(some).reshape(len(some), -1)[: len(rows)] if some else np.empty((0, 0))


def _van_der_corput(i: int) -> float:
    """The i-th point of the sequence in base 2."""
    x, unit = 0.0, 0.5
    while i:
        x += unit * (i & 1)
        i, unit = i >> 1, unit / 2
    return x
