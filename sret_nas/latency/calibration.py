"""Calibrating: measure architectures, fit a predictor, judge it on others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sret_nas.arch import Architecture
from sret_nas.device import resolve
from sret_nas.errors import SretNasError
from sret_nas.latency.default import TORCH
from sret_nas.latency.fitting import MIN_ARCHITECTURES, enough, fit, macs_line
from sret_nas.latency.predictor import Predictor

NN_METER_WITHIN_10 = 0.99
"""nn-Meter, MobiSys 2021: within ±10% on mobile CPUs and GPUs. Other devices, other models."""


@dataclass(frozen=True)
class Score:
    """How well predictions agree with measurements.

    Attributes:
        architectures: How many were compared.
        within_5: Share with a relative error of at most 5%.
        within_10: Share with at most 10%.
        median_error: Median of the absolute relative errors.
        kendall_tau: Agreement of the two orders, -1 to 1.
    """

    architectures: int
    within_5: float
    within_10: float
    median_error: float
    kendall_tau: float

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, as plain data for JSON."""
        return asdict(self)


def score(predicted: Sequence[float], measured: Sequence[float]) -> Score:
    """Compare predictions with measurements, (N,) each, in any common unit.

    Args:
        predicted: Predicted latencies.
        measured: Measured latencies of the same architectures, more than 0.
    """
    from scipy.stats import kendalltau

    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    error = np.abs(p / m - 1)
    return Score(
        architectures=len(m),
        within_5=float(np.mean(error <= 0.05)),
        within_10=float(np.mean(error <= 0.10)),
        median_error=float(np.median(error)),
        kendall_tau=float(kendalltau(p, m).statistic),
    )


@dataclass(frozen=True)
class HeldOut:
    """The predictor on architectures that it was not fitted on.

    Attributes:
        predictor: Predicted against measured.
        macs_line: The straight line over MACs, fitted on the same architectures.
        repeatability: A second measurement against the first: no predictor can be
            expected to beat it.
        drift: Median ratio of the second measurement to the first.
        covered: Share of the measurements inside the predictor's margin.
        warned: How many were outside the calibrated range.
    """

    predictor: Score
    macs_line: Score
    repeatability: Score
    drift: float
    covered: float
    warned: int

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, the scores within, as plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """The three scores as rows of a table, with what is published of another predictor."""
        return [
            {"method": "predictor"} | self.predictor.to_dict(),
            {"method": "line over MACs"} | self.macs_line.to_dict(),
            {"method": "measured again"} | self.repeatability.to_dict(),
            {
                "method": "nn-Meter, as published on its own devices",
                "within_10": NN_METER_WITHIN_10,
            },
        ]


@dataclass(frozen=True)
class Calibration:
    """A predictor and how it was come by.

    Attributes:
        predictor: The predictor.
        seconds: What measuring and fitting took, held-out architectures among it,
            their second measurement not.
        skipped: Why architectures could not be measured, one line each.
        held_out: How it does on other architectures; ``None`` without any.
    """

    predictor: Predictor
    seconds: float
    skipped: tuple[str, ...]
    held_out: HeldOut | None


def calibrate(
    archs: Sequence[Architecture],
    holdout: Sequence[Architecture] = (),
    *,
    batch: int = 1,
    dtype: str | None = None,
    device: str = "auto",
    mode: str | None = None,
    threads: int | None = None,
    space: str = "",
    seconds: float = 60.0,
    runtime: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure architectures, interleaved, and fit a predictor to them.

    Held-out architectures are measured in the same rounds, so that drift of the
    machine is not taken for an error of the predictor, and then once more.

    Args:
        archs: 20 to 50 architectures of what is to be predicted.
        holdout: Others, to judge the predictor on.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; default: the runtime's on the device.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: One of the runtime's; default: the runtime's on the device.
        threads: Threads of torch on the CPU; default: as set.
        space: What they were drawn from, in words.
        seconds: Stop measuring after this long (preparation not counted).
        runtime: Name of the runtime; default torch.
        progress: Told one line per step.

    Raises:
        SretNasError: too few could be measured; with the first reason.
    """
    from sret_nas.latency.measurement import Latency, measure
    from sret_nas.latency.runtimes import named

    def run(which: Sequence[Architecture]) -> list[Latency | SretNasError]:
        models = {str(i): arch for i, arch in enumerate(which)}
        results = measure(
            models,
            batches=(batch,),
            dtype=dtype,
            device=device,
            mode=mode,
            threads=threads,
            seconds=seconds * len(which) / (len(archs) + len(holdout)),
            runtime=runs.name,
            progress=progress,
        )
        return list(results.values())

    enough(len(archs))
    place, runs = resolve(device), named(runtime or TORCH)  # one for all rounds
    device, (mode, dtype) = str(place), runs.setting(place, mode, dtype)
    start = time.perf_counter()
    results = run([*archs, *holdout])
    errors = [found for found in results if isinstance(found, SretNasError)]
    pairs = list(zip([*archs, *holdout], results, strict=True))
    fitted = [(a, found) for a, found in pairs[: len(archs)] if isinstance(found, Latency)]
    others = [(a, found) for a, found in pairs[len(archs) :] if isinstance(found, Latency)]
    if errors and len(fitted) < MIN_ARCHITECTURES:
        raise errors[0]
    known, times = [a for a, _ in fitted], [found.median_ms for _, found in fitted]
    predictor = fit(
        known,
        times,
        fingerprint=fitted[0][1].fingerprint,
        batch=batch,
        dtype=dtype,
        mode=mode,
        runtime=runs.name,
        space=space,
        repeatability=statistics.median(found.spread for _, found in fitted),
    )
    took = time.perf_counter() - start
    held_out = None
    if others:
        again = run([a for a, _ in others])
        kept = [
            (a, one.median_ms, two.median_ms)
            for (a, one), two in zip(others, again, strict=True)
            if isinstance(two, Latency)
        ]
        held_out = judge(predictor, macs_line(known, times), kept) if kept else None
    return Calibration(predictor, took, tuple(str(error) for error in errors), held_out)


def judge(
    predictor: Predictor,
    line: Callable[[Architecture], float],
    measured: Sequence[tuple[Architecture, float, float]],
) -> HeldOut:
    """Judge a predictor on architectures it was not fitted on.

    Args:
        predictor: The predictor.
        line: The baseline: milliseconds of an architecture, as ``macs_line`` gives it.
        measured: Architectures, each with two measurements in milliseconds.
    """
    first = [one for _, one, _ in measured]
    second = [two for _, _, two in measured]
    predictions = [predictor.predict(arch) for arch, _, _ in measured]
    inside = [
        abs(found.ms - one) <= found.margin_ms
        for found, one in zip(predictions, first, strict=True)
    ]
    return HeldOut(
        predictor=score([found.ms for found in predictions], first),
        macs_line=score([line(arch) for arch, _, _ in measured], first),
        repeatability=score(second, first),
        drift=statistics.median(two / one for _, one, two in measured),
        covered=sum(inside) / len(inside),
        warned=sum(found.warning is not None for found in predictions),
    )
