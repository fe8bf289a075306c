"""Measured latency and memory of models on a device.

Several models are measured *interleaved*: a turn of each, round after round, so
that drift of the machine hits all alike. What cannot be measured (out of memory,
a number format or a device that is not there) is an error of its own, beside the
results of the others.

A model is measured as it would be deployed: eval mode, inference mode, weights
*and* inputs cast to the dtype (no autocast), TF32 off. Before it is timed, and again
afterwards, its output is compared with that of the eager model in fp32.

Requires torch and timm.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from sret_nas.arch import Architecture
from sret_nas.device import Fingerprint, exact_fp32
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import timing
from sret_nas.latency.compiling import nothing_compiles
from sret_nas.latency.modes import MODES as MODES
from sret_nas.latency.preparation import Prepared, Settings, prepare, verified

L2 = Literal["warm", "flushed"]

RANK_SPREAD = 0.05
"""Half of the interval over the median beyond which a result cannot be ranked."""
TURN_S = 0.05
"""Seconds of one turn, roughly: 3 to 100 runs."""

Key = tuple[str, int]
"""Name of the model, images per batch."""


@dataclass(frozen=True)
class Latency:
    """Time and memory of one batch through one model.

    Attributes:
        name: The model's name.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``: of the weights and the input.
        device: ``cpu`` or ``cuda:N``.
        mode: ``eager``, ``compile`` or ``graph``.
        l2: Whether the GPU's L2 cache was left warm or overwritten before a run.
        median_ms: Median of all runs.
        p95_ms: 95th percentile of all runs.
        low_ms: Lower end of the 95% confidence interval of the median.
        high_ms: Upper end of that interval.
        runs: Runs in all.
        peak_bytes: Peak memory of one run: weights, input and what the run allocates.
        least_bytes: What any run must move: weights, input and output, once each.
        fingerprint: The device as it was found.
        compile_s: Seconds that compiling took, which no run includes; ``None`` in other modes.
        difference: Norm of the output's difference from that of eager fp32, over the norm of
            that; at most ``modes.TOLERANCE``.
    """

    name: str
    batch: int
    dtype: str
    device: str
    mode: str
    l2: str
    median_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    runs: int
    peak_bytes: int
    least_bytes: int
    fingerprint: Fingerprint
    compile_s: float | None = None
    difference: float | None = None

    @property
    def images_per_s(self) -> float:
        """Throughput at this batch size, in images per second."""
        return self.batch * 1000 / self.median_ms

    @property
    def spread(self) -> float:
        """Half the confidence interval of the median, as a share of the median."""
        return (self.high_ms - self.low_ms) / 2 / self.median_ms

    @property
    def rankable(self) -> bool:
        """Whether the spread is small enough to compare this result with others."""
        return self.spread <= RANK_SPREAD

    @property
    def note(self) -> str | None:
        """Why this result cannot be ranked with others, and what to do; ``None`` where it can."""
        if self.rankable:
            return None
        return (
            f"spread ±{self.spread:.0%} ({self.low_ms:.3g} to {self.high_ms:.3g} ms) is too wide "
            "to rank: something else was running; measure again on a quiet machine"
        )

    def to_dict(self) -> dict[str, Any]:
        """All attributes, throughput and note, as plain data for JSON; times in milliseconds."""
        return asdict(self) | {
            "fingerprint": self.fingerprint.to_dict(),
            "tf32": False,
            "images_per_s": self.images_per_s,
            "rankable": self.rankable,
            "note": self.note,
        }


def check(
    dtype: str | None = None,
    device: str = "auto",
    mode: str | None = None,
    threads: int | None = None,
) -> None:
    """Look whether ``measure`` can work at all with these.

    Raises:
        UsageError: no such device, type, mode or number of threads here.
    """
    Settings.of(dtype, device, mode, threads, "warm")


def measure(
    models: Mapping[str, Architecture | nn.Module],
    *,
    batches: Sequence[int] = (1,),
    dtype: str | None = None,
    device: str = "auto",
    mode: str | None = None,
    threads: int | None = None,
    l2: L2 = "warm",
    rounds: int = 20,
    spread: float = 0.01,
    seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Key, Latency | SretNasError]:
    """Measure models, interleaved.

    Args:
        models: By name. A module is copied, not touched; its input size is that
            of its architecture or its timm configuration, else 3×224×224.
        batches: Images per batch; every model is measured at each.
        dtype: ``fp32``, ``bf16`` or ``fp16``; default: ``modes.setting`` of the device.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: ``eager``, ``compile`` (``torch.compile``) or ``graph`` (a CUDA graph);
            default: ``modes.setting`` of the device.
        threads: Threads of torch on the CPU; default: as set. Restored afterwards.
        l2: On CUDA, leave the L2 cache warm or overwrite it before each run.
        rounds: Turns of each at most.
        spread: Stop early when the spread of every result is at most this.
        seconds: Stop measuring after this long (preparation, as compiling, not counted).
        progress: Told one line per model and per round, and while something compiles.

    Returns:
        For every name and batch the result, or what kept it from being measured.
    """
    keys = list(itertools.product(models, batches))
    results: dict[Key, Latency | SretNasError] = {}
    try:
        settings = Settings.of(dtype, device, mode, threads, l2)
    except SretNasError as error:
        return dict.fromkeys(keys, error)
    prepared: dict[Key, Prepared] = {}
    with _threads(settings.fingerprint.threads), torch.inference_mode(), exact_fp32():
        for name, batch in keys:
            progress(f"preparing {name}, batch {batch}")
            try:
                prepared[name, batch] = prepare(name, models[name], batch, settings, progress)
            except Exception as error:  # whatever a model raises is its own result
                results[name, batch] = _explained(error, name, batch, settings)
        deadline = time.perf_counter() + seconds

        def enough(taken: Mapping[Key, list[list[float]]]) -> bool:
            progress(f"round {len(next(iter(taken.values())))} of at most {rounds}")
            return time.perf_counter() > deadline or all(
                timing.summarise(turns).spread <= spread for turns in taken.values()
            )

        with nothing_compiles(settings.mode):
            taken = timing.interleave(
                {key: one.turn for key, one in prepared.items()},
                {key: min(100, max(3, round(TURN_S / one.run_s))) for key, one in prepared.items()},
                rounds,
                enough,
            )
        for key, turns in taken.items():
            one = prepared[key]
            try:
                if isinstance(turns, Exception):
                    raise turns
                # Once more: what ran meanwhile may not have touched its memory.
                verified(one.call, one.expected, settings.where(*key), settings)
                results[key] = _latency(key, turns, one, settings)
            except Exception as error:
                results[key] = _explained(error, *key, settings)
    return {key: results[key] for key in keys}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _latency(
    key: Key, turns: Sequence[Sequence[float]], prepared: Prepared, settings: Settings
) -> Latency:
    found = timing.summarise(turns)
    name, batch = key
    return Latency(
        name=name,
        batch=batch,
        dtype=settings.dtype_name,
        device=str(settings.device),
        mode=settings.mode,
        l2=settings.l2,
        median_ms=found.median_s * 1e3,
        p95_ms=found.p95_s * 1e3,
        low_ms=found.low_s * 1e3,
        high_ms=found.high_s * 1e3,
        runs=found.runs,
        peak_bytes=prepared.peak_bytes,
        least_bytes=prepared.least_bytes,
        fingerprint=settings.fingerprint,
        compile_s=prepared.call.compile_s,
        difference=prepared.difference,
    )


def _explained(error: Exception, name: str, batch: int, settings: Settings) -> SretNasError:
    """What a model raised, as one line with the next step."""
    if isinstance(error, SretNasError):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # torch's compiler says in its first line who failed, and then why
    text = " ".join(line.strip() for line in lines[:2]) if lines[0].endswith(":") else lines[0]
    where = settings.where(name, batch)
    found: SretNasError
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()
        found = SretNasError(f"{where}: out of memory", "take a smaller batch or a shorter dtype")
    elif "not implemented for" in text:
        found = UsageError(f"{where}: the device lacks this dtype: {text}", "take fp32")
    else:
        found = SretNasError(f"{where}, {settings.mode}: {text}")
    found.__cause__ = error
    return found
