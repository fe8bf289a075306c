"""Where the time of a model goes, stage by stage.

Requires torch and timm.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import nn

from sret_nas.arch import Architecture
from sret_nas.device import resolve, torch_dtype
from sret_nas.model import create_model


def time_by_stage(
    arch: Architecture,
    batch: int = 1,
    dtype: str = "fp32",
    device: str = "cpu",
    runs: int = 7,
    threads: int | None = None,
) -> dict[str, float]:
    """Share of the run time of ``stem``, ``stage 1``, … and ``head``; they sum to 1.

    Eager, with the clock read at the borders of the stages (on CUDA after a
    synchronisation), so shares are comparable but their sum is not the latency. A
    stage includes the down-sampling before it, the stem the position embedding.

    Args:
        arch: The architecture.
        batch: Images per batch.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        runs: Runs; the median of each part counts.
        threads: Threads of torch on the CPU; default: as set. Restored afterwards.

    Raises:
        UsageError: no such device, or it lacks the dtype.
    """
    place = resolve(device)
    with torch.random.fork_rng(devices=[]):
        model = create_model(arch).eval().to(place, torch_dtype(dtype, place))
    image = torch.zeros(batch, arch.in_chans, arch.image_size, arch.image_size)
    image = image.to(place, torch_dtype(dtype, place))
    names = ["stem", *(f"stage {i + 1}" for i in range(len(arch.stages))), "head"]
    marks: list[float] = []

    def mark(*_: Any) -> None:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        marks.append(time.perf_counter())

    # The position embedding ends the stem; after that, every stage ends itself.
    borders: list[nn.Module] = [model.pos_drop, *model.stages]
    handles = [module.register_forward_hook(mark) for module in borders]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    taken: list[list[float]] = []
    try:
        with torch.inference_mode():
            for _ in range(runs + 2):
                marks.clear()
                mark()
                model(image)
                mark()
                taken.append([b - a for a, b in itertools.pairwise(marks)])
    finally:
        torch.set_num_threads(before)
        for handle in handles:
            handle.remove()
    parts = [statistics.median(times) for times in zip(*taken[2:], strict=True)]
    return {name: part / sum(parts) for name, part in zip(names, parts, strict=True)}
