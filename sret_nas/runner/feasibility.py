"""What is known before training: what to try first, costs, latency, whether it fits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ArchitectureError, SretNasError
from sret_nas.latency.bounds import MOST_TRIES
from sret_nas.runner.sampling import SpaceExhausted
from sret_nas.space import Clock, SearchSpace, Timing
from sret_nas.study.config import RunConfig

IMPOSSIBLE = "impossible at the proxy's scale"


def published(space: SearchSpace, config: RunConfig) -> list[Architecture]:
    """The published variants to try first, cheapest first; each function once."""
    if not config.published:
        return []
    top = space.coding.top
    heads = itertools.product(top["num_classes"].choices, top["in_chans"].choices)
    fitted = (
        arch.at(num_classes=classes, in_chans=channels)
        for classes, channels in heads
        for arch in zoo.PUBLISHED.values()
    )
    distinct = {arch.id: arch for arch in fitted if arch in space}
    return sorted(distinct.values(), key=lambda arch: cost(arch).macs)


class Feasibility:
    """Costs and latencies of candidates, and why some cannot be tried.

    Args:
        config: What was asked for.
        fits: Whether an architecture exists at the evaluator's scale.
        clock: Tells latencies; needed where a bound or an objective is one.

    Attributes:
        latency_s: Seconds that went into latencies since ``begin``.
        fastest: The smallest latency that was told.
    """

    def __init__(
        self,
        config: RunConfig,
        fits: Callable[[Architecture], object],
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.fits = fits
        self.clock = clock
        self.latency_s = 0.0
        self.fastest: Timing | None = None
        self._timings: dict[tuple[str, int], Timing] = {}
        self._unfit: dict[str, str] = {}
        self._unfit_in_a_row = 0

    def begin(self) -> None:
        """Another candidate is looked for."""
        self.latency_s, self._unfit_in_a_row = 0.0, 0

    def metrics(self, arch: Architecture) -> dict[str, float]:
        """The costs of a candidate, with its latency where that matters."""
        found = cost(arch)
        metrics: dict[str, float] = {
            "macs": found.macs,
            "params": found.params,
            "peak_bytes": found.peak_bytes,
        }
        timing = self.timing(arch)
        if timing is not None:
            metrics["latency_ms"] = timing.ms
        return metrics

    def timing(self, arch: Architecture) -> Timing | None:
        """The latency that is a metric of the candidate, where it matters."""
        batches = self.config.latency_batches
        return self.tell(arch, batches[0]) if batches else None

    def reject(self, arch: Architecture) -> str | None:
        """Why an architecture cannot be tried, if so.

        Raises:
            SpaceExhausted: so many in a row cannot that looking for more is hopeless.
        """
        if arch.id in self._unfit:
            return self._unfit[arch.id]
        reason = self._why_unfit(arch)
        if reason is None:
            self._unfit_in_a_row = 0
            return None
        self._unfit[arch.id] = reason
        self._unfit_in_a_row += 1
        measured = reason != IMPOSSIBLE and (
            self.fastest is None or self.fastest.source == "measured"
        )
        if self._unfit_in_a_row >= MOST_TRIES["measured" if measured else "predicted"]:
            raise SpaceExhausted(f"{self._unfit_in_a_row:,} in a row are {reason}")
        return reason

    def _why_unfit(self, arch: Architecture) -> str | None:
        try:
            self.fits(arch)
        except ArchitectureError:
            return IMPOSSIBLE
        for bound in self.config.budgets:
            if bound.metric != "latency_ms":
                continue
            try:
                timing = self.tell(arch, bound.batch)
            except SretNasError:
                return "of unknown latency"
            if self.fastest is None or timing.most_ms < self.fastest.most_ms:
                self.fastest = timing
            if timing.most_ms > bound.limit:
                return "too slow"
        return None

    def tell(self, arch: Architecture, batch: int) -> Timing:
        """The latency of a candidate, told once."""
        key = (arch.id, batch)
        if key not in self._timings:
            assert self.clock is not None
            start = time.perf_counter()
            self._timings[key] = self.clock(arch, batch)
            self.latency_s += time.perf_counter() - start
        return self._timings[key]
