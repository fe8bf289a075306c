"""One run of a model in a mode: it keeps alive what it reads, and is checked before it counts.

A mode is a way to launch the same arithmetic: ``eager`` (one kernel after the other),
``compile`` (``torch.compile``) or ``graph`` (a CUDA graph: all kernels at once). The output
of the very call that is to be timed is compared with that of the eager model in fp32, so
that no figure is of a call that computes something else.

Requires torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.device import has_dtype
from sret_nas.errors import SretNasError, UsageError

Mode = Literal["eager", "compile", "graph"]
MODES: tuple[Mode, ...] = get_args(Mode)

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
"""By dtype, the largest norm of an output's difference from that of eager fp32, over its norm.
Rounding was measured as up to 0.2% (fp16) and 1.4% (bf16), another image's output as 10% away or
more: nine models, on a CPU."""
COMPILE_S = 300.0
"""Seconds after which a compilation is given up."""
TELL_S = 5.0
"""Seconds between two words on a compilation."""
PART = 64
"""Images at once of the fp32 reference, which so needs no more memory than what is timed."""

Run = Callable[[], Any]
Record = Callable[[Run, torch.device], tuple[Callable[[], None], Any]]
"""Runs something once in a recording: how to repeat it, and where its output is then."""
T = TypeVar("T")


class Setting(NamedTuple):
    """How a latency is measured."""

    mode: str
    dtype: str


def setting(device: torch.device, mode: str | None = None, dtype: str | None = None) -> Setting:
    """What latency means on a device, where nothing else is asked for (docs/latency.md).

    A GPU: a CUDA graph in bf16, or in fp16 where it lacks bf16. A CPU: eager, fp32.

    Args:
        device: As ``device.resolve`` gives it.
        mode: Asked for, or ``None``.
        dtype: Asked for, or ``None``.
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
        model: The model.
        x: Its input.
        run: Runs it.
        output: Where every run puts its output; ``None`` where each has a new one.
        compile_s: What compiling took, in seconds; ``None`` where nothing was compiled.
    """

    def __init__(
        self,
        model: nn.Module,
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
        _refuse_draws(model, name)
        replay, output = (record or record_cuda)(run, x.device)
        return Call(model, x, replay, output)
    if mode == "compile":
        # A code object of its own: torch keeps compiled code by code object, and
        # gives up silently after the eighth model that shares one.
        run.__code__ = run.__code__.replace()
        fast = torch.compile(run, fullgraph=True, dynamic=False)
        took = _compile(fast, x.device, name, compile_s, progress)
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
    """All tensors in what a model returns."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [found for one in output for found in tensors(one)]
    return []


def record_cuda(run: Run, device: torch.device) -> tuple[Callable[[], None], Any]:
    """Record a CUDA graph, with a memory pool of its own."""
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
def nothing_compiles(mode: str) -> Iterator[None]:
    """Within, a compiled call that would be compiled anew is an error, not a slow run."""
    if mode != "compile":
        yield
        return
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """``permute: random`` draws on the CPU at every call; here always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of the CPU alone
        yield


def _refuse_draws(model: nn.Module, name: str) -> None:
    arch = getattr(model, "arch", None)
    if not isinstance(arch, Architecture) or arch.permute != "random":
        return
    if any(step.permuted for schedule in arch.schedules for step in schedule):
        raise UsageError(
            f"{name}: 'permute: random' draws on the CPU at every call, which no CUDA graph holds",
            "take --mode eager, or 'permute: fixed'",
        )


def _compile(
    fast: Run, device: torch.device, name: str, most_s: float, progress: Callable[[str], None]
) -> float:
    """The first call of what is compiled; the seconds that it took."""
    threads = torch.get_num_threads()

    def first() -> None:
        from torch._inductor import config

        # No pool of compiling processes: closing it at the end can take minutes.
        with (
            torch.inference_mode(),
            warnings.catch_warnings(),
            config.patch(compile_threads=1),
        ):
            warnings.simplefilter("ignore")  # advice such as to use TF32
            torch.set_num_threads(threads)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    fast()
                    torch.cuda.synchronize()
            else:
                fast()

    start = time.perf_counter()
    within(
        first,
        most_s,
        lambda spent: progress(f"compiling {name}: {spent:.0f} s of at most {most_s:.0f}"),
        SretNasError(
            f"{name}: not compiled after {most_s:.0f} s", "take --mode graph or --mode eager"
        ),
    )
    return time.perf_counter() - start


def within(
    work: Callable[[], T], seconds: float, tell: Callable[[float], None], late: SretNasError
) -> T:
    """Do something in a thread of its own, so that waiting ends even where the work does not.

    Args:
        work: What to do.
        seconds: How long to wait for it.
        tell: Told now and then for how long it has been going on.
        late: Raised when it is not done by then; it is asked to end.
    """
    done: Future[T] = Future()

    def body() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=body, name="compiling", daemon=True)
    start = time.perf_counter()
    thread.start()
    try:
        while (left := start + seconds - time.perf_counter()) > 0:
            thread.join(min(left, TELL_S))
            if done.done():
                return done.result()
            tell(time.perf_counter() - start)
        raise late
    finally:
        if thread.is_alive() and thread.ident is not None:  # at its next step in Python
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
