"""A step that is run a few times, then recorded once and repeated from the recording.

A CUDA graph launches all kernels of a step at once; launched one by one, small ones
leave the card waiting. What is recorded must read and write the same tensors every
time, wait for nothing and draw from the device's own generator alone.

Source: CUDA Graphs in PyTorch, https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

Step = Callable[[], None]

WARM_UP = 3
"""Runs before a recording: kernels are chosen and libraries start in them."""
SPARE = 1.1
"""Memory that has to be free for a recording, over what the step took at most."""


class Recorder(Protocol):
    """What records a step for ``Repeated``: ``CudaRecorder``, or in tests one for any device."""

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Enter before a step runs, is recorded or is repeated; leave when it is done."""

    def observe(self) -> None:
        """Be told that the next run of the step is the last one before its recording."""

    def record(self, step: Step) -> Step:
        """Record a step without running it; what comes back runs it.

        Raises:
            Exception: it cannot be recorded; whatever says so.
        """


class CudaRecorder:
    """Records into CUDA graphs, beside the current stream and in a memory pool of its own.

    Whoever records keeps alive what the step reads and writes. A recording holds on
    to its graph alone, so that both go when their owner goes.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.before = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run on a stream of its own, after what came before and before what comes after."""
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            outside.wait_stream(self.stream)

    def observe(self) -> None:
        """Begin to measure how much memory the next run takes; ``record`` asks for as much."""
        torch.cuda.reset_peak_memory_stats(self.device)
        self.before = torch.cuda.memory_allocated(self.device)

    def record(self, step: Step) -> Step:
        """Capture a graph; its recordings share one pool, as they never run at once.

        Raises:
            torch.OutOfMemoryError: too little memory is free for another run beside this one.
            Exception: the step does what cannot be captured.
        """
        needed = SPARE * (torch.cuda.max_memory_allocated(self.device) - self.before)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        if free < needed:  # an allocation that fails amid a capture can break the capture
            raise torch.OutOfMemoryError(
                f"out of memory: {needed / 2**30:.1f} GiB for a graph, {free / 2**30:.1f} GiB free"
            )
        graph = torch.cuda.CUDAGraph()
        state = torch.cuda.get_rng_state(self.device)
        try:
            # Other threads may go on using the card, hence thread_local.
            with (
                _no_collection(),
                torch.cuda.graph(
                    graph,
                    pool=self.pool,
                    stream=self.stream,
                    capture_error_mode="thread_local",
                ),
            ):
                step()
        except Exception:
            # A broken capture can leave generator and pool believing in it: they start afresh.
            self.pool = torch.cuda.graph_pool_handle()
            fresh = torch.Generator(self.device)
            fresh.set_state(state)
            index = self.device.index
            index = torch.cuda.current_device() if index is None else index
            torch.cuda.default_generators[index].graphsafe_set_state(fresh)
            raise
        return graph.replay


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The same for all recorders of a process: cuBLAS keeps a workspace for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python frees no forgotten graph meanwhile, which CUDA refuses during a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Repeated:
    """Runs a step: eagerly at first and wherever it cannot be recorded, else repeated.

    The runs before the recording count like every other: nothing is run in vain.

    Args:
        recorder: What records the step; ``None`` to run it eagerly for good.

    Attributes:
        recorded: Whether the step is repeated from a recording by now.
        failure: Why it could not be recorded.
        recording_s: What the recording took, in seconds; ``None`` where there is none.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.replay: Step | None = None
        self.failure: str | None = None
        self.recording_s: float | None = None
        self.runs = 0

    @property
    def recorded(self) -> bool:
        """Whether the step is repeated from a recording by now."""
        return self.replay is not None

    @property
    def settled(self) -> bool:
        """Whether the next run costs what all later ones cost: recorded, or warm for good."""
        return self.replay is not None or (self.recorder is None and self.runs >= WARM_UP)

    def __call__(self, step: Step, eager: Step | None = None) -> None:
        """Run the step once.

        Args:
            step: What can be recorded: the same function at every call.
            eager: What to run instead as long as nothing is recorded: it computes the same, and
                may do what a recording cannot, such as to split a batch. Default: ``step``.
        """
        if self.replay is None and self.recorder is not None and self.runs >= WARM_UP:
            start = time.perf_counter()
            try:
                self.replay = self.recorder.record(step)
                self.recording_s = time.perf_counter() - start
            except Exception as error:  # a step that is wrong fails when it runs, too
                self.recorder = None
                self.failure = _first_line(error)
        if self.replay is not None:
            self.replay()
            return
        self.runs += 1
        if self.recorder is not None and self.runs == WARM_UP:
            self.recorder.observe()
        (eager or step)()


def _first_line(error: BaseException) -> str:
    """What went wrong first: the end of a broken capture raises errors of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
