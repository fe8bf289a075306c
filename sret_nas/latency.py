"""Measured latency and memory of models on a device.

Several models are measured *interleaved*: a turn of each, round after round, so
that drift of the machine hits all alike. What cannot be measured (out of memory,
a number format or a device that is not there) is an error of its own, beside the
results of the others.

A model is measured as it would be deployed: eval mode, inference mode, weights
*and* inputs cast to the dtype (no autocast).

Requires torch and timm.
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sret_nas import timing
from sret_nas.arch import Architecture
from sret_nas.device import Fingerprint, fingerprint, resolve, torch_dtype
from sret_nas.errors import SretNasError, UsageError
from sret_nas.model import create_model

Mode = Literal["eager", "compile", "graph"]
MODES: tuple[Mode, ...] = get_args(Mode)
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
        high_ms: Upper end.
        runs: Runs in all.
        peak_bytes: Peak memory of one run: weights, input and what the run allocates.
        least_bytes: What any run must move: weights, input and output, once each.
        fingerprint: The device as it was found.
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

    @property
    def images_per_s(self) -> float:
        """Throughput at this batch size."""
        return self.batch * 1000 / self.median_ms

    @property
    def spread(self) -> float:
        """Half of the confidence interval over the median."""
        return (self.high_ms - self.low_ms) / 2 / self.median_ms

    @property
    def rankable(self) -> bool:
        """Whether the spread is small enough to compare this result with others."""
        return self.spread <= RANK_SPREAD

    @property
    def note(self) -> str | None:
        """A sentence where the spread is too wide to rank."""
        if self.rankable:
            return None
        return (
            f"spread ±{self.spread:.0%} ({self.low_ms:.3g} to {self.high_ms:.3g} ms) is too wide "
            "to rank: something else was running; measure again on a quiet machine"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {
            "fingerprint": self.fingerprint.to_dict(),
            "images_per_s": self.images_per_s,
            "rankable": self.rankable,
            "note": self.note,
        }


def check(
    dtype: str = "fp32", device: str = "cpu", mode: str = "eager", threads: int | None = None
) -> None:
    """Look whether ``measure`` can work at all with these.

    Raises:
        UsageError: no such device, type, mode or number of threads here.
    """
    _Settings.of(dtype, device, mode, threads, "warm")


def measure(
    models: Mapping[str, Architecture | nn.Module],
    *,
    batches: Sequence[int] = (1,),
    dtype: str = "fp32",
    device: str = "cpu",
    mode: str = "eager",
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
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        mode: ``eager``, ``compile`` (``torch.compile``) or ``graph`` (a CUDA graph).
        threads: Threads of torch on the CPU; default: as set. Restored afterwards.
        l2: On CUDA, leave the L2 cache warm or overwrite it before each run.
        rounds: Turns of each at most.
        spread: Stop early when the spread of every result is at most this.
        seconds: Stop measuring after this long (preparation not counted).
        progress: Told one line per model and per round.

    Returns:
        For every name and batch the result, or what kept it from being measured.
    """
    keys = list(itertools.product(models, batches))
    results: dict[Key, Latency | SretNasError] = {}
    try:
        settings = _Settings.of(dtype, device, mode, threads, l2)
    except SretNasError as error:
        return dict.fromkeys(keys, error)
    prepared: dict[Key, _Prepared] = {}
    with _threads(settings.fingerprint.threads), torch.inference_mode():
        for name, batch in keys:
            progress(f"preparing {name}, batch {batch}")
            try:
                prepared[name, batch] = _prepare(models[name], batch, settings)
            except Exception as error:  # whatever a model raises is its own result
                results[name, batch] = _explained(error, name, batch, settings)
        deadline = time.perf_counter() + seconds

        def enough(taken: Mapping[Key, list[list[float]]]) -> bool:
            progress(f"round {len(next(iter(taken.values())))} of at most {rounds}")
            return time.perf_counter() > deadline or all(
                timing.summarise(turns).spread <= spread for turns in taken.values()
            )

        taken = timing.interleave(
            {key: one.turn for key, one in prepared.items()},
            {key: min(100, max(3, round(TURN_S / one.run_s))) for key, one in prepared.items()},
            rounds,
            enough,
        )
    for key, turns in taken.items():
        if isinstance(turns, Exception):
            results[key] = _explained(turns, *key, settings)
        else:
            results[key] = _latency(key, turns, prepared[key], settings)
    return {key: results[key] for key in keys}


@dataclass(frozen=True)
class _Settings:
    """What all models of one measurement share."""

    dtype_name: str
    dtype: torch.dtype
    device: torch.device
    mode: str
    l2: str
    fingerprint: Fingerprint

    @classmethod
    def of(cls, dtype: str, device: str, mode: str, threads: int | None, l2: str) -> _Settings:
        found = resolve(device)
        if mode not in MODES:
            raise UsageError(f"mode: given {mode!r}; allowed: {', '.join(MODES)}")
        if found.type == "cpu" and (mode == "graph" or l2 == "flushed"):
            what = "mode graph" if mode == "graph" else "a flushed L2 cache"
            raise UsageError(f"{what} needs a CUDA device; given cpu", "on the CPU: eager, compile")
        if threads is not None and threads < 1:
            raise UsageError(f"threads: given {threads}; allowed: at least 1")
        return cls(dtype, torch_dtype(dtype, found), found, mode, l2, fingerprint(found, threads))


@dataclass(frozen=True)
class _Prepared:
    """A model ready to be timed."""

    turn: timing.Turn
    run_s: float
    peak_bytes: int
    least_bytes: int


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(source: Architecture | nn.Module, batch: int, settings: _Settings) -> _Prepared:
    device = settings.device
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    if isinstance(source, Architecture):
        with torch.random.fork_rng(devices=[]):  # initial weights leave no trace
            model: nn.Module = create_model(source)
    else:
        model = copy.deepcopy(source)
    model = model.eval().to(device=device, dtype=settings.dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *input_shape(model), generator=generator)
    x = x.to(device=device, dtype=settings.dtype)
    output = model(x)
    least_bytes = sum(map(_nbytes, (*model.parameters(), *model.buffers(), x, output)))
    if device.type == "cpu":
        peak_bytes = least_bytes - _nbytes(output) + _allocated_peak(model, x)
        turn = timing.cpu_turn(_callable(model, x, settings), settings.fingerprint.threads)
    else:
        torch.cuda.reset_peak_memory_stats(device)
        call = _callable(model, x, settings)
        call()
        torch.cuda.synchronize(device)
        peak_bytes = torch.cuda.max_memory_allocated(device) - before
        turn = timing.cuda_turn(call, device, settings.l2 == "flushed")
    return _Prepared(turn, timing.warm_up(turn), peak_bytes, least_bytes)


def _callable(model: nn.Module, x: Tensor, settings: _Settings) -> Callable[[], object]:
    """One run in the mode that was asked for."""

    def run() -> Any:
        return model(x)

    if settings.mode == "compile":
        # A code object of its own: torch keeps compiled code by code object, and
        # gives up silently after the eighth model that shares one.
        run.__code__ = run.__code__.replace()
        return torch.compile(run, fullgraph=True, dynamic=False)
    if settings.mode == "graph":
        with torch.cuda.device(settings.device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
        return graph.replay
    return run


def input_shape(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of one image for this model."""
    arch = getattr(model, "arch", None)
    if isinstance(arch, Architecture):
        return arch.in_chans, arch.image_size, arch.image_size
    for name in ("pretrained_cfg", "default_cfg"):  # timm's
        size = (getattr(model, name, None) or {}).get("input_size")
        if size:
            return tuple(size)
    return 3, 224, 224


def _nbytes(value: Any) -> int:
    return value.nbytes if isinstance(value, Tensor) else 0


def _allocated_peak(model: nn.Module, x: Tensor) -> int:
    """The most bytes that one run holds of torch's CPU allocator at once."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    quiet = "KINETO_LOG_LEVEL" not in os.environ
    if quiet:  # its C++ part would print notes to stderr; it reads this once
        os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            model(x)
    finally:
        if quiet:
            del os.environ["KINETO_LOG_LEVEL"]
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    changes: list[int] = [event.nbytes() for event in events]
    return max(itertools.accumulate(changes, initial=0))


def _latency(
    key: Key, turns: Sequence[Sequence[float]], prepared: _Prepared, settings: _Settings
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
    )


def _explained(error: Exception, name: str, batch: int, settings: _Settings) -> SretNasError:
    """What a model raised, as one line with the next step."""
    if isinstance(error, SretNasError):
        return error
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    where = f"{name}, batch {batch}, {settings.dtype_name} on {settings.device}"
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
