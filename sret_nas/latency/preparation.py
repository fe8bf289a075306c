"""A model made ready to be timed: built, checked against eager fp32, weighed, warmed up.

Requires torch and timm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.device import Fingerprint, fingerprint, resolve, torch_dtype
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import compiling, modes, timing
from sret_nas.latency.peak import allocated_peak
from sret_nas.model import create_model


@dataclass(frozen=True)
class Settings:
    """What all models of one measurement share.

    Attributes:
        dtype_name: ``fp32``, ``bf16`` or ``fp16``.
        dtype: The same type, as torch's.
        device: The device.
        mode: ``eager``, ``compile`` or ``graph``.
        l2: Whether the L2 cache of a GPU is left ``warm`` or is ``flushed`` before each run.
        fingerprint: The device as it was found.
    """

    dtype_name: str
    dtype: torch.dtype
    device: torch.device
    mode: str
    l2: str
    fingerprint: Fingerprint

    @classmethod
    def of(
        cls, dtype: str | None, device: str, mode: str | None, threads: int | None, l2: str
    ) -> Settings:
        """Settings that this device has.

        Args:
            dtype: ``fp32``, ``bf16`` or ``fp16``; ``None`` for ``modes.setting``'s.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            mode: ``eager``, ``compile`` or ``graph``; ``None`` for ``modes.setting``'s.
            threads: Threads on the CPU; ``None`` for as many as torch has.
            l2: Whether the L2 cache of a GPU is left ``warm`` or is ``flushed``.

        Raises:
            UsageError: it lacks the type or mode, or there is no such device.
        """
        found = resolve(device)
        mode, dtype = modes.setting(found, mode, dtype)
        if mode not in modes.MODES:
            raise UsageError(f"mode: given {mode!r}; allowed: {', '.join(modes.MODES)}")
        if found.type == "cpu" and (mode == "graph" or l2 == "flushed"):
            what = "mode graph" if mode == "graph" else "a flushed L2 cache"
            raise UsageError(f"{what} needs a CUDA device; given cpu", "on the CPU: eager, compile")
        if threads is not None and threads < 1:
            raise UsageError(f"threads: given {threads}; allowed: at least 1")
        return cls(dtype, torch_dtype(dtype, found), found, mode, l2, fingerprint(found, threads))

    def where(self, name: str, batch: int) -> str:
        """What is measured, in words, for messages: name, batch, dtype and device."""
        return f"{name}, batch {batch}, {self.dtype_name} on {self.device}"


@dataclass(frozen=True)
class Prepared:
    """A model ready to be timed.

    Attributes:
        call: What is timed.
        expected: The output of the eager model in fp32.
        difference: How far the call's output is from that, as ``verified`` found it.
        turn: Times the call.
        run_s: Seconds of a run, roughly.
        peak_bytes: Peak memory of one run: weights, input and what the run allocates.
        least_bytes: Weights, input and output, once each.
    """

    call: modes.Call
    expected: list[Tensor]
    difference: float
    turn: timing.Turn
    run_s: float
    peak_bytes: int
    least_bytes: int


def prepare(
    name: str,
    source: Architecture | nn.Module,
    batch: int,
    settings: Settings,
    progress: Callable[[str], None],
) -> Prepared:
    """Make a model ready to be timed.

    Args:
        name: What to call it.
        source: An architecture, or a module, which is copied.
        batch: Images at once.
        settings: Device, dtype and mode.
        progress: Told how long it has been compiling.

    Raises:
        SretNasError: in this mode or dtype its output is another one; or as ``modes.prepare``.
    """
    where = settings.where(name, batch)
    model, x, expected = built(source, batch, settings)
    call = modes.prepare(model, x, settings.mode, name=where, progress=progress)
    difference = verified(call, expected, where, settings)
    with compiling.nothing_compiles(settings.mode):
        # A graph's kernels use what they allocated when it was recorded: as eager ones do.
        run = call if settings.mode == "compile" else partial(model, x)
        least_bytes = sum(map(_nbytes, (*model.parameters(), *model.buffers(), x)))
        peak_bytes = least_bytes + allocated_peak(run, settings.device)
        turn = (
            timing.cpu_turn(call, settings.fingerprint.threads)
            if settings.device.type == "cpu"
            else timing.cuda_turn(call, settings.device, settings.l2 == "flushed")
        )
        run_s = timing.warm_up(turn)
    least_bytes += sum(map(_nbytes, expected)) * x.itemsize // 4  # they are fp32
    return Prepared(call, expected, difference, turn, run_s, peak_bytes, least_bytes)


def built(
    source: Architecture | nn.Module, batch: int, settings: Settings
) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A model in eval mode and its input, both of the dtype, and what eager fp32 returns.

    Args:
        source: An architecture, or a module, which is copied.
        batch: Images at once.
        settings: Device and dtype.
    """
    if isinstance(source, Architecture):
        with torch.random.fork_rng(devices=[]):  # initial weights leave no trace
            model: nn.Module = create_model(source)
    else:
        model = copy.deepcopy(source)
    model = model.eval().to(device=settings.device, dtype=torch.float32)
    x = _images(batch, input_shape(model), settings.device)
    expected = modes.expect(model, x)
    return model.to(settings.dtype), x.to(settings.dtype), expected


def verified(call: modes.Call, expected: list[Tensor], where: str, settings: Settings) -> float:
    """By how much the output of the very call that is timed differs from that of eager fp32.

    Raises:
        SretNasError: by more than the dtype explains.
    """
    with compiling.nothing_compiles(settings.mode):
        found = call.difference(expected)
    allowed = modes.TOLERANCE[settings.dtype_name]
    if not found <= allowed:
        raise SretNasError(
            f"{where}, {settings.mode}: no figure, as its output differs from that of eager fp32 "
            f"by {found:.2g} of its norm; allowed: {allowed:g}",
            "take another mode or dtype",
        )
    return found


def _images(batch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Noise of different contrast and brightness: so the outputs differ from image to image."""
    # Drawn on the device: where it has no room, that is known at once.
    drawn: dict[str, Any] = {
        "generator": torch.Generator(device).manual_seed(0),
        "device": device,
    }
    x = torch.randn(batch, *shape, **drawn)
    contrast, brightness = torch.rand(2, batch, *(1 for _ in shape), **drawn)
    return x.mul_(0.2 + 1.8 * contrast).add_(4 * brightness - 2)


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
