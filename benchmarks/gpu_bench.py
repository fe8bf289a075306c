"""What the sections of ``gpu.py`` share: where, with what, how long, and at which size.

A section is a file ``gpu_NAME.py`` with ``rows(bench)``: a generator of plain mappings,
each a finding. It ends by itself; where its time ends first, what it has yielded is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from sret_nas.arch import Architecture
from sret_nas.data import DataSet, load_data
from sret_nas.proxy import PRESETS, Proxy
from sret_nas.space import SearchSpace

Row: TypeAlias = dict[str, Any]
SECTIONS = {
    "training": 50,
    "forward": 20,
    "memory": 30,
    "predictor": 140,
    "search": 130,
    "modes": 30,
    "tests": 80,
}
"""By name, the share of the time; time that is left over is shared by those that follow."""


@dataclass(frozen=True)
class Bench:
    """What a section is to measure.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        data: What training and search use.
        reduced: Whether sizes are tiny, for a check of the script.
        deadline: When the section's time ends, by ``time.monotonic``.
    """

    device: str
    data: str = "demo"
    reduced: bool = False
    deadline: float = float("inf")

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device != "cpu"

    @property
    def place(self) -> torch.device:
        """The device, for torch."""
        return torch.device(self.device)

    @property
    def mode(self) -> str:
        """The mode in which goals are set, or what a CPU has instead."""
        return "graph" if self.cuda else "eager"

    @property
    def dtype(self) -> str:
        """The dtype in which goals are set; a CPU may have no arithmetic for it."""
        return "bf16" if self.cuda else "fp32"

    def until(self, limit_s: float) -> Bench:
        """The same, to end in that many seconds."""
        return replace(self, deadline=time.monotonic() + limit_s)

    def left_s(self) -> float:
        """Seconds until the section's time ends."""
        return self.deadline - time.monotonic()

    def arch(self, name: str) -> Architecture:
        """A published architecture; a small one of its design in the reduced form."""
        arch = Architecture.load(name)
        return arch.at(image_size=32, width=0.25) if self.reduced else arch

    def space(self) -> SearchSpace:
        """The space of the predictor and the search."""
        return SearchSpace.load("smoke" if self.reduced else "sret")

    def proxy(self) -> Proxy:
        """The scale of the goal in training."""
        if not self.reduced:
            return PRESETS["standard"]
        changes = {"width": 0.25, "subset": 32, "val_images": 16, "batch": 16}
        return PRESETS["standard"].model_copy(update=changes)

    def load(self, proxy: Proxy) -> DataSet:
        """The data of a proxy."""
        return load_data(self.data, **proxy.load_options())

    def wait(self) -> None:
        """Until the device has done what was launched."""
        if self.cuda:
            torch.cuda.synchronize(self.place)

    def seconds(self, run: Callable[[], object]) -> float:
        """Wall time of one run, from an idle device to an idle device."""
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start

    def interleaved(
        self, runs: dict[str, Callable[[], object]], seconds: float
    ) -> dict[str, list[float]]:
        """Wall times of several runs, in turn, every second round backwards; twice at least."""
        taken: dict[str, list[float]] = {name: [] for name in runs}
        ends = time.monotonic() + seconds
        while len(next(iter(taken.values()), [0.0, 0.0])) < 2 or time.monotonic() < ends:
            forward = len(next(iter(taken.values()))) % 2 == 0
            for name in runs if forward else reversed(runs):
                taken[name].append(self.seconds(runs[name]))
        return taken


def spread(values: list[float]) -> dict[str, float]:
    """Median and range of some measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
