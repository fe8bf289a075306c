"""Where the time of a model goes, stage by stage.

Requires torch and timm.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.device import exact_fp32
from sret_nas.errors import UsageError
from sret_nas.latency import modes
from sret_nas.latency.building import built
from sret_nas.latency.preparation import settings_of, verified

WITHIN = 0.15
"""How far the stages together may be from the whole model, which is timed without marks."""
TRIES = 3
"""How often that is measured; something else may have run."""


@dataclass(frozen=True)
class StageTimes:
    """Time of ``stem``, ``stage 1``, … and ``head``.

    Attributes:
        parts_ms: Milliseconds by stage.
        whole_ms: The whole model without a mark in between, timed in turn with them.
    """

    parts_ms: dict[str, float]
    whole_ms: float

    @property
    def note(self) -> str | None:
        """Why there are no shares: the parts do not add up to the whole; else ``None``."""
        parts = sum(self.parts_ms.values())
        if abs(parts - self.whole_ms) <= WITHIN * self.whole_ms:
            return None
        return f"the stages add up to {parts:.3g} ms, the whole takes {self.whole_ms:.3g} ms"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the time by stage, 1 in all; empty where parts do not add up to the whole."""
        if self.note:
            return {}
        parts = sum(self.parts_ms.values())
        return {name: part / parts for name, part in self.parts_ms.items()}


def time_by_stage(
    arch: Architecture,
    batch: int = 1,
    dtype: str | None = None,
    device: str = "auto",
    runs: int = 7,
    threads: int | None = None,
    mode: str | None = None,
) -> StageTimes:
    """Time of every stage, by marks at its borders: on a GPU CUDA events, in a graph inside it.

    A stage includes the down-sampling before it, the stem the position embedding.

    Args:
        arch: The architecture.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``; default: ``modes.setting`` of the device.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        runs: Runs; the median of each part counts.
        threads: Threads of torch on the CPU; default: as set. Restored afterwards.
        mode: ``eager`` or ``graph``; default: ``modes.setting`` of the device.

    Raises:
        UsageError: no such device, or it lacks the dtype or mode; or mode ``compile``.
        SretNasError: the output in this mode is another one.
    """
    if mode == "compile":
        raise UsageError("a compiled model is one piece, without stages", "take --mode graph")
    settings = settings_of(dtype, device, mode, threads, "warm")
    marks = _marks(settings.device, len(arch.stages) + 3)
    names = ["stem", *(f"stage {i + 1}" for i in range(len(arch.stages))), "head"]
    before = torch.get_num_threads()
    torch.set_num_threads(settings.fingerprint.threads)
    try:
        with torch.inference_mode(), exact_fp32():
            model, x, expected = built(arch, batch, settings)
            plain = modes.prepare(_Whole(model, marks), x, settings.mode)
            with _marked(model, marks):
                parts = modes.prepare(_Whole(model, marks), x, settings.mode)
            for call in (plain, parts):
                verified(call, expected, settings.where("by stage", batch), settings)
            for _ in range(TRIES):
                found = _measure(model, plain, parts, marks, names, runs)
                if found.note is None:
                    break
    finally:
        torch.set_num_threads(before)
    return found


def _measure(
    model: nn.Module,
    plain: modes.Call,
    parts: modes.Call,
    marks: _Marks,
    names: list[str],
    runs: int,
) -> StageTimes:
    whole: list[float] = []
    taken: list[list[float]] = []
    for _ in range(runs + 2):
        plain()
        first_ms = marks.read_ms(ends=True)
        with _marked(model, marks):  # for eager mode; a graph has them or not
            parts()
        whole += first_ms
        taken.append(marks.read_ms())
    medians = [statistics.median(times) for times in zip(*taken[2:], strict=True)]
    return StageTimes(dict(zip(names, medians, strict=True)), statistics.median(whole[2:]))


class _Marks(Protocol):
    """Points in time: the first, the last, and those in between."""

    def set(self, index: int) -> None: ...

    def read_ms(self, ends: bool = False) -> list[float]: ...


def _marks(device: torch.device, number: int) -> _Marks:
    return _Events(device, number) if device.type == "cuda" else _Clock(number)


class _Clock:
    """Marks of the host's clock."""

    def __init__(self, number: int) -> None:
        self.times = [0.0] * number

    def set(self, index: int) -> None:
        """Now."""
        self.times[index] = time.perf_counter()

    def read_ms(self, ends: bool = False) -> list[float]:
        """Milliseconds between the marks, or from the first to the last alone."""
        times = [self.times[0], self.times[-1]] if ends else self.times
        return [1e3 * (b - a) for a, b in itertools.pairwise(times)]


class _Events:
    """CUDA events; external ones, so that a graph sets them at every replay."""

    def __init__(self, device: torch.device, number: int) -> None:
        self.device = device
        event: Any = torch.cuda.Event
        with torch.cuda.device(device):
            self.events = [event(enable_timing=True, external=True) for _ in range(number)]

    def set(self, index: int) -> None:
        """When the device gets there."""
        self.events[index].record(torch.cuda.current_stream(self.device))

    def read_ms(self, ends: bool = False) -> list[float]:
        """Milliseconds between the marks, or from the first to the last alone."""
        torch.cuda.synchronize(self.device)
        events = [self.events[0], self.events[-1]] if ends else self.events
        return [float(a.elapsed_time(b)) for a, b in itertools.pairwise(events)]


class _Whole(nn.Module):
    """A model between the first and the last mark."""

    def __init__(self, model: nn.Module, marks: _Marks) -> None:
        super().__init__()
        self.model = model
        self.arch = model.arch
        self.marks = marks

    def forward(self, x: Tensor) -> Any:
        self.marks.set(0)
        found = self.model(x)
        self.marks.set(-1)
        return found


@contextlib.contextmanager
def _marked(model: Any, marks: _Marks) -> Iterator[None]:
    """Within, a run of the model sets the marks in between."""
    # The position embedding ends the stem; after that, every stage ends itself.
    borders: list[nn.Module] = [model.pos_drop, *model.stages]

    def mark(index: int) -> Any:
        return lambda *_: marks.set(index)

    handles = [m.register_forward_hook(mark(i + 1)) for i, m in enumerate(borders)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
