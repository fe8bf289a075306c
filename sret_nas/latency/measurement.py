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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from sret_nas.device import Fingerprint, exact_fp32
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import timing
from sret_nas.latency.compiling import nothing_compiles
from sret_nas.latency.default import TORCH
from sret_nas.latency.modes import MODES as MODES
from sret_nas.latency.preparation import Prepared, prepare, settings_of, verified
from sret_nas.latency.runtimes import named
from sret_nas.latency.runtimes.base import Exported, Source
from sret_nas.latency.settings import Settings

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
        dtype: ``fp32``, ``bf16`` or ``fp16``: of the weights and the input; or ``int8``.
        device: ``cpu`` or ``cuda:N``.
        mode: ``eager``, ``compile`` or ``graph``; ``session`` of onnxruntime.
        l2: Whether the GPU's L2 cache was left warm or overwritten before a run.
        median_ms: Median of all runs.
        p95_ms: 95th percentile of all runs.
        low_ms: Lower end of the 95% confidence interval of the median.
        high_ms: Upper end of that interval.
        runs: Runs in all.
        peak_bytes: Peak memory of one run: weights, input and what the run allocates; ``None``
            where the runtime does not tell.
        least_bytes: What any run must move: weights, input and output, once each.
        fingerprint: The device as it was found.
        compile_s: Seconds that compiling, or exporting and loading, took, which no run
            includes; ``None`` in other modes.
        difference: Norm of the output's difference from that of eager fp32, over the norm of
            that; at most the runtime's tolerance.
        runtime: Name of the runtime.
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
    peak_bytes: int | None
    least_bytes: int
    fingerprint: Fingerprint
    compile_s: float | None = None
    difference: float | None = None
    runtime: str = TORCH

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
    runtime: str | None = None,
) -> None:
    """Look whether ``measure`` can work at all with these.

    Raises:
        UsageError: no such device, type, mode, runtime or number of threads here.
    """
    settings_of(dtype, device, mode, threads, "warm", runtime)


def measure(
    models: Mapping[str, Source],
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
    runtime: str | Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Key, Latency | SretNasError]:
    """Measure models, interleaved.

    Args:
        models: By name. A module is copied, not touched; its input size is that
            of its architecture or its timm configuration, else 3×224×224. A file of a
            runtime's own is measured as it is, in that runtime and its own dtype.
        batches: Images per batch; every model is measured at each.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; default: the runtime's on the device.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: One of the runtime's; torch has ``eager``, ``compile`` (``torch.compile``) and
            ``graph`` (a CUDA graph); default: the runtime's on the device.
        threads: Threads of torch on the CPU; default: as set. Restored afterwards.
        l2: On CUDA, leave the L2 cache warm or overwrite it before each run.
        rounds: Turns of each at most.
        spread: Stop early when the spread of every result is at most this.
        seconds: Stop measuring after this long (preparation, as compiling, not counted).
        runtime: Name of the runtime of all, or of each by its name, so that several are
            measured in turn; default torch.
        progress: Told one line per model and per round, and while something compiles.

    Returns:
        For every name and batch the result, or what kept it from being measured.
    """
    keys = list(itertools.product(models, batches))
    results: dict[Key, Latency | SretNasError] = {}
    settings: dict[str, Settings] = {}
    for name, source in models.items():
        own = runtime if runtime is None or isinstance(runtime, str) else runtime.get(name)
        try:
            settings[name] = _settings(source, own, dtype, device, mode, threads, l2)
        except SretNasError as error:
            results |= {(name, batch): error for batch in batches}
    if not settings:
        return results
    for which in {how.runtime: how for how in settings.values()}.values():
        theirs = [models[name] for name, how in settings.items() if how.runtime == which.runtime]
        named(which.runtime).ahead(theirs, which, progress)
    prepared: dict[Key, Prepared] = {}
    number = next(iter(settings.values())).fingerprint.threads
    with _threads(number), torch.inference_mode(), exact_fp32():
        for name, batch in keys:
            if name not in settings:
                continue
            progress(f"preparing {name}, batch {batch}")
            try:
                prepared[name, batch] = prepare(name, models[name], batch, settings[name], progress)
            except Exception as error:  # whatever a model raises is its own result
                results[name, batch] = _explained(error, name, batch, settings[name])
        deadline = time.perf_counter() + seconds

        def enough(taken: Mapping[Key, list[list[float]]]) -> bool:
            progress(f"round {len(next(iter(taken.values())))} of at most {rounds}")
            return time.perf_counter() > deadline or all(
                timing.summarise(turns).spread <= spread for turns in taken.values()
            )

        with ExitStack() as stances:
            for kind in {one.mode for one in settings.values()}:
                stances.enter_context(nothing_compiles(kind))
            taken = timing.interleave(
                {key: one.turn for key, one in prepared.items()},
                {key: min(100, max(3, round(TURN_S / one.run_s))) for key, one in prepared.items()},
                rounds,
                enough,
            )
        for key, turns in taken.items():
            one, how = prepared[key], settings[key[0]]
            try:
                if isinstance(turns, Exception):
                    raise turns
                # Once more: what ran meanwhile may not have touched its memory.
                verified(one.call, one.expected, how.where(*key), how)
                results[key] = _latency(key, turns, one, how)
            except Exception as error:
                results[key] = _explained(error, *key, how)
    return {key: results[key] for key in keys}


def _settings(
    source: Source,
    runtime: str | None,
    dtype: str | None,
    device: str,
    mode: str | None,
    threads: int | None,
    l2: str,
) -> Settings:
    if not isinstance(source, Exported):
        return settings_of(dtype, device, mode, threads, l2, runtime)
    if dtype not in (None, source.dtype):
        raise UsageError(f"{source.path}: is {source.dtype}; given {dtype}", "leave --dtype out")
    return settings_of(source.dtype, device, mode, threads, l2, runtime or source.runtime)


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
        runtime=settings.runtime,
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
