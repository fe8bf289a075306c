"""What ``KnownCostSampler`` proposes from in a search space under a budget.

Rows are encodings; everything is computed for arrays of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from sret_nas.arch import Architecture
from sret_nas.cost import stack
from sret_nas.errors import UsageError
from sret_nas.samplers.candidates import FEW, Floats, Params, Rows
from sret_nas.space import SearchSpace
from sret_nas.space.sampling import Draws
from sret_nas.study.records import record

METRICS = ("macs", "params", "peak_bytes")
BLOCK = 4_096
"""Encodings that are drawn at once."""
BLOCKS = 16
"""Blocks that are drawn before feasible encodings count as rare."""
WALKS = 256
"""Random walks where they are; each gives one encoding."""
FEW_BUILT = 2_000
"""Encodings up to which a space with a callable, which has to build each, is looked at whole."""


class SpaceCandidates:
    """The feasible encodings of a space; see ``Candidates``.

    Args:
        space: The space.
        limits: Upper bounds by metric: ``macs``, ``params``, ``peak_bytes``.
        costs: Names of the known objectives, ``latency_ms`` or from ``METRICS``;
            their logarithms are minimised, so that halving a cost is worth the same anywhere.

    A latency takes a measurement; that of what was not tried is estimated from what was.
    """

    def __init__(
        self, space: SearchSpace, limits: Mapping[str, float], costs: Sequence[str]
    ) -> None:
        self.space = space
        self.limits = dict(limits)
        self.names = tuple(costs)
        self._correction: Any = None
        self._words = [
            (j, len(d.choices))
            for j, d in enumerate(space.coordinates)
            if d.name.rsplit(".", 1)[-1] in ("order", "permute")
        ]

    def decode(self, row: Rows) -> Architecture:
        """What a row is."""
        return self.space.decode(row.tolist())

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """The encoding of a trial's parameters; ``None`` where they are not of this space."""
        if len(params) < len(self.space.coordinates):
            return None
        try:
            return np.array(self.space.from_params(params), dtype=np.int64)
        except UsageError:
            return None

    def params(self, row: Rows) -> Params:
        """The parameters of one encoding."""
        return self.space.params(row.tolist())

    def keys(self, rows: Rows) -> list[bytes]:
        """Equal where encodings stand for the same architecture."""
        told = rows if self.space.transform else self.space.coding.keys(rows)
        return [row.tobytes() for row in np.ascontiguousarray(told, dtype=np.int64)]

    # -- sets of them ------------------------------------------------------------------------

    def everything(self) -> Rows | None:
        """The encodings of all that the budget allows, of a space of at most ``FEW``."""
        return self._everything

    @cached_property
    def _everything(self) -> Rows | None:
        if self.space.size > (FEW if self.space.transform is None else FEW_BUILT):
            return None
        return self._distinct(self._feasible(self.space.coding.all_codes(0, self.space.size)))

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """Encodings at random, all different; where the budget leaves few, by walks among them."""
        found: list[Rows] = []
        block = BLOCK if self.space.transform is None else 64
        for _ in range(BLOCKS):
            found.append(self._feasible(self.space.coding.random_codes(block, rng)))
            if sum(map(len, found)) >= n:
                break
        drawn = np.concatenate(found)[:n]
        if len(drawn) < min(n, WALKS) and self.space.transform is None:
            starts = np.concatenate([drawn, self._frames])
            if len(starts):
                walks = starts[rng.integers(len(starts), size=WALKS)]
                drawn = np.concatenate(
                    [drawn, Draws(self.space.encodings, self.limits, rng).sweep(walks)]
                )
        return self._distinct(drawn)

    @cached_property
    def _frames(self) -> Rows:
        """Feasible encodings, exactly where there are any."""
        return Draws(self.space.encodings, self.limits, np.random.default_rng(0)).frames()

    def around(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Encodings one choice away from any of the rows, which the budget allows."""
        moved = [rows[:0]]
        for j, d in enumerate(self.space.coordinates):
            ordered = not isinstance(d.choices[0], str | bool)
            count = len(d.choices)
            for step in (-1, 1) if ordered else range(1, count):
                other = rows.copy()
                other[:, j] = other[:, j] + step if ordered else (other[:, j] + step) % count
                moved.append(other[(other[:, j] >= 0) & (other[:, j] < count)])
        near = self._feasible(np.concatenate(moved))
        own = set(self.keys(rows))
        return self._distinct(near[[key not in own for key in self.keys(near)]])

    def _feasible(self, codes: Rows) -> Rows:
        if not self.limits:
            return codes
        costs = self.space.costs(codes, tuple(self.limits))
        ok = np.ones(len(codes), dtype=bool)
        for metric, limit in self.limits.items():
            ok &= costs[metric] <= limit
        return codes[ok]

    def _distinct(self, codes: Rows) -> Rows:
        """One encoding of each; which one does not depend on the others."""
        _, first = np.unique(np.array(self.keys(codes), dtype=object), return_index=True)
        return codes[np.sort(first)]

    # -- numbers -----------------------------------------------------------------------------

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Estimate latencies from trials that have one.

        In proportion to the MACs, corrected by a ridge regression on ``inputs``.
        """
        if "latency_ms" not in self.names:
            return
        told = [
            (row, record(t).metrics["latency_ms"])
            for t in trials
            if (row := self.encode(t.params)) is not None and "latency_ms" in record(t).metrics
        ]
        if told:
            from sklearn.linear_model import Ridge

            rows, ms = np.array([row for row, _ in told]), np.array([ms for _, ms in told])
            macs = np.log(self.space.costs(rows, ("macs",))["macs"])
            self._correction = Ridge().fit(self.inputs(rows), np.log(ms) - macs)

    def costs(self, rows: Rows) -> Floats:
        """Natural logarithms of the known objectives, (N, K)."""
        found = {
            name: np.log(c.astype(float)) for name, c in self.space.costs(rows, METRICS).items()
        }
        if "latency_ms" in self.names:
            found["latency_ms"] = found["macs"]
            if self._correction is not None and len(rows):
                found["latency_ms"] = found["macs"] + self._correction.predict(self.inputs(rows))
        columns = [found[name] for name in self.names]
        return np.stack(columns, axis=1) if columns else np.empty((len(rows), 0))

    def inputs(self, rows: Rows) -> Floats:
        """Logarithms of all that costs depend on, and of the costs, (N, D).

        The same architecture looks the same however it is encoded.
        """
        codes = np.asarray(rows, dtype=np.int64)
        if self.space.transform is None:
            shape = self.space.coding.shape(codes)
        else:
            shape = stack(self.space.decode_many(codes))
        told = [np.log1p(column.astype(float)) for column in shape.columns()]
        told += [np.log(c.astype(float)) for c in self.space.costs(codes, METRICS).values()]
        told += [codes[:, j] == k for j, count in self._words for k in range(count)]
        return np.stack(told, axis=1).astype(float)
