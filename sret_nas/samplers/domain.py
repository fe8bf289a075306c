"""The domain of one search: its candidates, with what a sampler computes of them once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from sret_nas.samplers.candidates import Candidates, Floats, Params, Rows

POOL = 2_000
"""Candidates drawn at random for one proposal."""


class Domain:
    """Candidates, their inputs in the unit cube, and the rows of trials.

    Args:
        distributions: The search space that the candidates are of.
        candidates: What can be proposed.
        seed: Seed of the sample that inputs are scaled by.
    """

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], candidates: Candidates, seed: int
    ) -> None:
        self.distributions = dict(distributions)
        self.candidates = candidates
        self.seed = seed
        self._rows: dict[int, tuple[Params, Rows | None]] = {}

    def pool(self, rng: np.random.Generator) -> Rows:
        """All candidates of a small domain, else ``POOL`` random ones, (N, P)."""
        everything = self.candidates.everything()
        return self.candidates.draw(POOL, rng) if everything is None else everything

    def inputs(self, rows: Rows) -> Floats:
        """What the surrogate sees of candidates, (N, P): those inputs that vary, (N, D)."""
        low, width = self._limits
        varies = width > 0
        return (self.candidates.inputs(rows)[:, varies] - low[varies]) / width[varies]

    @cached_property
    def _limits(self) -> tuple[Floats, Floats]:
        """Least input and range of a sample that is always the same, (D,) each."""
        sample = self.candidates.inputs(self.pool(np.random.default_rng(self.seed)))
        return sample.min(axis=0), np.ptp(sample, axis=0)

    def keyed(self, rows: Rows) -> Iterator[tuple[Rows, bytes]]:
        """Candidates, (N, P), one by one with their keys, computed as far as they are needed."""
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            yield from zip(part, self.candidates.keys(part), strict=True)

    def row(self, trial: FrozenTrial) -> Rows | None:
        """The candidate of a trial, (P,); an enqueued one has parameters before it runs."""
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        known = self._rows.get(trial.number)
        if known is None or known[0] != params:
            known = self._rows[trial.number] = (dict(params), self.candidates.encode(params))
        return known[1]
