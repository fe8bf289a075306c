"""PyTorch itself: eager, compiled, or as a CUDA graph.

Requires torch and timm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from sret_nas.device import torch_dtype
from sret_nas.errors import UsageError
from sret_nas.latency import modes
from sret_nas.latency.building import built, nbytes
from sret_nas.latency.default import TORCH
from sret_nas.latency.modes import MODES, TOLERANCE, Setting
from sret_nas.latency.runtimes.base import Exported, Ready, Runtime, Source
from sret_nas.latency.settings import Settings


class PyTorch(Runtime):
    """PyTorch itself."""

    name = TORCH
    modes = MODES
    tolerance = TOLERANCE

    def setting(self, device: torch.device, mode: str | None, dtype: str | None) -> Setting:
        """As ``modes.setting``."""
        return modes.setting(device, mode, dtype)

    def images(self, dtype: str, device: torch.device) -> torch.dtype:
        """The type itself, where the device has arithmetic for it."""
        return torch_dtype(dtype, device)

    def check(self, device: torch.device, mode: str) -> None:
        """Graphs need a GPU."""
        super().check(device, mode)
        if device.type == "cpu" and mode == "graph":
            raise UsageError(
                "mode graph needs a CUDA device; given cpu", "on the CPU: eager, compile"
            )

    def one_piece(self, mode: str) -> str | None:
        """Only where it is compiled."""
        return "a compiled model is one piece" if mode == "compile" else None

    def ready(
        self,
        name: str,
        source: Source,
        batch: int,
        settings: Settings,
        progress: Callable[[str], None],
    ) -> Ready:
        """A call in one of the modes of ``modes.prepare``."""
        if isinstance(source, Exported):
            raise UsageError(
                f"{name}: a file of {source.runtime}, which torch does not run",
                f"--runtime {source.runtime}",
            )
        model, x, expected = built(source, batch, settings)
        where = settings.where(name, batch)
        call = modes.prepare(model, x, settings.mode, name=where, progress=progress)
        held = sum(map(nbytes, (*model.parameters(), *model.buffers(), x)))
        # A graph's kernels use what they allocated when it was recorded: as eager ones do.
        run = call if settings.mode == "compile" else partial(model, x)
        return Ready(call, expected, held, run)
