"""Bounds in milliseconds: by a calibrated predictor where there is one, else by measuring.

An architecture satisfies such a bound only where its latency *and* the margin stay
below it: the margin of a prediction covers its error on architectures that it was
not calibrated on, that of a measurement is the interval of its median.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, TypeAlias

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, InfeasibleError, UsageError
from sret_nas.latency import predictor as predictors
from sret_nas.latency.default import TORCH
from sret_nas.units import Budget

SECONDS = 2.0
"""Measuring one architecture; its margin says how well that did."""
MOST_TRIES = {"predicted": 5000, "measured": 50}
"""Architectures in a row that fail before the search for another one ends."""


class Timing(NamedTuple):
    """The latency of one batch through an architecture.

    Attributes:
        ms: Milliseconds.
        margin_ms: What it may be wrong by.
        source: Whether it was ``predicted`` or ``measured``.
        warning: Why to trust it less, or ``None``.
    """

    ms: float
    margin_ms: float
    source: Literal["predicted", "measured"]
    warning: str | None = None

    @property
    def most_ms(self) -> float:
        """Latency plus margin: what has to lie within a bound."""
        return self.ms + self.margin_ms


Clock: TypeAlias = Callable[[Architecture, int], Timing]
"""Tells the latency of an architecture for a batch of so many images."""


def clock(
    device: str = "auto",
    dtype: str | None = None,
    mode: str | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    runtime: str | None = None,
) -> Clock:
    """A clock for a device: its predictor where it was calibrated, else measurements.

    Requires torch.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; default: the runtime's on the device.
        mode: One of the runtime's; default: the runtime's on the device.
        threads: Threads of torch on the CPU; default: as set.
        progress: Told one line where there is no predictor for a batch.
        alone: Entered while something is measured.
        runtime: Name of the runtime; default torch.

    Raises:
        UsageError: this machine has no such device, or not this type, mode or runtime on it.
    """
    from sret_nas.device import resolve
    from sret_nas.latency import measurement
    from sret_nas.latency.runtimes import named

    place, runs = resolve(device), named(runtime or TORCH)
    device = str(place)  # one for all that it is asked
    mode, dtype = runs.setting(place, mode, dtype)
    measurement.check(dtype, device, mode, threads, runs.name)
    known: dict[int, predictors.Predictor | None] = {}
    measured: dict[tuple[str, int], Timing] = {}

    def predictor(batch: int) -> predictors.Predictor | None:
        if batch not in known:
            try:
                known[batch] = predictors.load_predictor(
                    device, batch, dtype, mode, threads, runtime=runs.name
                )
            except ConfigError:
                raise
            except UsageError as error:  # not calibrated
                known[batch] = None
                progress(f"{error}: measuring, {SECONDS:.0f} s each; {error.hint} makes it fast")
        return known[batch]

    def tell(arch: Architecture, batch: int) -> Timing:
        fitted = predictor(batch)
        if fitted is not None:
            ms, margin_ms, warning = fitted.predict(arch)
            return Timing(ms, margin_ms, "predicted", warning)
        key = (arch.id, batch)
        if key not in measured:
            with alone():
                results = measurement.measure(
                    {arch.id: arch},
                    batches=(batch,),
                    device=device,
                    dtype=dtype,
                    mode=mode,
                    threads=threads,
                    seconds=SECONDS,
                    runtime=runs.name,
                )
            found = results[key]
            if isinstance(found, Exception):
                raise found
            margin_ms = max(0.0, found.high_ms - found.median_ms)
            measured[key] = Timing(found.median_ms, margin_ms, "measured", found.note)
        return measured[key]

    return tell


def satisfying(
    archs: Iterable[Architecture],
    bounds: Sequence[Budget],
    tell: Clock | None,
    space: str,
) -> Iterator[Architecture]:
    """The architectures whose latencies satisfy their bounds.

    Ends where ``MOST_TRIES`` in a row do not: a latency cannot be computed, so that
    there is none left cannot be known.

    Raises:
        UsageError: no clock.
        InfeasibleError: none was found; with the fastest.
    """
    if tell is None:
        raise UsageError(
            f"budget '{bounds[0].text or bounds[0]}': a latency needs a device",
            "pass clock=sret_nas.latency.clock(device)",
        )
    fastest: tuple[float, Budget, Timing, Architecture] | None = None
    failed, any_found = 0, False
    for arch in archs:
        timings = [(bound, tell(arch, bound.batch)) for bound in bounds]
        excess, bound, timing = max(
            ((timing.most_ms / bound.limit, bound, timing) for bound, timing in timings),
            key=lambda one: one[0],
        )
        if excess <= 1:
            any_found, failed = True, 0
            yield arch
            continue
        if fastest is None or excess < fastest[0]:
            fastest = (excess, bound, timing, arch)
        failed += 1
        if failed >= MOST_TRIES[timing.source]:
            break
    if not any_found and fastest is not None:
        _, bound, timing, arch = fastest
        raise InfeasibleError(
            f"none of {failed:,} architectures of space '{space}' satisfies "
            f"'{bound.text or bound}'; the nearest: {timing.ms:.3g} ms, "
            f"{timing.source} with a margin of {timing.margin_ms:.2g} ms: {arch.to_json()}",
            "raise the bound or choose a smaller space; "
            "unlike the other bounds, one on latency cannot be computed",
        )
