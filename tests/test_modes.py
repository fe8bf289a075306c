"""Modes: what a call keeps alive, what is compared before it is timed, what compiling may take."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sret_nas import device, latency
from sret_nas.arch import Architecture, Stage
from sret_nas.device import fingerprint
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import compiling, modes, preparation
from sret_nas.model import create_model

CPU = torch.device("cpu")
SMALL = Architecture(
    image_size=32,
    num_classes=10,
    stages=(Stage(heads=1, head_dim=16, recursions=2, groups=(4, 2)),),
)


Install = Callable[[Callable[..., Any]], list[dict[str, Any]]]


class Linear(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 4, 4)}
        self.linear = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


def record(run: modes.Run, _: torch.device) -> tuple[Callable[[], None], Any]:
    """A recording as a CUDA graph is one: a run writes to where the first one wrote."""
    output = run().clone()
    return lambda: output.copy_(run()), output


def record_nothing(run: modes.Run, _: torch.device) -> tuple[Callable[[], None], Any]:
    return lambda: None, run()


def record_other(run: modes.Run, _: torch.device) -> tuple[Callable[[], None], Any]:
    output = run().clone()
    return lambda: output.copy_(run().flip(0)), output


@pytest.fixture
def backend(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[..., Any]], list[dict[str, Any]]]:
    """Put something in the place of torch's compiler; returns what it is asked for."""

    def install(own: Callable[..., Any]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        real = torch.compile

        def compile_(f: Any, **options: Any) -> Any:
            asked.append(options)
            return real(f, backend=own, **options)

        monkeypatch.setattr(torch, "compile", compile_)
        return asked

    return install


def as_is(graph: torch.fx.GraphModule, _: object) -> Any:
    return graph.forward


@pytest.mark.parametrize("mode", modes.MODES)
def test_a_call_keeps_alive_what_it_reads_and_no_longer(mode: str, backend: Install) -> None:
    backend(as_is)
    with torch.inference_mode():
        model, x = Linear().eval(), torch.randn(2, 3, 4, 4)
        read = [weakref.ref(model), weakref.ref(model.linear.weight), weakref.ref(x)]
        expected = modes.expect(model, x)
        call = modes.prepare(model, x, mode, record=record)
        del model, x
        gc.collect()
        assert all(ref() is not None for ref in read)
        assert call.difference(expected) < 1e-6
        timed = call.__call__  # what is handed to the clock
        del call
        gc.collect()
        assert all(ref() is not None for ref in read)
        del timed
        gc.collect()
    if mode != "compile":  # torch keeps compiled code until it is reset
        assert all(ref() is None for ref in read)


def test_a_graph_and_its_output_live_as_long_as_the_call() -> None:
    class Recording:
        def replay(self) -> None:
            pass

    kept: list[weakref.ref[Any]] = []

    def record_it(run: modes.Run, _: torch.device) -> tuple[Callable[[], None], Any]:
        recording, output = Recording(), run()
        kept.extend([weakref.ref(recording), weakref.ref(output)])
        return recording.replay, output

    call = modes.prepare(Linear().eval(), torch.randn(1, 3, 4, 4), "graph", record=record_it)
    gc.collect()
    assert all(ref() is not None for ref in kept)
    del call
    gc.collect()
    assert all(ref() is None for ref in kept)


def prepared(mode: str, dtype: str = "fp32", batch: int = 2) -> preparation.Prepared:
    settings = preparation.Settings(
        dtype,
        getattr(torch, device.dtypes._TORCH_NAMES[dtype]),
        CPU,
        mode,
        "warm",
        fingerprint(CPU),
    )
    with torch.inference_mode():
        return preparation.prepare("small", SMALL, batch, settings, lambda _: None)


@pytest.mark.parametrize("wrong", [record_nothing, record_other])
def test_a_mode_that_returns_something_else_is_an_error_and_no_figure(
    wrong: modes.Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "record_cuda", record)
    assert prepared("graph").difference < 1e-6
    monkeypatch.setattr(modes, "record_cuda", wrong)
    with pytest.raises(SretNasError, match="no figure, as its output differs") as caught:
        prepared("graph")
    assert caught.value.exit_code == 1
    assert "small, batch 2, fp32 on cpu, graph" in str(caught.value)
    assert "allowed: 0.001" in str(caught.value)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rounding_is_within_the_tolerance_and_another_image_is_not(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "record_cuda", record)
    assert 1e-4 < prepared("graph", dtype).difference < modes.TOLERANCE[dtype] / 2
    monkeypatch.setattr(modes, "record_cuda", record_other)
    with pytest.raises(SretNasError, match=f"allowed: {modes.TOLERANCE[dtype]:g}"):
        prepared("graph", dtype)


@pytest.mark.parametrize("wrong", [None, torch.zeros(2, 4), torch.full((2, 5), float("nan")), []])
def test_what_is_no_such_output_is_infinitely_different(wrong: Any) -> None:
    call = modes.Call(Linear(), torch.zeros(1), lambda: wrong)
    assert call.difference([torch.ones(2, 5)]) == float("inf")


def test_a_figure_whose_output_changed_while_it_was_taken_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory that somebody else has by now."""
    real = preparation.timing.interleave

    def overwrite(*arguments: Any) -> Any:
        taken = real(*arguments)
        for model in models:
            model.linear.weight.data.zero_()
        return taken

    models: list[Any] = []
    prepare = modes.prepare

    def spy(model: nn.Module, *rest: Any, **options: Any) -> modes.Call:
        models.append(model)
        return prepare(model, *rest, **options)

    monkeypatch.setattr(modes, "prepare", spy)
    (fine,) = latency.measure({"m": Linear()}, rounds=2, device="cpu").values()
    assert isinstance(fine, latency.Latency)
    assert fine.difference == 0
    monkeypatch.setattr(latency.timing, "interleave", overwrite)
    (bad,) = latency.measure({"m": Linear()}, rounds=2, device="cpu").values()
    assert isinstance(bad, SretNasError) and bad.exit_code == 1
    assert "m, batch 1, fp32 on cpu, eager: no figure" in str(bad)


def test_the_reference_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = create_model(SMALL).eval(), torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        (whole,) = modes.expect(model, x)
        monkeypatch.setattr(modes, "PART", 2)
        (parts,) = modes.expect(model, x)
    torch.testing.assert_close(parts, whole)


def test_random_permutations_are_drawn_alike_for_both_and_leave_no_trace() -> None:
    model = create_model(Architecture.load(SMALL.to_dict() | {"permute": "random"})).eval()
    x = torch.randn(2, 3, 32, 32)
    state = torch.get_rng_state()
    with torch.inference_mode():
        call = modes.prepare(model, x, "eager")
        assert call.difference(modes.expect(model, x)) < 1e-6
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(UsageError, match="draws on the CPU at every call"):
            modes.prepare(model, x, "graph", record=record)


def test_it_is_compiled_once_without_dynamic_shapes_and_that_is_told(
    backend: Install,
) -> None:
    compiled: list[object] = []

    def counting(graph: torch.fx.GraphModule, inputs: object) -> Any:
        compiled.append(graph)
        return graph.forward

    asked = backend(counting)
    (found,) = latency.measure({"m": Linear()}, mode="compile", rounds=2, device="cpu").values()
    assert isinstance(found, latency.Latency), found
    assert asked == [{"fullgraph": True, "dynamic": False}]
    assert len(compiled) == 1
    assert found.compile_s is not None and found.compile_s > 0
    assert found.to_dict()["compile_s"] == found.compile_s


def test_a_compiled_call_is_never_compiled_anew_while_it_is_timed(
    backend: Install,
) -> None:
    backend(as_is)
    with torch.inference_mode():
        call = modes.prepare(Linear().eval(), torch.randn(2, 3, 4, 4), "compile")
        with compiling.nothing_compiles("compile"):
            call()
            call.model.linear = nn.Linear(48, 7)
            with pytest.raises(RuntimeError, match="recompile"):
                call()


def test_compiling_ends_at_its_limit(backend: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def forever(graph: torch.fx.GraphModule, _: object) -> Any:
        release.wait()
        return graph.forward

    backend(forever)
    monkeypatch.setattr(compiling, "TELL_S", 0.01)
    told: list[str] = []
    try:
        with pytest.raises(SretNasError, match="m: not compiled after 0 s") as caught:
            modes.prepare(
                Linear().eval(),
                torch.randn(1, 3, 4, 4),
                "compile",
                name="m",
                compile_s=0.1,
                progress=told.append,
            )
    finally:
        release.set()
    assert caught.value.exit_code == 1 and caught.value.hint
    assert told and told[0].startswith("compiling m: 0 s of at most")


def test_what_is_given_up_is_asked_to_end() -> None:
    running: list[threading.Thread] = []

    def forever() -> None:
        running.append(threading.current_thread())
        while True:
            pass

    with pytest.raises(SretNasError, match="late"):
        compiling.within(forever, 0.05, lambda _: None, SretNasError("late"))
    running[0].join(30)
    assert not running[0].is_alive()


def test_a_failure_to_compile_is_one_clear_line(backend: Install) -> None:
    def broken(graph: torch.fx.GraphModule, _: object) -> Any:
        raise RuntimeError("no compiler here\nand so on")

    backend(broken)
    (found,) = latency.measure({"m": Linear()}, mode="compile", device="cpu").values()
    assert isinstance(found, SretNasError)
    assert "\n" not in str(found)
    assert str(found).startswith("m, batch 1, fp32 on cpu, compile: ")
    assert "no compiler here" in str(found)


def test_what_latency_means_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    assert modes.setting(CPU) == ("eager", "fp32")
    assert modes.setting(CPU, "compile", "bf16") == ("compile", "bf16")
    monkeypatch.setattr(modes, "has_dtype", lambda *_: True)
    assert modes.setting(gpu) == ("graph", "bf16")
    assert modes.setting(gpu, "eager") == ("eager", "bf16")
    assert modes.setting(gpu, dtype="fp32") == ("graph", "fp32")
    monkeypatch.setattr(modes, "has_dtype", lambda *_: False)
    assert modes.setting(gpu) == ("graph", "bf16")  # set up here for another machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert modes.setting(gpu) == ("graph", "fp16")


def tf32() -> list[str]:
    cudnn: Any = torch.backends.cudnn
    return [b.fp32_precision for b in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]


@pytest.mark.parametrize("products", ["highest", "high"])
@pytest.mark.parametrize("convolutions", ["ieee", "tf32"])
def test_fp32_is_fp32_within_and_what_was_set_is_set_again(
    products: str, convolutions: str
) -> None:
    cudnn: Any = torch.backends.cudnn
    at_first = tf32()
    try:
        torch.set_float32_matmul_precision(products)
        cudnn.conv.fp32_precision = convolutions
        before = tf32()
        assert ("tf32" in before[0]) == (products == "high")
        with device.exact_fp32():
            assert "tf32" not in tf32()
            assert not torch.backends.cuda.matmul.allow_tf32  # as torch's compiler asks
            assert not torch.backends.cudnn.allow_tf32
        assert tf32() == before
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = at_first[0]
        cudnn.conv.fp32_precision = at_first[1]
    assert tf32() == at_first


def test_latency_is_measured_without_tf32() -> None:
    class Looking(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend(tf32())
            return super().forward(x)

    seen: list[str] = []
    (found,) = latency.measure({"m": Looking()}, rounds=2, device="cpu").values()
    assert isinstance(found, latency.Latency)
    assert seen and "tf32" not in seen
    assert found.to_dict()["tf32"] is False


@pytest.mark.cuda(seconds=60)
@pytest.mark.parametrize("dtype", device.DTYPES)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_every_output_on_a_gpu_is_that_of_eager_fp32(mode: str, dtype: str) -> None:
    for l2 in ("warm", "flushed"):
        found = latency.measure(
            {"small": SMALL, "t": Architecture.load("sret_t")},
            batches=(1, 8),
            device="cuda",
            dtype=dtype,
            mode=mode,
            l2=l2,  # type: ignore[arg-type]
            rounds=6,
            seconds=1,
        )
        for result in found.values():
            assert isinstance(result, latency.Latency), result
            assert result.difference is not None
            assert result.difference <= modes.TOLERANCE[dtype]
            assert result.compile_s is None


@pytest.mark.cuda(seconds=60)
def test_a_graph_on_a_gpu_reads_its_own_memory_whatever_else_is_allocated() -> None:
    gpu = torch.device("cuda:0")
    with torch.inference_mode():
        model, x = create_model(SMALL).eval().to(gpu), torch.randn(2, 3, 32, 32, device=gpu)
        expected = modes.expect(model, x)
        call = modes.prepare(model, x, "graph")
        del model, x
        gc.collect()
        torch.cuda.empty_cache()
        filled = [torch.full((2**18,), float("nan"), device=gpu) for _ in range(64)]
        assert call.difference(expected) < modes.TOLERANCE["fp32"]
        del filled


@pytest.mark.cuda(seconds=120)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])  # bf16 is the default, tested with latency
def test_compiled_on_a_gpu(dtype: str) -> None:
    (found,) = latency.measure(
        {"small": SMALL}, device="cuda", dtype=dtype, mode="compile", rounds=6, seconds=1
    ).values()
    assert isinstance(found, latency.Latency), found
    assert found.compile_s is not None and found.compile_s > 0
