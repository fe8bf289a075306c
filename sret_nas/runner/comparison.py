"""The latency of a candidate: beside its rivals, on the scale of the run, or equal to one.

A finished trial keeps its value, so that comparisons must hold between values of different
hours. Therefore the run's first measured candidate, its reference, is in every round: what
the device has become slower since then, it has for all alike, and is divided out. Nearest
rivals are in the round too. Whoever cannot be told from one of them after several rounds is
equal to it and takes its value, so that no order anywhere rests on noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from sret_nas.arch import Architecture
from sret_nas.errors import SretNasError
from sret_nas.latency.default import TORCH
from sret_nas.runner.lease import Lease
from sret_nas.runner.quiet import busy, others_work

if TYPE_CHECKING:
    import torch

    from sret_nas.latency.measurement import Latency

RIVALS = 2
"""Earlier candidates of nearest latency in a round, beside the reference."""
ROUNDS_S = (2.0, 4.0, 8.0)
"""Seconds of the first measurement, and of those that are taken again."""
ROUNDS_A_SECOND = 10
"""At most: a short call needs no more to be known."""
EQUAL_SPREAD = 0.01
"""Half of the interval over the median up to which two that overlap are equal at once."""
DRIFT = 0.05
"""Change of the device's speed since the reference that is said."""
OWN = "candidate"

Take: TypeAlias = "Callable[[Mapping[str, Architecture], float], Mapping[str, Latency]]"
"""Measures architectures by name, interleaved, within seconds; leaves out what it cannot.

Raises:
    SretNasError: it cannot measure the one named ``OWN``.
"""


@dataclass(frozen=True)
class Measured:
    """The one latency of a trial.

    Attributes:
        ms: Milliseconds, on the scale of the run's reference.
        margin_ms: What it may be wrong by: the interval of its median, and the reference's.
        warning: Why to trust it less, or ``None``.
        equal_to: Number of the trial that it cannot be told from, whose value it has.
        source: Of the value, beside ``predicted``.
    """

    ms: float
    margin_ms: float
    warning: str | None = None
    equal_to: int | None = None
    source: str = "measured"


@dataclass(frozen=True)
class Rival:
    """A candidate that was measured on the same kind of device.

    Attributes:
        trial: Its number.
        arch: Its architecture.
        ms: Its latency.
    """

    trial: int
    arch: Architecture
    ms: float


@dataclass(frozen=True)
class Comparer:
    """Measures candidates, each beside others, with the device for itself.

    Attributes:
        take: Measures.
        alone: Within it nothing of ours computes on the device.
        disturbed: Whether another process works on the device just now.
        on: The device's kind; latencies of other kinds are not compared.
        runtime: What runs the model.
    """

    take: Take
    alone: Callable[[], AbstractContextManager[None]]
    disturbed: Callable[[], bool]
    on: str
    runtime: str = TORCH

    def measure(
        self,
        arch: Architecture,
        expected_ms: float,
        earlier: Callable[[], Sequence[Rival]],
        keep: Callable[[dict[str, Any]], None],
    ) -> Measured:
        """Measure a candidate.

        Args:
            arch: The candidate.
            expected_ms: About what it takes.
            earlier: Those measured before it, on this kind of device; asked when nobody
                else measures.
            keep: Writes the value down where ``earlier`` of the next finds it.

        Raises:
            SretNasError: it cannot be measured.
        """
        with self.alone():
            found = self._settle(arch, expected_ms, earlier())
            keep(asdict(found) | {"on": self.on, "runtime": self.runtime})
            return found

    def _settle(self, arch: Architecture, expected_ms: float, earlier: Sequence[Rival]) -> Measured:
        first = min(earlier, key=lambda one: one.trial, default=None)
        near = sorted(earlier, key=lambda one: (abs(one.ms - expected_ms), one.trial))[:RIVALS]
        beside = {one.trial: one for one in (*([first] if first else []), *near)}
        archs = {OWN: arch} | {str(number): one.arch for number, one in beside.items()}
        for seconds in ROUNDS_S:
            upset = self.disturbed()
            found = self.take(archs, seconds)
            upset = self.disturbed() or upset
            own = found[OWN]
            rivals = [one for number, one in beside.items() if str(number) in found]
            ties = [one for one in rivals if _overlap(own, found[str(one.trial)])]
            if not upset and own.rankable and all(_narrow(own, found[str(t.trial)]) for t in ties):
                break
        reference = found.get(str(first.trial)) if first else None
        scale = first.ms / reference.median_ms if first and reference else 1.0
        warnings = [own.note] if own.note else []
        if upset:
            warnings.append("another process worked on the device whenever it was measured")
        if first and abs(scale - 1) > DRIFT:
            than = "slower" if scale < 1 else "faster"
            warnings.append(
                f"the device is {abs(1 / scale - 1):.0%} {than} than when trial {first.trial} "
                f"was measured; on its scale {own.median_ms:.3g} ms count as "
                f"{own.median_ms * scale:.3g}"
            )
        equal = min(
            ties,
            key=lambda one: abs(found[str(one.trial)].median_ms - own.median_ms),
            default=None,
        )
        ms = equal.ms if equal else own.median_ms * scale
        unsure = ms * reference.spread if reference else 0.0
        margin_ms = max(own.high_ms * scale - ms, ms - own.low_ms * scale, 0.0) + unsure
        return Measured(ms, margin_ms, "; ".join(warnings) or None, equal.trial if equal else None)


def _overlap(one: Latency, other: Latency) -> bool:
    return one.low_ms <= other.high_ms and other.low_ms <= one.high_ms


def _narrow(one: Latency, other: Latency) -> bool:
    return max(one.spread, other.spread) <= EQUAL_SPREAD


def comparer(
    device: torch.device,
    lease: Lease,
    batch: int,
    dtype: str | None = None,
    mode: str | None = None,
    runtime: str | None = None,
) -> Comparer:
    """Measures on a device as ``sret_nas.latency.measure`` does, nobody else at work there."""
    from sret_nas.device import fingerprint
    from sret_nas.latency import measurement

    def take(archs: Mapping[str, Architecture], seconds: float) -> Mapping[str, Latency]:
        results = measurement.measure(
            archs,
            batches=(batch,),
            dtype=dtype,
            device=str(device),
            mode=mode,
            rounds=round(ROUNDS_A_SECOND * seconds),
            spread=EQUAL_SPREAD / 2,
            seconds=seconds,
            runtime=runtime,
        )
        own = results[OWN, batch]
        if isinstance(own, SretNasError):
            raise own
        return {
            name: found
            for (name, _), found in results.items()
            if not isinstance(found, SretNasError)
        }

    def disturbed() -> bool:
        return others_work(lambda: busy(device))

    return Comparer(take, lease.measuring, disturbed, fingerprint(device).name, runtime or TORCH)
