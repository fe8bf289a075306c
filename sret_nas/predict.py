"""Predicted latency: calibrated on measured architectures, for one device.

A model's time is taken as a sum over its own operators: the arithmetic (rounded up
to the tiles that kernels work in), the elements and weights that are moved, and the
number of calls. The times per unit are found by
non-negative least squares on the *relative* error of measured architectures, so
each is a cost that a device really can have. The margin is what the error was on
architectures left out of the fit.

Free of torch until something is measured. Requires scipy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.cost import cost, shape
from sret_nas.cost.formulas import Affine, Norm, layers
from sret_nas.device import Fingerprint, cache_folder, fingerprint, resolve
from sret_nas.errors import ConfigError, SretNasError, UsageError

MIN_ARCHITECTURES = 20
"""The fewest measured architectures to fit on."""
COVERAGE = 0.95
"""Share of left-out architectures whose error the margin covers."""
FOLDS = 10
BEYOND = 1.25
"""How far past the calibrated range is still inside: neighbours of 20 to 50 samples."""

NN_METER_WITHIN_10 = 0.99
"""nn-Meter, MobiSys 2021: within ±10% on mobile CPUs and GPUs. Other devices, other models."""

Column = NDArray[np.float64]


class Prediction(NamedTuple):
    """A predicted latency.

    Attributes:
        ms: Milliseconds of one batch.
        margin_ms: Covers 95% of the errors on architectures left out of the fit.
        warning: Why to trust it less, or ``None``.
    """

    ms: float
    margin_ms: float
    warning: str | None


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
        """Plain data for JSON."""
        return asdict(self)


def score(predicted: Sequence[float], measured: Sequence[float]) -> Score:
    """Compare predictions with measurements, in any common unit."""
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


def features(arch: Architecture, batch: int = 1) -> dict[str, float]:
    """Sums over an architecture's operators: what its time is a sum of.

    Args:
        arch: The architecture.
        batch: Images per batch.

    Returns:
        By name; ``macs/K16.N16`` are multiply-adds with the fan-in and the outputs
        rounded up to 16, ``rows48`` with the rows to 48, and so on; ``ragged``
        are slices of no multiple of 32 tokens, for which kernels are slower.
    """
    found = dict.fromkeys(_NAMES, 0.0)
    found["model"] = 1.0
    for layer in layers(shape(arch)):
        if isinstance(layer, Norm) and layer.stage != "stem":
            found["norm elements"] += batch * layer.elements
        elif isinstance(layer, Affine):
            _affine(found, layer, batch)
    for stage, tokens, schedule in zip(arch.stages, arch.tokens, arch.schedules, strict=True):
        for step in schedule:
            slices, size = batch * step.groups * stage.heads, tokens // step.groups
            found["attention slices"] += slices
            found["attention rows"] += slices * size
            found["attention pairs"] += slices * size * size
            found["attention pairs/ragged"] += slices * size * size * (size % 32 > 0)
            found["attention macs/S32.D16"] += (
                2 * slices * size * _up(size, 32) * _up(stage.head_dim, 16)
            )
            found["permuted elements"] += 2 * batch * tokens * stage.dim * step.permuted
    return found


_NAMES = (
    "model",
    "stem macs",
    "down-sampling elements",
    "linear calls",
    "linear weights",
    "linear weights read",
    "linear elements",
    "linear macs/K16.N16",
    "linear macs/N128",
    "linear macs/rows48",
    "norm elements",
    "attention slices",
    "attention rows",
    "attention pairs",
    "attention pairs/ragged",
    "attention macs/S32.D16",
    "permuted elements",
)


def _affine(found: dict[str, float], layer: Affine, batch: int) -> None:
    if layer.stage == "stem":
        found["stem macs"] += batch * layer.macs
    elif layer.name == "down-sampling":
        found["down-sampling elements"] += batch * layer.activations
    elif layer.uses:
        uses, rows, k, n = layer.uses, batch * layer.positions, layer.fan_in, layer.outputs
        found["linear calls"] += uses
        found["linear weights"] += layer.units * k * n  # from memory
        found["linear weights read"] += uses * k * n  # from a cache, where a loop shares them
        found["linear elements"] += uses * rows * (k + n)
        found["linear macs/K16.N16"] += uses * rows * _up(k, 16) * _up(n, 16)
        found["linear macs/N128"] += uses * rows * k * _up(n, 128)
        found["linear macs/rows48"] += uses * _up(rows, 48) * k * n


def _up(number: int, tile: int) -> int:
    return -(-number // tile) * tile


class Predictor(files.Record):
    """A latency model for one device, batch, dtype and mode.

    Attributes:
        fingerprint: The device that was measured.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        mode: ``eager``, ``compile`` or ``graph``.
        space: What the measured architectures were drawn from, in words.
        architectures: How many were measured.
        ms_per_unit: Milliseconds per unit of every feature.
        largest: The largest value of every feature among them.
        fastest_ms: The fastest of them.
        slowest_ms: The slowest.
        margin: Covers 95% of the relative errors on left-out architectures.
        repeatability: Median relative spread of the measurements themselves.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    fingerprint: Fingerprint
    batch: Annotated[int, Field(ge=1)]
    dtype: str
    mode: str
    space: str
    architectures: int
    ms_per_unit: dict[str, Annotated[float, Field(ge=0)]]
    largest: dict[str, float]
    fastest_ms: float
    slowest_ms: float
    margin: Annotated[float, Field(ge=0)]
    repeatability: Annotated[float, Field(ge=0)]

    def predict(self, arch: Architecture) -> Prediction:
        """The latency of an architecture, the margin of error, and a warning outside the range."""
        found = features(arch, self.batch)
        ms = sum(per_unit * found[name] for name, per_unit in self.ms_per_unit.items())
        return Prediction(ms, ms * self.margin, self._warning(found, ms))

    def _warning(self, found: dict[str, float], ms: float) -> str | None:
        beyond = [name for name, most in self.largest.items() if found[name] > BEYOND * most]
        if beyond:
            name = max(beyond, key=lambda name: found[name] / max(self.largest[name], 1))
            what = f"{name} {found[name]:.3g}, calibrated up to {self.largest[name]:.3g}"
        elif not self.fastest_ms / BEYOND <= ms <= self.slowest_ms * BEYOND:
            what = f"{ms:.3g} ms, calibrated from {self.fastest_ms:.3g} to {self.slowest_ms:.3g} ms"
        else:
            return None
        return f"outside the calibrated range ({what}): the margin may not hold"

    def save(self, path: Path | None = None) -> Path:
        """Write the predictor; default: its place in the user's cache folder."""
        path = path or predictor_path(self.fingerprint, self.batch, self.dtype, self.mode)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, self.model_dump_json(by_alias=True, indent=1) + "\n")
        return path


def predictor_path(here: Fingerprint, batch: int, dtype: str, mode: str) -> Path:
    """Where the predictor of a device, batch, dtype and mode is kept."""
    return cache_folder() / "predictors" / f"{here.key}-{dtype}-{mode}-{batch}.json"


def load(
    device: str = "cpu",
    batch: int = 1,
    dtype: str = "fp32",
    mode: str = "eager",
    threads: int | None = None,
    path: Path | None = None,
) -> Predictor:
    """The predictor calibrated for this device, batch, dtype and mode.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        mode: ``eager``, ``compile`` or ``graph``.
        threads: Threads of torch on the CPU; default: as set.
        path: The file; default: its place in the user's cache folder.

    Raises:
        UsageError: no such device, or not calibrated.
        ConfigError: the file is not a predictor, or it is of something else.
    """
    here = fingerprint(resolve(device), threads)
    path = path or predictor_path(here, batch, dtype, mode)
    setting = f"{device}, batch {batch}, {dtype}, {mode}, {here.threads} threads"
    again = (
        f"sret-nas calibrate --device {device} --batch {batch} --dtype {dtype} --mode {mode} "
        f"--threads {here.threads}"
    )
    if not path.is_file():
        raise UsageError(f"no latency predictor for {setting}", again)
    try:
        found = files.load(Predictor, path)
    except ConfigError as error:
        raise ConfigError(error.problems, again) from error
    unlike = [
        f"{what} {of_file} instead of {asked}"
        for what, of_file, asked in (
            ("device", found.fingerprint, here),
            ("batch", found.batch, batch),
            ("dtype", found.dtype, dtype),
            ("mode", found.mode, mode),
        )
        if (of_file.key != here.key if isinstance(of_file, Fingerprint) else of_file != asked)
    ]
    if unlike or set(found.ms_per_unit) != set(_NAMES) or set(found.largest) != set(_NAMES):
        what = "; ".join(unlike) or "features of another version"
        raise ConfigError(f"{path}: calibrated for something else: {what}", again)
    return found


def fit(
    archs: Sequence[Architecture],
    measured_ms: Sequence[float],
    *,
    fingerprint: Fingerprint,
    batch: int = 1,
    dtype: str = "fp32",
    mode: str = "eager",
    space: str = "",
    repeatability: float = 0.0,
) -> Predictor:
    """Fit a predictor to measured architectures.

    Args:
        archs: The architectures.
        measured_ms: The latency of each.
        fingerprint: The device.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        mode: ``eager``, ``compile`` or ``graph``.
        space: What they were drawn from, in words.
        repeatability: Median relative spread of the measurements.

    Raises:
        UsageError: too few architectures.
    """
    _enough(len(archs))
    rows = [features(arch, batch) for arch in archs]
    table = np.array([[row[name] for name in _NAMES] for row in rows])
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
        space=space,
        architectures=len(archs),
        ms_per_unit=dict(zip(_NAMES, _solve(table, times).tolist(), strict=True)),
        largest=dict(zip(_NAMES, table.max(axis=0).tolist(), strict=True)),
        fastest_ms=float(times.min()),
        slowest_ms=float(times.max()),
        margin=float(margin),
        repeatability=repeatability,
    )


def _enough(architectures: int) -> None:
    if architectures < MIN_ARCHITECTURES:
        raise UsageError(
            f"{architectures} architectures are too few to calibrate on; "
            f"allowed: at least {MIN_ARCHITECTURES}"
        )


def cross_validated(table: Column, times: Column) -> Column:
    """Every row predicted by a fit without its fold."""
    predicted = np.empty_like(times)
    for fold in range(FOLDS):
        out = np.arange(len(times)) % FOLDS == fold
        predicted[out] = table[out] @ _solve(table[~out], times[~out])
    return predicted


def macs_line(
    archs: Sequence[Architecture], measured_ms: Sequence[float]
) -> Callable[[Architecture], float]:
    """The baseline: a constant and a time per MAC, fitted in the same way."""

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
        """Plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """The scores side by side, with what is published of another predictor."""
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
    dtype: str = "fp32",
    device: str = "cpu",
    mode: str = "eager",
    threads: int | None = None,
    space: str = "",
    seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure architectures, interleaved, and fit a predictor to them.

    Held-out architectures are measured in the same rounds, so that drift of the
    machine is not taken for an error of the predictor, and then once more.

    Args:
        archs: 20 to 50 architectures of what is to be predicted.
        holdout: Others, to judge the predictor on.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        mode: ``eager``, ``compile`` or ``graph``.
        threads: Threads of torch on the CPU; default: as set.
        space: What they were drawn from, in words.
        seconds: Stop measuring after this long (preparation not counted).
        progress: Told one line per step.

    Raises:
        SretNasError: too few could be measured; with the first reason.
    """
    from sret_nas.latency import Latency, measure

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
            progress=progress,
        )
        return list(results.values())

    _enough(len(archs))
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
    """A predictor on architectures it was not fitted on.

    Args:
        predictor: The predictor.
        line: The baseline.
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
