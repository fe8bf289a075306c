"""What a device does in a run, from ``torch.profiler``: kernels, their time, gaps between them.

Kernels of a replayed CUDA graph are seen one by one. The profiler slows down who launches
them, so that gaps are an upper bound. On a CPU operations stand for kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from gpu_bench import Bench
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Work:
    """What the device did.

    Attributes:
        kernels: How many ran; on a CPU operations.
        busy_s: Time in which at least one ran, copies included.
        span_s: From the beginning of the first to the end of the last.
    """

    kernels: int
    busy_s: float
    span_s: float

    @property
    def share(self) -> float:
        """The part of the time in which the device worked."""
        return self.busy_s / self.span_s


def watch(bench: Bench, run: Callable[[], object]) -> Work:
    """Run once under the profiler."""
    activities = [ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU]
    bench.wait()
    with profile(activities=activities) as recorded:
        run()
        bench.wait()
    assert recorded.profiler is not None
    return account(recorded.profiler.kineto_results.events(), "kernel" if bench.cuda else "cpu_op")


def account(events: Iterable[Any], kernel: str) -> Work:
    """Count the events of that kind, and the time that they and copies cover."""
    kinds = {kernel} if kernel == "cpu_op" else {kernel, "gpu_memcpy", "gpu_memset"}
    seen = [(event, kind_of(event)) for event in events]
    kernels = sum(kind == kernel for _, kind in seen)
    spans = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event, kind in seen
        if kind in kinds
    )
    if not spans:
        raise RuntimeError("the profiler saw nothing that the device did")
    busy, reached = 0, spans[0][0]
    for start, end in spans:
        busy += max(0, end - max(start, reached))
        reached = max(reached, end)
    return Work(kernels, busy / 1e9, (reached - spans[0][0]) / 1e9)


def kind_of(event: Any) -> str:
    """``kernel``, ``gpu_memcpy``, …; by the name where torch does not say it."""
    if hasattr(event, "activity_type"):
        kind = str(event.activity_type())
        return "kernel" if kind == "concurrent_kernel" else kind
    name = event.name()
    if event.device_type() != torch.autograd.DeviceType.CUDA:
        return "cpu_op" if name.startswith("aten::") else "other"
    if name.startswith(("Memcpy", "Memset")):
        return f"gpu_{name[:6].lower()}"
    return "other" if "#" in name else "kernel"
