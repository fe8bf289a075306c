"""The most memory that one run of a model holds at once, beside its weights and input.

Requires torch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import torch


def allocated_peak(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that one run holds of torch's allocator at once, its output included.

    Args:
        run: What to run: twice on a GPU, once on a CPU under torch's profiler.
        device: Where it runs. What was allocated before does not count.
    """
    return _on_cuda(run, device) if device.type == "cuda" else _on_cpu(run)


def _on_cuda(run: Callable[[], object], device: torch.device) -> int:
    run()  # libraries take their workspaces once
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(run: Callable[[], object]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    quiet = "KINETO_LOG_LEVEL" not in os.environ
    if quiet:  # its C++ part would print notes to stderr; it reads this once
        os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            run()
    finally:
        if quiet:
            del os.environ["KINETO_LOG_LEVEL"]
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    changes: list[int] = [event.nbytes() for event in events]
    return max(itertools.accumulate(changes, initial=0))
