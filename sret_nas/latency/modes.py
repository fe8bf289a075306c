"""One run of a model in a mode: it keeps alive what it reads, and is checked before it counts.

A mode is a way to launch the same arithmetic: ``eager`` (one kernel after the other),
``compile`` (``torch.compile``) or ``graph`` (a CUDA graph: all kernels at once). The output
of the very call that is to be timed is compared with that of the eager model in fp32, so
that no figure is of a call that computes something else.

Requires torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.device import has_dtype
from sret_nas.errors import UsageError
from sret_nas.latency.compiling import COMPILE_S, Run, compiled

Mode = Literal["eager", "compile", "graph"]
MODES: tuple[Mode, ...] = get_args(Mode)

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
"""By dtype, the largest norm of an output's difference from that of eager fp32, over its norm.
Rounding was measured as up to 0.2% (fp16) and 1.4% (bf16), another image's output as 10% away or
more: nine models, on a CPU."""
PART = 64
"""Images at once of the fp32 reference, which so needs no more memory than what is timed."""

Record = Callable[[Run, torch.device], tuple[Callable[[], None], Any]]
"""Runs something once in a recording: how to repeat it, and where its output is then."""


class Setting(NamedTuple):
    """How a latency is measured.

    Attributes:
        mode: ``eager``, ``compile`` or ``graph``; other runtimes have others.
        dtype: ``fp32``, ``bf16`` or ``fp16``; other runtimes have others.
    """

    mode: str
    dtype: str


def setting(device: torch.device, mode: str | None = None, dtype: str | None = None) -> Setting:
    """What latency means on a device, where nothing else is asked for (docs/latency.md).

    A GPU: a CUDA graph in bf16, or in fp16 where it lacks bf16. A CPU: eager, fp32.

    Args:
        device: The device, as ``device.resolve`` gives it.
        mode: The mode that is asked for, or ``None``.
        dtype: The dtype that is asked for, or ``None``.
    """
    gpu = device.type == "cuda"
    if dtype is None:
        # A machine without a GPU may set up a run for others that have one.
        half = not torch.cuda.is_available() or has_dtype("bf16", device)
        dtype = "fp32" if not gpu else "bf16" if half else "fp16"
    return Setting(mode or ("graph" if gpu else "eager"), dtype)


class Call:
    """A model and its input, ready to run again and again.

    Model, input, output and, in mode ``graph``, the graph with its memory pool live as long
    as this does: a graph repeats kernels on addresses, whoever has them by then.

    Args:
        model: The model, or what another runtime has in its place.
        x: Its input.
        run: Runs it.
        output: Where every run puts its output; ``None`` where each has a new one.
        compile_s: What compiling or exporting took, in seconds; ``None`` where nothing was.
    """

    def __init__(
        self,
        model: Any,
        x: Tensor,
        run: Run,
        output: Any = None,
        compile_s: float | None = None,
    ) -> None:
        self.model = model
        self.x = x
        self.run = run
        self.output = output
        self.compile_s = compile_s

    def __call__(self) -> Any:
        """One run; its output."""
        returned = self.run()
        return returned if self.output is None else self.output

    def difference(self, expected: list[Tensor]) -> float:
        """Run, and compare the output: the norm of the difference over the norm of ``expected``.

        Infinite where the shapes differ, something is not finite or there is no tensor.
        """
        for kept in tensors(self.output):
            kept.fill_(float("nan"))  # a run that writes nothing must not pass
        with _same_draws():
            got = tensors(self())
        if not got or [t.shape for t in got] != [t.shape for t in expected]:
            return float("inf")
        off = sum(float((a.float() - b).square().sum()) for a, b in zip(got, expected, strict=True))
        size = sum(float(b.square().sum()) for b in expected)
        found = (off / size) ** 0.5 if size else float(off > 0)
        return found if found < float("inf") else float("inf")  # NaN is not less either


def prepare(
    model: nn.Module,
    x: Tensor,
    mode: str,
    *,
    name: str = "the model",
    compile_s: float = COMPILE_S,
    progress: Callable[[str], None] = lambda _: None,
    record: Record | None = None,
) -> Call:
    """Make a model ready to run in a mode.

    Args:
        model: In eval mode, on the device of ``x`` and of its dtype.
        x: Its input.
        mode: ``eager``, ``compile`` or ``graph``.
        name: What to call it.
        compile_s: Give up compiling after this many seconds.
        progress: Told how long it has been compiling.
        record: Records for mode ``graph``; default: a CUDA graph.

    Raises:
        SretNasError: compiling took too long.
        UsageError: the model does something else at every run, which no graph can hold.
    """

    def run() -> Any:
        return model(x)

    if mode == "graph":
        refuse_draws(model, name, "which no CUDA graph holds", "take --mode eager, or ")
        replay, output = (record or record_cuda)(run, x.device)
        return Call(model, x, replay, output)
    if mode == "compile":
        fast, took = compiled(run, x.device, name, compile_s, progress)
        return Call(model, x, fast, compile_s=took)
    return Call(model, x, run)


def expect(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of the eager model in fp32, in parts of ``PART`` images.

    Args:
        model: In eval mode and fp32.
        x: Its input in fp32.
    """
    parts = []
    for part in torch.split(x, PART):
        with _same_draws():
            parts.append(tensors(model(part)))
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def tensors(output: Any) -> list[Tensor]:
    """All tensors in what a model returns, in order: one, or lists, tuples and dicts of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [found for one in output for found in tensors(one)]
    return []


def record_cuda(run: Run, device: torch.device) -> tuple[Callable[[], None], Any]:
    """Record a CUDA graph, with a memory pool of its own.

    Args:
        run: What to record; it runs three times before, so that libraries have started.
        device: The GPU.

    Returns:
        What replays the graph, and the output that every replay overwrites.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # kernels are chosen and libraries start
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = run()
    return graph.replay, output


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """``permute: random`` draws on the CPU at every call; here always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of the CPU alone
        yield


def refuse_draws(model: nn.Module, name: str, why: str, instead: str = "take ") -> None:
    """Refuse a model that does something else at every call.

    Args:
        model: The model.
        name: What to call it.
        why: What cannot be then, as a clause.
        instead: What the hint begins with.

    Raises:
        UsageError: it draws permutations.
    """
    arch = getattr(model, "arch", None)
    if not isinstance(arch, Architecture) or arch.permute != "random":
        return
    if any(step.permuted for schedule in arch.schedules for step in schedule):
        raise UsageError(
            f"{name}: 'permute: random' draws on the CPU at every call, {why}",
            f"{instead}'permute: fixed'",
        )
