"""A model made ready to be timed: built, checked against eager fp32, weighed, warmed up.

Requires torch and timm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sret_nas.device import fingerprint, resolve
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import compiling, modes, timing
from sret_nas.latency.building import nbytes
from sret_nas.latency.default import TORCH
from sret_nas.latency.peak import allocated_peak
from sret_nas.latency.runtimes import named
from sret_nas.latency.runtimes.base import Source
from sret_nas.latency.settings import Settings


def settings_of(
    dtype: str | None,
    device: str,
    mode: str | None,
    threads: int | None,
    l2: str,
    runtime: str | None = None,
) -> Settings:
    """Settings that this device has.

    Args:
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; ``None`` for the runtime's default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: One of the runtime's; ``None`` for its default.
        threads: Threads on the CPU; ``None`` for as many as torch has.
        l2: Whether the L2 cache of a GPU is left ``warm`` or is ``flushed``.
        runtime: Name of the runtime; ``None`` for torch.

    Raises:
        UsageError: it lacks the type, mode or runtime, or there is no such device.
    """
    chosen = named(runtime or TORCH)
    found = resolve(device)
    mode, dtype = chosen.setting(found, mode, dtype)
    chosen.check(found, mode)
    if found.type == "cpu" and l2 == "flushed":
        raise UsageError("a flushed L2 cache needs a CUDA device; given cpu")
    if threads is not None and threads < 1:
        raise UsageError(f"threads: given {threads}; allowed: at least 1")
    here = fingerprint(found, threads, chosen.version())
    return Settings(dtype, chosen.images(dtype, found), found, mode, l2, here, chosen.name)


@dataclass(frozen=True)
class Prepared:
    """A model ready to be timed.

    Attributes:
        call: What is timed.
        expected: The output of the eager model in fp32.
        difference: How far the call's output is from that, as ``verified`` found it.
        turn: Times the call.
        run_s: Seconds of a run, roughly.
        peak_bytes: Peak memory of one run: weights, input and what the run allocates; ``None``
            where the runtime does not tell.
        least_bytes: Weights, input and output, once each.
    """

    call: modes.Call
    expected: list[Tensor]
    difference: float
    turn: timing.Turn
    run_s: float
    peak_bytes: int | None
    least_bytes: int


def prepare(
    name: str,
    source: Source,
    batch: int,
    settings: Settings,
    progress: Callable[[str], None],
) -> Prepared:
    """Make a model ready to be timed.

    Args:
        name: What to call it.
        source: An architecture, a module, which is copied, or a file of the runtime's own.
        batch: Images at once.
        settings: Device, dtype, mode and runtime.
        progress: Told what takes long.

    Raises:
        SretNasError: in this mode or dtype its output is another one; or the runtime cannot.
    """
    ready = named(settings.runtime).ready(name, source, batch, settings, progress)
    call = ready.call
    difference = verified(call, ready.expected, settings.where(name, batch), settings)
    peak_bytes = None
    with compiling.nothing_compiles(settings.mode):
        if ready.allocating is not None:
            peak_bytes = ready.held_bytes + allocated_peak(ready.allocating, settings.device)
        turn = (
            timing.cpu_turn(call, settings.fingerprint.threads)
            if settings.device.type == "cpu"
            else timing.cuda_turn(call, settings.device, settings.l2 == "flushed")
        )
        run_s = timing.warm_up(turn)
    output_bytes = sum(map(nbytes, ready.expected)) * settings.dtype.itemsize // 4  # they are fp32
    least_bytes = ready.held_bytes + output_bytes
    return Prepared(call, ready.expected, difference, turn, run_s, peak_bytes, least_bytes)


def verified(call: modes.Call, expected: list[Tensor], where: str, settings: Settings) -> float:
    """By how much the output of the very call that is timed differs from that of eager fp32.

    Raises:
        SretNasError: by more than the dtype explains.
    """
    with compiling.nothing_compiles(settings.mode):
        found = call.difference(expected)
    allowed = named(settings.runtime).tolerance[settings.dtype_name]
    if not found <= allowed:
        raise SretNasError(
            f"{where}, {settings.mode}: no figure, as its output differs from that of eager fp32 "
            f"by {found:.2g} of its norm; allowed: {allowed:g}",
            "take another mode or dtype",
        )
    return found
