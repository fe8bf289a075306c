"""What a device can do at best, and how much of that a measured model reaches.

The rate of matrix products per dtype and the memory bandwidth are measured once
and kept in the user's cache folder, by the device's fingerprint.

Requires torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sret_nas import files
from sret_nas.device import (
    DTYPES,
    Fingerprint,
    cache_folder,
    exact_fp32,
    fingerprint,
    has_dtype,
    resolve,
    torch_dtype,
)
from sret_nas.errors import ConfigError
from sret_nas.latency import timing

Rate = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Bound:
    """The least time of a measured model, and the share of it that was reached.

    A run that was faster than a ceiling shows that the ceiling is no limit for it. Its
    time is then the least, its share 1, and ``note`` says so.

    Attributes:
        macs_ms: The arithmetic at the device's rate of matrix products.
        bytes_ms: Weights, input and output once at the bandwidth of its memory.
        measured_ms: What the run took.
    """

    macs_ms: float
    bytes_ms: float
    measured_ms: float

    @property
    def least_ms(self) -> float:
        """The least time that the device needs, in milliseconds; never more than the run took."""
        return min(self.measured_ms, max(self.macs_ms, self.bytes_ms))

    @property
    def share(self) -> float:
        """The least time over the measured one, at most 1."""
        return self.least_ms / self.measured_ms

    @property
    def beaten(self) -> bool:
        """Whether the run was faster than one of the ceilings."""
        return max(self.macs_ms, self.bytes_ms) > self.measured_ms

    @property
    def note(self) -> str | None:
        """Why the run may have been faster than a ceiling; ``None`` where it was not."""
        if self.macs_ms > self.measured_ms:
            return (
                f"{self.macs_ms / self.measured_ms:.2f} times as fast as the best matrix products "
                "measured on this device: it was busy, or the model needs fewer multiplications"
            )
        if self.bytes_ms > self.measured_ms:
            return (
                f"{self.bytes_ms / self.measured_ms:.2f} times as fast as its memory: "
                "the weights stayed in a cache, or the device was busy when it was measured"
            )
        return None


class Roofline(files.Record):
    """The two ceilings of a device, as measured.

    Attributes:
        fingerprint: The device.
        macs_per_s: Multiply-adds of large matrix products in a second, by dtype.
        bytes_per_s: Bytes read plus bytes written by a large copy in a second.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    fingerprint: Fingerprint
    macs_per_s: dict[str, Rate]
    bytes_per_s: Rate

    def raised_to(self, other: Roofline) -> Roofline:
        """The higher of two measurements for every ceiling: the lower one was disturbed."""
        rates = {
            name: max(rate, other.macs_per_s.get(name, rate))
            for name, rate in self.macs_per_s.items()
        }
        return self.model_copy(
            update={
                "macs_per_s": rates,
                "bytes_per_s": max(self.bytes_per_s, other.bytes_per_s),
            }
        )

    def bound(self, macs: int, least_bytes: int, dtype: str, measured_ms: float) -> Bound | None:
        """The least time of a measured run, and the share reached; ``None`` of another dtype.

        Args:
            macs: Multiply-adds of the run: of one image, times the batch.
            least_bytes: Bytes that it must move, as ``Latency`` has them.
            dtype: ``fp32``, ``bf16`` or ``fp16``.
            measured_ms: What it took.
        """
        if dtype not in self.macs_per_s:
            return None
        macs_ms = macs / self.macs_per_s[dtype] * 1e3
        bytes_ms = least_bytes / self.bytes_per_s * 1e3
        return Bound(macs_ms, bytes_ms, measured_ms)


def roofline(device: str = "auto", threads: int | None = None, again: bool = False) -> Roofline:
    """The ceilings of a device: from the cache, else measured (seconds) and kept.

    A cache file that cannot be read, or that is of another device, is measured
    again and replaced.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads of torch on the CPU; default: as set.
        again: Measure now, and keep the higher of each old and new ceiling: for when
            a model went faster than them, because the machine was busy that time.

    Raises:
        UsageError: no such device.
    """
    found = resolve(device)
    here = fingerprint(found, threads)
    path = cache_path(here)
    known: Roofline | None = None
    with contextlib.suppress(ConfigError):
        known = files.load(Roofline, path)
    if known is not None and known.fingerprint.key == here.key and not again:
        return known
    measured = measure(found, here)
    if again and known is not None and known.fingerprint.key == here.key:
        measured = measured.raised_to(known)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, measured.model_dump_json(by_alias=True) + "\n")
    return measured


def cache_path(here: Fingerprint) -> Path:
    """Where the ceilings of a device are kept."""
    return cache_folder() / "roofline" / f"{here.key}.json"


@exact_fp32()
def measure(device: torch.device, here: Fingerprint) -> Roofline:
    """Measure both ceilings: the best of several runs, on random data, without TF32.

    Args:
        device: Where to measure.
        here: Its fingerprint, kept with the result.
    """
    side = 8192 if device.type == "cuda" else 1024
    elements = (256 if device.type == "cuda" else 32) * 2**20
    generator = torch.Generator().manual_seed(0)
    macs_per_s = {}
    for name in DTYPES:
        if not has_dtype(name, device):
            continue
        dtype = torch_dtype(name, device)
        a, b = (
            torch.randn(side, side, generator=generator).to(device=device, dtype=dtype)
            for _ in range(2)
        )
        product = torch.empty_like(a)

        def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = product) -> None:
            torch.mm(a, b, out=out)

        macs_per_s[name] = side**3 / _best_s(multiply, device, here.threads)
    source = torch.randn(elements, generator=generator).to(device)
    target = torch.empty_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device, here.threads)
    return Roofline(fingerprint=here, macs_per_s=macs_per_s, bytes_per_s=2 * source.nbytes / copy_s)


def _best_s(call: Callable[[], object], device: torch.device, threads: int) -> float:
    turn = (
        timing.cuda_turn(call, device) if device.type == "cuda" else timing.cpu_turn(call, threads)
    )
    timing.warm_up(turn)
    return min(run for _ in range(3) for run in turn(5))
