"""A sampler for studies of which only one objective is uncertain.

Costs that are functions of the parameters are computed, not learned. What is left is one
quantity to model, and the expected hypervolume improvement becomes exact. It serves any
Optuna study, whatever the parameters are.

Here is Optuna's side of it. A proposal reads the trials (``observations``), and is the best
of an ``initial_design`` or, under the ``surrogate``, of a ``local_search`` by ``acquisition``.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from sret_nas.samplers import user_functions
from sret_nas.samplers.candidates import Candidates, FromDistributions, Params, Rows
from sret_nas.samplers.domain import Domain
from sret_nas.samplers.initial_design import first_value, initial_design
from sret_nas.samplers.local_search import by_improvement
from sret_nas.samplers.observations import Observations, observe

STARTUP = 4
"""Candidates of the initial design, before there is a surrogate."""
PENDING = 16
"""Workers asking at the same moment that are told apart."""


class KnownCostSampler(BaseSampler):
    """Multi-objective Bayesian optimisation where all objectives but one are known exactly.

    For any Optuna study that weighs one quantity that has to be tried, such as the accuracy of
    a network, against costs that are functions of the parameters, such as its size. The costs
    are computed, for as many candidates as it takes, and the budget of trials is spent on the
    one quantity that is uncertain. With no known cost it is ordinary Bayesian optimisation.

    The first ``n_startup_trials`` candidates, enqueued ones among them, are spread over the
    costs. From then on a Gaussian process of the uncertain objective, on the parameters, the
    known costs and the features, is the surrogate. The front is that of its posterior means of
    what was tried. The proposal is the feasible, untried candidate with the largest expected
    hypervolume improvement, which is exact because all other objectives are known.

    - *Pruned* trials count with the final value that their last step foretells, by a line
      through the complete ones; *failed* ones count as among the worst.
    - *Running* ones are taken to reach what the surrogate expects, so that workers that ask at
      once are given different candidates.
    - *Reproducible*: a proposal is a function of the seed and of the study's trials, whichever
      process asks for it.
    - *Static search spaces only*: a cost must be known before anything is suggested, so a
      parameter that only some trials have is refused. Without ``search_space`` the parameters
      are learned from the first trial, which takes small numbers and may be infeasible.

    Args:
        known: Exact value of every known objective as a function of the parameters, by the
            objective's index in the study, in the units that trials return. The one index that
            is missing is the uncertain objective.
        feasible: Whether parameters may be tried at all, such as whether they are within a
            budget. It is asked before a trial has them, so no trial is wasted; without it, all
            may.
        features: Further inputs of the surrogate as a function of the parameters, equally many
            for all: logarithms of whatever the uncertain objective is likely to depend on.
        seed: Seed of everything random; ``None`` draws one.
        search_space: Distributions of all parameters by name, where they are known before the
            first trial.
        n_startup_trials: Candidates of the initial design; at least two have to be complete
            before the surrogate is used.

    Raises:
        ValueError: on asking for a trial, if not exactly one objective is uncertain, a known
            cost is not what a trial returned or no finite number, a function needs a parameter
            that is not there, a parameter is conditional or of a changing range, its
            distribution is not one of Optuna's three kinds, or no feasible candidate is left.

    Example:
        >>> import optuna
        >>> from sret_nas import KnownCostSampler
        >>> def weights(params):
        ...     return params["width"] * params["depth"]
        >>> sampler = KnownCostSampler(
        ...     known={1: weights}, feasible=lambda params: weights(params) <= 256, seed=0
        ... )
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        >>> def objective(trial):
        ...     width, depth = trial.suggest_int("width", 1, 64), trial.suggest_int("depth", 1, 8)
        ...     return 1 - 1 / width - 0.1 / depth, width * depth
        >>> study.optimize(objective, n_trials=6)
        >>> all(weights(trial.params) <= 256 for trial in study.trials)
        True

    Sources:
        - Expected improvement: Jones, Schonlau and Welch 1998, "Efficient global optimization
          of expensive black-box functions"; of the hypervolume, exactly: Emmerich, Deutz and
          Klinkenberg 2011, "Hypervolume-based expected improvement". Departs: all factors but
          one are free of uncertainty (``acquisition`` has the formula).
        - Its logarithm: Ament et al. 2023, arXiv 2310.20708.
        - Priors of the surrogate: Hvarfner, Hellsten and Nardi 2024, arXiv 2402.02229.
        - Running trials: Ginsbourger, Le Riche and Carraro 2010, "Kriging is well-suited to
          parallelize optimization".
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
        # Here, so that the first proposal need not wait for scikit-learn.
        from sret_nas.samplers.surrogate import Surrogate

        self.known = dict(known)
        self.feasible = feasible
        self.features = features
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.search_space = search_space
        self.n_startup_trials = n_startup_trials
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._lock = threading.RLock()
        self._proposed: dict[int, Rows] = {}
        self._domain: Domain | None = None
        self._surrogate = Surrogate()
        self._compared: set[tuple[str, int]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_domain": None}

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
        for done in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if (key := (study.study_name, done.number)) not in self._compared:
                user_functions.compare(self.known, done)
                self._compared.add(key)
        params = self.propose(study, trial, search_space)
        if params is None:
            tried = any(t.number != trial.number for t in study.get_trials(deepcopy=False))
            raise ValueError(
                "KnownCostSampler: every feasible candidate has been tried"
                if tried
                else "KnownCostSampler: no candidate is feasible, of all or of many at random"
            )
        return params

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
        value, feasible = first_value(
            param_name, param_distribution, trial, self.feasible, self.seed
        )
        if not feasible:
            warnings.warn(
                f"KnownCostSampler: trial {trial.number} is infeasible: it was drawn before any "
                "trial told the search space; give search_space=…",
                stacklevel=2,
            )
        return value

    # -- proposing ---------------------------------------------------------------------------

    def propose(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params | None:
        """The next candidate; ``None`` where none is left among those looked at.

        Raises:
            ValueError: not exactly one objective is uncertain.
        """
        index = user_functions.uncertain(self.known, len(study.directions))
        sign = -1 if study.directions[index] == StudyDirection.MAXIMIZE else 1
        # Matrices of a few hundred rows: more threads than one cost more than they save.
        with self._lock, threadpool_limits(1):
            if self._domain is None or self._domain.distributions != search_space:
                self._domain = Domain(
                    search_space, self._candidates(study, search_space), self.seed
                )
            seen = observe(
                self._trials(study),
                trial.number,
                value_of=lambda t: sign * t.values[index],
                curve_of=lambda t: {k: sign * v for k, v in self._curve(t).items()},
                row_of=self._domain.row,
                proposed=self._proposed,
            )
            row = self._next(self._domain, seen)
            if row is None:
                return None
            self._proposed = {n: r for n, r in self._proposed.items() if n > trial.number - 1_000}
            self._proposed[trial.number] = row
            return self._domain.candidates.params(row)

    def _next(self, domain: Domain, seen: Observations) -> Rows | None:
        """The row of the next candidate, (P,)."""
        candidates = domain.candidates
        taken = set(candidates.keys(seen.tried)) if len(seen.tried) else set()
        rng = np.random.default_rng((self.seed, len(seen.tried)))
        pool = domain.pool(rng)
        row = None
        # Workers that ask at the same moment see the same study: each takes its own place
        # in one sequence of proposals, the earlier ones taken as running.
        for _ in range(min(seen.pending, PENDING) + 1):
            if len(seen.tried) < self.n_startup_trials or len(seen.values) < 2:
                ranked = initial_design(
                    domain, seen.tried, pool, max(self.n_startup_trials, 1), rng
                )
            else:
                posterior = self._surrogate.posterior(domain, seen)
                ranked = by_improvement(domain, posterior, seen, pool, taken, rng)
            untried = (r for r, k in domain.keyed(ranked) if k not in taken)
            row = next((r for r in untried if self._acceptable(r)), None)
            if row is None:
                return None
            taken.add(candidates.keys(row[None])[0])
            seen.add_running(row)
        return row

    # -- what a subclass may know better -----------------------------------------------------

    def _candidates(
        self, study: optuna.Study, search_space: Mapping[str, BaseDistribution]
    ) -> Candidates:
        """What can be proposed."""

        def known(index: int) -> Callable[[Params], float]:
            sign = -1 if study.directions[index] == StudyDirection.MAXIMIZE else 1
            cost = user_functions.checked(f"known[{index}]", self.known[index])
            return lambda params: sign * float(cost(params))

        return FromDistributions(
            search_space,
            [known(index) for index in sorted(self.known)],
            user_functions.checked("feasible", self.feasible),
            user_functions.checked("features", self.features),
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
