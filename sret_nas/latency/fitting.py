"""Fitting: times per unit by non-negative least squares on the relative error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.device import Fingerprint
from sret_nas.errors import UsageError
from sret_nas.latency.default import TORCH
from sret_nas.latency.predictor import Predictor
from sret_nas.latency.terms import features, names

MIN_ARCHITECTURES = 20
"""The fewest measured architectures to fit on."""
COVERAGE = 0.95
"""Share of left-out architectures whose error the margin covers."""
FOLDS = 10

Column = NDArray[np.float64]


def fit(
    archs: Sequence[Architecture],
    measured_ms: Sequence[float],
    *,
    fingerprint: Fingerprint,
    batch: int = 1,
    dtype: str = "fp32",
    mode: str = "eager",
    runtime: str = TORCH,
    space: str = "",
    repeatability: float = 0.0,
) -> Predictor:
    """Fit a predictor to measured architectures.

    Args:
        archs: The architectures.
        measured_ms: The latency of each.
        fingerprint: The device.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        mode: ``eager``, ``compile`` or ``graph``, or one of another runtime's.
        runtime: Name of the runtime.
        space: What they were drawn from, in words.
        repeatability: Median relative spread of the measurements.

    Raises:
        UsageError: too few architectures.
    """
    enough(len(archs))
    terms = names(fingerprint.device)
    rows = [features(arch, batch, fingerprint.device) for arch in archs]
    table = np.array([[row[name] for name in terms] for row in rows])
    times = np.asarray(measured_ms, float)
    left_out = cross_validated(table, times)
    # The split-conformal quantile: covers a new architecture with 95%, if it is like these.
    rank = min(int(np.ceil(COVERAGE * (len(times) + 1))), len(times)) - 1
    margin = np.sort(np.abs(times / left_out - 1))[rank]
    return Predictor(
        fingerprint=fingerprint,
        batch=batch,
        dtype=dtype,
        mode=mode,
        runtime=runtime,
        space=space,
        architectures=len(archs),
        ms_per_unit=dict(zip(terms, _solve(table, times).tolist(), strict=True)),
        largest=dict(zip(terms, table.max(axis=0).tolist(), strict=True)),
        fastest_ms=float(times.min()),
        slowest_ms=float(times.max()),
        margin=float(margin),
        repeatability=repeatability,
    )


def enough(architectures: int) -> None:
    """Refuse to calibrate on too few.

    Raises:
        UsageError: fewer than ``MIN_ARCHITECTURES``.
    """
    if architectures < MIN_ARCHITECTURES:
        raise UsageError(
            f"{architectures} architectures are too few to calibrate on; "
            f"allowed: at least {MIN_ARCHITECTURES}"
        )


def cross_validated(table: Column, times: Column) -> Column:
    """Predict every row by a fit to the rows of other folds.

    Args:
        table: Terms of every architecture, (N, T).
        times: Measured latencies in any unit, (N,).

    Returns:
        Predictions in the same unit, (N,).
    """
    predicted = np.empty_like(times)
    for fold in range(FOLDS):
        out = np.arange(len(times)) % FOLDS == fold
        predicted[out] = table[out] @ _solve(table[~out], times[~out])
    return predicted


def macs_line(
    archs: Sequence[Architecture], measured_ms: Sequence[float]
) -> Callable[[Architecture], float]:
    """The baseline of a predictor: a constant and a time per MAC, fitted in the same way.

    Args:
        archs: The architectures.
        measured_ms: Milliseconds of each.

    Returns:
        Tells the milliseconds of an architecture.
    """

    def row(arch: Architecture) -> Column:
        return np.array([1.0, cost(arch).macs])

    table = np.array([row(arch) for arch in archs])
    per_unit = _solve(table, np.asarray(measured_ms, float))
    return lambda arch: float(row(arch) @ per_unit)


def _solve(table: Column, times: Column) -> Column:
    """Non-negative least squares of the relative error; a little ridge breaks ties."""
    from scipy.optimize import nnls

    relative = table / times[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    ridge = np.sqrt(1e-4 * len(times)) * np.eye(table.shape[1])
    system = np.vstack([relative / scale, ridge])
    target = np.concatenate([np.ones(len(times)), np.zeros(table.shape[1])])
    found: Column = nnls(system, target)[0] / scale
    return found
