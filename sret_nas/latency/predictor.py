"""A fitted latency model of one device: what it predicts, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.device import Fingerprint, cache_folder, fingerprint, resolve
from sret_nas.errors import ConfigError, UsageError
from sret_nas.latency.default import TORCH
from sret_nas.latency.terms import features, names

BEYOND = 1.25
"""How far past the calibrated range is still inside: neighbours of 20 to 50 samples."""


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


class Predictor(files.Record):
    """A latency model for one device, batch, dtype, mode and runtime.

    Attributes:
        fingerprint: The device that was measured.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        mode: ``eager``, ``compile`` or ``graph``.
        space: What the measured architectures were drawn from, in words.
        architectures: How many were measured.
        ms_per_unit: Milliseconds per unit of every feature.
        largest: The largest value of every feature among them.
        fastest_ms: Latency of the fastest of them.
        slowest_ms: Latency of the slowest of them.
        margin: Covers 95% of the relative errors on left-out architectures.
        repeatability: Median relative spread of the measurements themselves.
        runtime: Name of the runtime.
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
    runtime: str = TORCH

    def predict(self, arch: Architecture) -> Prediction:
        """Predict the latency of an architecture.

        The time is a sum over ``features``; the margin covers 95% of the errors on left-out
        architectures, and there is a warning outside the calibrated range.
        """
        found = features(arch, self.batch, self.fingerprint.device)
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
        """Write the predictor.

        Args:
            path: Where; default its place in the user's cache folder, where ``load_predictor``
                finds it.

        Returns:
            Where it was written.
        """
        path = path or predictor_path(
            self.fingerprint, self.batch, self.dtype, self.mode, self.runtime
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, self.model_dump_json(by_alias=True, indent=1) + "\n")
        return path


def predictor_path(
    here: Fingerprint, batch: int, dtype: str, mode: str, runtime: str = TORCH
) -> Path:
    """Where the predictor of a device, batch, dtype, mode and runtime is kept."""
    words = [here.key, *([] if runtime == TORCH else [runtime]), dtype, mode, str(batch)]
    return cache_folder() / "predictors" / f"{'-'.join(words)}.json"


def load_predictor(
    device: str = "auto",
    batch: int = 1,
    dtype: str | None = None,
    mode: str | None = None,
    threads: int | None = None,
    path: Path | None = None,
    runtime: str | None = None,
) -> Predictor:
    """The predictor calibrated for this device, batch, dtype, mode and runtime.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; default: the runtime's on the device.
        mode: One of the runtime's; default: the runtime's on the device.
        threads: Threads of torch on the CPU; default: as set.
        path: The file; default: its place in the user's cache folder.
        runtime: Name of the runtime; default torch.

    Raises:
        UsageError: no such device, or not calibrated.
        ConfigError: the file is not a predictor, or it is of something else.
    """
    from sret_nas.latency.runtimes import named

    place, runs = resolve(device), named(runtime or TORCH)
    device, here = str(place), fingerprint(place, threads, runs.version())
    mode, dtype = runs.setting(place, mode, dtype)
    path = path or predictor_path(here, batch, dtype, mode, runs.name)
    asked = f"{device}, batch {batch}, {dtype}, {mode}"
    again = f"sret-nas calibrate --device {device} --batch {batch} --dtype {dtype} --mode {mode}"
    if runs.name != TORCH:
        asked += f" of {runs.name}"
        again += f" --runtime {runs.name}"
    if place.type == "cpu":
        asked += f", {here.threads} threads"
        again += f" --threads {here.threads}"
    if not path.is_file():
        raise UsageError(f"no latency predictor for {asked}", again)
    try:
        found = files.load(Predictor, path)
    except ConfigError as error:
        raise ConfigError(error.problems, again) from error
    unlike = [
        f"{what} {of_file} instead of {wanted}"
        for what, of_file, wanted in (
            ("device", found.fingerprint, here),
            ("batch", found.batch, batch),
            ("dtype", found.dtype, dtype),
            ("mode", found.mode, mode),
            ("runtime", found.runtime, runs.name),
        )
        if (of_file.key != here.key if isinstance(of_file, Fingerprint) else of_file != wanted)
    ]
    terms = set(names(here.device))
    if unlike or set(found.ms_per_unit) != terms or set(found.largest) != terms:
        what = "; ".join(unlike) or "features of another version"
        raise ConfigError(f"{path}: calibrated for something else: {what}", again)
    return found
