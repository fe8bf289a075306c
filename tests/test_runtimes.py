"""Runtimes: the same model in ONNX Runtime, checked and timed as in PyTorch, and told apart."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

import sret_nas
from sret_nas import latency
from sret_nas.arch import Architecture, Stage
from sret_nas.device import fingerprint
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.latency import modes, preparation
from sret_nas.latency.building import built
from sret_nas.latency.predictor import predictor_path
from sret_nas.latency.runtimes import (
    RUNTIMES,
    exporting,
    exporting_ahead,
    named,
    onnx_runtime,
    opened,
)
from sret_nas.latency.settings import Settings
from sret_nas.model.onnx import write_onnx

CPU = torch.device("cpu")
ORT = "onnxruntime"
SMALL = Architecture(
    image_size=16,
    num_classes=5,
    in_chans=1,
    stem_stride=2,
    stages=(Stage(heads=1, head_dim=8, recursions=2, groups=(2, 1)),),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run takes 2 ms; models run once a turn."""

    def cpu_turn(call: Callable[[], object], threads: int) -> latency.timing.Turn:
        def turn(runs: int) -> list[float]:
            call()
            return [0.002] * runs

        return turn

    monkeypatch.setattr(latency.timing, "cpu_turn", cpu_turn)


def one(source: Any = SMALL, **options: Any) -> latency.Latency:
    asked: dict[str, Any] = {"runtime": ORT, "device": "cpu", "rounds": 6} | options
    (found,) = latency.measure({"small": source}, **asked).values()
    if isinstance(found, Exception):
        raise found
    return found


def settings(dtype: str = "fp32", threads: int = 1) -> Settings:
    return preparation.settings_of(dtype, "cpu", None, threads, "warm", ORT)


def ready(**options: Any) -> Any:
    how = settings(**options)
    with torch.inference_mode():
        return named(ORT).ready("small", SMALL, 2, how, lambda _: None)


def test_a_session_is_measured_like_any_mode_and_says_what_it_is() -> None:
    found = one(threads=1, batches=(2,))
    assert (found.runtime, found.mode, found.dtype, found.batch) == (ORT, "session", "fp32", 2)
    assert found.difference is not None and found.difference < 1e-5
    assert found.compile_s is not None and found.compile_s > 0
    assert found.peak_bytes is None
    model = sret_nas.create_model(SMALL)
    held = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    assert found.least_bytes == held + 2 * 4 * (16 * 16 + 5)
    assert found.fingerprint.runtime == named(ORT).version()
    assert str(found.fingerprint).endswith(f", {named(ORT).version()}")
    document = found.to_dict()
    assert document["runtime"] == ORT
    assert document["fingerprint"]["runtime"].startswith("onnxruntime 1.")


def test_torch_is_the_runtime_where_none_is_asked_for() -> None:
    found = one(runtime=None)
    assert (found.runtime, found.fingerprint.runtime) == ("torch", None)
    assert found.fingerprint.key == fingerprint(CPU).key


def test_runtimes_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Any]] = []
    interleave = latency.timing.interleave

    def spy(turns: Any, *rest: Any) -> Any:
        seen.append(list(turns))
        return interleave(turns, *rest)

    monkeypatch.setattr(latency.timing, "interleave", spy)
    found = latency.measure({"a": SMALL, "b": SMALL}, runtime={"b": ORT}, rounds=6)
    assert seen == [[("a", 1), ("b", 1)]]
    kinds = [one.runtime for one in found.values() if isinstance(one, latency.Latency)]
    assert kinds == ["torch", ORT]


def test_an_architecture_is_exported_once_for_all_threads_and_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(exporting, "write_onnx", never)
    told: list[str] = []
    found = one(threads=2, batches=(3,), progress=told.append)
    assert (found.batch, found.fingerprint.threads) == (3, 2)
    assert not any("exporting" in line for line in told)
    one(dtype="int8")  # made of the same file
    with pytest.raises(AssertionError, match="exported again"), torch.inference_mode():
        named(ORT).ready("x", replace_classes(7), 1, settings(), told.append)
    assert "exporting x to ONNX" in told[-1]


def replace_classes(number: int) -> Architecture:
    return Architecture.load(SMALL.to_dict() | {"num_classes": number})


def test_threads_of_the_session_are_those_that_are_asked_for() -> None:
    for threads in (1, 2):
        options = ready(threads=threads).call.model.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1


def test_a_call_keeps_alive_what_it_reads() -> None:
    made = ready()
    timed, expected = made.call.__call__, made.expected
    del made
    gc.collect()
    torch.testing.assert_close(timed(), expected[0], rtol=1e-4, atol=1e-5)


def test_a_session_that_returns_something_else_is_an_error_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong:
        def __init__(self, session: Any) -> None:
            self.session, self.after = session, left[0]

        def get_inputs(self) -> Any:
            return self.session.get_inputs()

        def run(self, *arguments: Any) -> list[Any]:
            self.after -= 1
            return [out if self.after >= 0 else -out for out in self.session.run(*arguments)]

    session = onnx_runtime._session
    left = [0]
    monkeypatch.setattr(onnx_runtime, "_session", lambda *given: Wrong(session(*given)))
    with pytest.raises(SretNasError, match="small, batch 2, fp32 on cpu, session: no figure") as at:
        one(batches=(2,))
    assert at.value.exit_code == 1
    left[0] = 3  # right when it is compared before it is timed, wrong afterwards
    with pytest.raises(SretNasError, match="no figure, as its output differs"):
        one(batches=(2,))
    left[0] = 100
    assert one(batches=(2,)).difference is not None


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_precisions_are_within_their_tolerance_and_another_image_is_not(dtype: str) -> None:
    made = ready(dtype=dtype)
    allowed = named(ORT).tolerance[dtype]
    assert 1e-5 < made.call.difference(made.expected) < allowed
    assert made.call.difference([made.expected[0].flip(0)]) > allowed
    assert one(dtype=dtype).least_bytes < one().least_bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "tflite"}, "runtime: given 'tflite'; allowed: torch, onnxruntime"),
        ({"mode": "eager"}, "mode: given 'eager'; allowed of runtime onnxruntime: session"),
        ({"dtype": "bf16"}, "allowed of runtime onnxruntime on cpu: fp32, fp16, int8"),
        ({"runtime": "torch", "dtype": "int8"}, "dtype: given 'int8'"),
        ({"runtime": "torch", "mode": "session"}, "mode: given 'session'; allowed: eager, "),
    ],
)
def test_what_a_runtime_has_not_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        one(**options)
    with pytest.raises(UsageError, match=words):
        latency.check(**({"runtime": ORT} | options))


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for ask in (one, lambda: latency.load_predictor(runtime=ORT)):
        with pytest.raises(UsageError, match="'onnxruntime' is not installed") as caught:
            ask()
        assert caught.value.hint == 'pip install "sret_nas[onnx]"'
    assert one(runtime="torch").runtime == "torch"


def test_random_orders_are_in_no_file() -> None:
    drawn = Architecture(
        image_size=32,
        num_classes=5,
        permute="random",
        stages=(Stage(heads=1, head_dim=8, recursions=2, groups=(4, 2)),),
    )
    with pytest.raises(UsageError, match="draws on the CPU at every call, which no file holds"):
        one(drawn)


def test_every_runtime_knows_its_settings_on_any_device() -> None:
    for name, runtime in RUNTIMES.items():
        assert runtime.name == name
        for device in ("cpu", "cuda:0"):  # this machine need not have it
            mode, dtype = runtime.setting(torch.device(device), None, None)
            assert mode in runtime.modes and dtype in runtime.tolerance
            assert runtime.setting(torch.device(device), "m", "d") == ("m", "d")
    assert named(ORT).setting(torch.device("cuda:0"), None, None) == ("session", "fp16")
    assert named(ORT).one_piece("session") == "onnxruntime runs a model as one piece"
    assert named("torch").one_piece("eager") is None


GPU = torch.device("cuda:0")


def test_a_gpu_that_onnxruntime_was_not_built_for_is_refused() -> None:
    with pytest.raises(UsageError, match="has no CUDAExecutionProvider") as caught:
        named(ORT).check(GPU, "session")
    assert caught.value.hint and "onnxruntime-gpu" in caught.value.hint


def test_a_provider_that_does_not_start_is_no_silent_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def session(_: Path, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    on_gpu = replace(settings(), device=GPU)
    with pytest.raises(SretNasError, match="does not start CUDAExecutionProvider"):
        onnx_runtime._session(Path("m.onnx"), on_gpu, plain=False)
    ((name, how),) = asked
    assert name == "CUDAExecutionProvider"
    assert how == {"device_id": "0", "user_compute_stream": "7", "use_tf32": "0"}


def test_a_call_on_a_device_writes_where_it_did_before() -> None:
    made = ready()
    bound = onnx_runtime._bound(made.call.model, made.call.x)
    assert bound.difference(made.expected) < 1e-5
    kept = bound.output.data_ptr()
    assert bound().data_ptr() == kept


class Linear(nn.Module):
    """Any model, with a batch that its file fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.5,)}
        self.linear = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "small.onnx"
    write_onnx(sret_nas.create_model(SMALL), path, side=16, in_chans=1)
    return path


def test_any_module_is_exported_for_the_measurement_alone(cache: Path) -> None:
    before = sorted((cache / "onnx").glob("*"))
    found = one(Linear(), batches=(2,))
    assert found.difference is not None and found.difference < 1e-5
    assert sorted((cache / "onnx").glob("*")) == before


def test_a_file_is_measured_as_it_is(file: Path) -> None:
    source = opened(file)
    assert source is not None
    assert (source.arch, source.dtype, source.shape) == (SMALL, "fp32", (1, 16, 16))
    assert (source.runtime, source.batch) == (ORT, None)
    found = one(source, runtime=None, batches=(2,))
    assert (found.runtime, found.dtype) == (ORT, "fp32")
    assert found.difference is not None and found.difference < 1e-5
    with pytest.raises(UsageError, match="a file of onnxruntime, which torch does not run"):
        one(source, runtime="torch")
    with pytest.raises(UsageError, match="is fp32; given fp16"):
        one(source, dtype="fp16")


def test_a_file_says_its_precision_and_its_batch(file: Path, tmp_path: Path) -> None:
    half, whole = tmp_path / "half.onnx", tmp_path / "whole.onnx"
    write_onnx(Linear(), half, side=8, in_chans=3, dtype="fp16", dynamic_batch=False, batch=2)
    exporting._quantise(file, whole)
    fixed, quantised = opened(half), opened(whole)
    assert fixed is not None and quantised is not None
    assert (fixed.dtype, fixed.batch, fixed.arch) == ("fp16", 2, None)
    assert quantised.dtype == "int8"
    assert one(fixed, batches=(2,), runtime=None).dtype == "fp16"
    with pytest.raises(UsageError, match="takes 2 images at once; given batch 1"):
        one(fixed, runtime=None)
    assert one(quantised, runtime=None).dtype == "int8"


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x07"])
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.onnx"):
        opened(path)
    assert opened(tmp_path / "x.safetensors") is None


def test_notes_of_others_are_not_believed(file: Path, tmp_path: Path) -> None:
    proto = onnx.load(file)
    for note in proto.metadata_props:
        note.value = "[" if note.key == "architecture" else "{}"
    onnx.save(proto, tmp_path / "other.onnx")
    source = opened(tmp_path / "other.onnx")
    assert source is not None and source.arch is None
    assert source.shape == (1, 16, 16)  # as the graph has it


def test_files_that_were_not_used_for_longest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(exporting, "KEPT_BYTES", 25)
    for age, name in enumerate("abcd"):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    exporting._make_room(tmp_path / "d.onnx")
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "d"]


def test_many_are_exported_at_once_in_processes_and_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    monkeypatch.setattr(exporting_ahead, "cores", lambda: 2)
    monkeypatch.setattr(exporting_ahead, "LOOK_S", 0.01)
    started: list[list[str]] = []

    class Process(subprocess.Popen[str]):
        """One that exports in no time."""

        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command)
            code = (
                "import json, sys, pathlib; from sret_nas.arch import Architecture\n"
                "for one in json.load(sys.stdin):\n"
                f" name = Architecture.load(one).id + '-fp32-{exporting._makers()}.onnx'\n"
                f" pathlib.Path({str(tmp_path / 'onnx')!r}, name).write_text('')\n"
            )
            super().__init__([sys.executable, "-c", code], **options)

    (tmp_path / "onnx").mkdir()
    monkeypatch.setattr(exporting_ahead.subprocess, "Popen", Process)
    archs, told = [replace_classes(i) for i in range(2, 8)], list[str]()
    exporting_ahead.export_ahead(archs[:3], "fp32", told.append)
    assert not started
    exporting_ahead.export_ahead([*archs, *archs], "fp32", told.append)
    assert [command[1:] for command in started] == [["-m", exporting_ahead.__name__, "fp32"]] * 2
    assert all(exporting.kept(arch, "fp32").is_file() for arch in archs)
    assert told[0] == "exporting to ONNX, 2 at once: 0 of 6"
    exporting_ahead.export_ahead(archs, "fp32", told.append)
    assert len(started) == 2


def test_a_process_exports_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    def write(model: Any, path: Path, **options: Any) -> None:
        if model.arch.num_classes == 2:
            raise SretNasError("not this one")
        written.append((model.arch, options["dtype"]))
        path.write_text("")

    monkeypatch.setattr(exporting, "write_onnx", write)
    threads = torch.get_num_threads()
    archs = [replace_classes(i) for i in (2, 31)]
    try:
        exporting_ahead.main("fp16", json.dumps([arch.to_dict() for arch in archs]))
    finally:
        torch.set_num_threads(threads)
    assert written == [(archs[1], "fp16")]
    exporting.kept(archs[1], "fp16").unlink()


def test_files_of_other_versions_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    makers = exporting._makers.__wrapped__
    before = makers()
    assert makers() == before
    monkeypatch.setattr(onnx, "__version__", "0")
    assert makers() != before


def test_the_weights_of_an_architecture_are_always_the_same() -> None:
    state = torch.get_rng_state()
    found = []
    with torch.inference_mode():
        for seed in (1, 2):
            torch.manual_seed(seed)
            _, _, (expected,) = built(SMALL, 1, settings())
            found.append(expected)
    torch.set_rng_state(state)
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert float(found[0].abs().max()) > 0


def some(runtime: str) -> latency.Predictor:
    here = fingerprint(CPU, 1, named(runtime).version())
    mode = named(runtime).modes[0]
    archs = sret_nas.SearchSpace.load("sret_tiny").sample(20, seed=0)
    times = list(np.linspace(1, 2, 20))
    return latency.fit(archs, times, fingerprint=here, mode=mode, runtime=runtime)


def test_calibrations_are_kept_by_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="no latency predictor for cpu") as caught:
        latency.load_predictor("cpu", threads=1, runtime=ORT)
    assert "session of onnxruntime, 1 threads" in str(caught.value)
    assert "--runtime onnxruntime" in str(caught.value.hint)
    kept = {name: some(name) for name in RUNTIMES}
    paths = {name: found.save() for name, found in kept.items()}
    assert len(set(paths.values())) == 2
    for name, found in kept.items():
        assert latency.load_predictor("cpu", threads=1, runtime=name) == found
    paths[ORT].write_text(paths["torch"].read_text())
    with pytest.raises(ConfigError, match="runtime torch instead of onnxruntime"):
        latency.load_predictor("cpu", threads=1, runtime=ORT)


def test_a_calibration_of_before_there_were_runtimes_is_that_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    found = some("torch")
    here = found.fingerprint
    assert predictor_path(here, 1, "fp32", "eager").name == f"{here.key}-fp32-eager-1.json"
    data = json.loads(found.save().read_text())
    del data["runtime"], data["fingerprint"]["runtime"]
    predictor_path(here, 1, "fp32", "eager").write_text(json.dumps(data))
    assert latency.load_predictor("cpu", threads=1) == found


def test_a_fingerprint_without_a_runtime_has_the_key_it_had() -> None:
    plain = fingerprint(CPU, 1)
    assert replace(plain, runtime=None).key == plain.key
    keys = {plain.key, *(replace(plain, runtime=f"onnxruntime {n}").key for n in (1, 2))}
    assert len(keys) == 3


def test_a_clock_predicts_and_measures_in_its_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    asked: list[Any] = []

    def measure(models: Any, **options: Any) -> Any:
        asked.append(options["runtime"])
        return {(name, 1): SretNasError("enough") for name in models}

    monkeypatch.setattr("sret_nas.latency.measurement.measure", measure)
    told: list[str] = []
    tell = latency.clock("cpu", threads=1, runtime=ORT, progress=told.append)
    with pytest.raises(SretNasError, match="enough"):
        tell(SMALL, 1)
    assert asked == [ORT] and "onnxruntime" in told[0]
    some(ORT).save()
    arch = sret_nas.SearchSpace.load("sret_tiny").sample(1, seed=0)[0]
    assert latency.clock("cpu", threads=1, runtime=ORT)(arch, 1).source == "predicted"
    with pytest.raises(SretNasError, match="enough"):
        latency.clock("cpu", threads=1)(arch, 1)
    assert asked == [ORT, "torch"]


def test_tolerances_are_those_of_eager_where_the_dtype_is_the_same() -> None:
    assert named("torch").tolerance == modes.TOLERANCE
    assert {k: v for k, v in named(ORT).tolerance.items() if k != "int8"} == modes.TOLERANCE


def of(runtime: str | None, **changes: Any) -> Any:
    from sret_nas.proxy import Proxy
    from sret_nas.study.config import RunConfig, versions

    return RunConfig(
        space=sret_nas.SearchSpace.load("smoke").file.model_dump(
            mode="json", by_alias=True, exclude_unset=True
        ),
        data={"source": "demo", "fingerprint": "0"},
        proxy=Proxy.load("fast"),
        budget=("2ms",),
        device="cpu",
        latency_runtime=runtime,
        versions=versions(),
        **changes,
    ).with_latency()


def test_a_run_keeps_its_runtime() -> None:
    plain, other = of(None), of(ORT)
    assert (plain.latency["runtime"], other.latency["runtime"]) == ("torch", ORT)
    assert (other.latency_mode, other.latency_dtype) == ("session", "fp32")
    assert "onnxruntime" not in plain.versions
    assert other.versions["onnxruntime"] == named(ORT).packages()[ORT]
    assert plain.name != other.name and of("torch").name == plain.name
    words = (
        'latency runtime was "torch", now "onnxruntime"; latency mode was "eager", now "session"'
    )
    with pytest.raises(ConfigError) as caught:
        other.going_on(plain, "runs/x")
    assert words in str(caught.value) and "dtype" not in str(caught.value)
    old = plain.model_copy(update={"latency_runtime": None})  # of before there was a choice
    assert old.name == plain.name and old.latency["runtime"] == "torch"
    plain.going_on(old, "runs/x")
    with pytest.raises(ConfigError, match='runtime was "torch"'):
        other.going_on(old, "runs/x")


def test_a_run_in_another_version_of_its_runtime_is_another() -> None:
    begun = of(ORT)
    begun = begun.model_copy(update={"versions": begun.versions | {"onnxruntime": "1.2.3"}})
    with pytest.raises(ConfigError, match=r"onnxruntime is .* here, 1\.2\.3 there"):
        of(ORT).going_on(begun, "runs/x")
    later = of(ORT).accepting_versions().going_on(begun, "runs/x").later_versions
    assert later[0]["onnxruntime"] == of(ORT).versions["onnxruntime"]


def test_a_runtime_is_asked_for_where_a_latency_matters() -> None:
    with pytest.raises(UsageError, match="given onnxruntime, but no budget and no objective"):
        of(None).model_copy(
            update={
                "budget": (),
                "latency_mode": None,
                "latency_dtype": None,
                "latency_runtime": ORT,
            }
        ).with_latency()
    with pytest.raises(UsageError, match="dtype: given 'bf16'"):
        of(ORT, latency_dtype="bf16")


def saved(folder: Path) -> str:
    SMALL.save(folder / "small.yaml")
    return str(folder / "small.yaml")


def test_profile_says_the_runtime_of_every_figure(
    cli: Callable[..., Any], file: Path, tmp_path: Path
) -> None:
    arch = saved(tmp_path)
    document = cli("profile", arch, "--runtime", ORT, "--threads", 1, "--format", "json").json
    assert document["latency"]["runtime"] == ORT
    assert document["latency"]["mode"] == "session"
    assert document["time_share_note"] == "onnxruntime runs a model as one piece"
    result = cli("profile", arch, file, "--threads", 1, "--format", "csv")
    rows = [line.split(",") for line in result.out.splitlines()]
    at = {name: rows[0].index(name) for name in ("runtime", "mode", "params", "id", "macs")}
    assert [row[at["runtime"]] for row in rows[1:]] == ["torch", ORT]
    assert rows[1][at["params"]] == rows[2][at["params"]]  # as the file says its architecture
    assert rows[1][at["id"]] == rows[2][at["id"]] == SMALL.id
    text = cli("profile", arch, file, "--threads", 1).out
    assert "fp32, eager, on" in text and "fp32, session, on" in text and "onnxruntime 1." in text


def test_a_file_without_an_architecture_has_a_latency_and_no_cost(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "linear.onnx"
    write_onnx(Linear(), path, side=8, in_chans=3)
    document = cli("profile", path, "--threads", 1, "--json").json
    assert document["latency"]["runtime"] == ORT
    assert (document["params"], document["macs"], document["architecture"]) == (None,) * 3
    assert cli("profile", path, "--threads", 1).code == 0
    refused = cli("profile", path, "--runtime", "torch")
    assert refused.code == 2 and "--runtime onnxruntime" in refused.err


@pytest.mark.parametrize("runtime", [None, ORT])
def test_a_model_folder_is_profiled_with_its_own_weights(
    cli: Callable[..., Any], tmp_path: Path, runtime: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sret_nas.create_model(SMALL)
    with torch.no_grad():
        model.head.bias.fill_(7.0)
    sret_nas.save(model, tmp_path / "model")
    seen: list[float] = []
    expect = modes.expect

    def spy(model: Any, x: Tensor) -> Any:
        seen.append(float(model.head.bias.mean()))
        return expect(model, x)

    monkeypatch.setattr(modes, "expect", spy)
    asked = ("--runtime", runtime) if runtime else ()
    document = cli("profile", tmp_path / "model", *asked, "--threads", 1, "--json").json
    assert seen[0] == 7.0
    assert document["id"] == SMALL.id and document["params"] == sret_nas.cost(SMALL).params
    assert document["latency"]["runtime"] == (runtime or "torch")


def test_a_folder_of_a_timm_model_is_profiled_too(cli: Callable[..., Any], tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    save_for_hf(model, tmp_path / "model", safe_serialization=True)
    document = cli("profile", tmp_path / "model", "--no-latency", "--json").json
    assert document["params"] == sum(one.numel() for one in model.parameters())
    assert document["id"] is None and document["macs"] > 0


def test_a_calibration_is_asked_for_by_runtime(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))

    found = one(runtime="torch")

    def measure(models: Any, **options: Any) -> Any:
        here = fingerprint(CPU, options["threads"], named(options["runtime"]).version())
        return {
            (name, 1): replace(
                found, median_ms=0.1 + sret_nas.cost(arch).macs * 1e-8, fingerprint=here
            )
            for name, arch in models.items()
        }

    monkeypatch.setattr("sret_nas.latency.measurement.measure", measure)
    asked = ("calibrate", "sret_tiny", "-n", 20, "--holdout", 5, "--threads", 1)
    result = cli(*asked, "--runtime", ORT, "--json")
    assert result.code == 0, result.err
    assert result.json["predictor"]["runtime"] == ORT
    assert "fp32, session of onnxruntime, batch 1" in result.err
    assert latency.load_predictor("cpu", threads=1, runtime=ORT).space == "sret_tiny"
    with pytest.raises(UsageError, match="no latency predictor"):
        latency.load_predictor("cpu", threads=1)


def test_a_search_measures_and_bounds_in_its_runtime(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measured are those that go to the end; who is too slow there is not tried."""
    import yaml

    from .tiny import TINY

    monkeypatch.setattr("sret_nas.latency.bounds.SECONDS", 0.1)
    monkeypatch.setattr("sret_nas.runner.comparison.ROUNDS_S", (0.1,))
    space = {
        "schema": 1,
        "name": "two",
        "image_size": 16,
        "stem_stride": 2,
        "stages": [{"heads": 1, "head_dim": [8, 12], "blocks": 1, "mlp_ratio": 2.0}],
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"image_size": 16, "seeds": 1}))
    asked = (
        *("search", tmp_path / "two.yaml", "--proxy", tmp_path / "tiny.yaml", "--trials", 2),
        *("--workers", 1, "--out", tmp_path / "run", "--objectives", "loss,latency"),
    )
    result = cli(*asked, "--budget", "2.5ms", "--runtime", ORT, "--json")
    assert result.code == 0, result.err
    assert "latency onnxruntime session, fp32, batch 1" in result.err
    assert result.json["latency"]["runtime"] == ORT
    assert result.json["front"]
    for member in result.json["front"]:
        assert member["metrics"]["latency_ms"] == pytest.approx(2.0)
        assert member["latency"]["runtime"] == ORT
        assert member["latency"]["source"] == "measured"
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["latency_runtime"] == ORT
    assert "ms, onnxruntime session fp32 @1" in " ".join(
        cli("pareto", tmp_path / "run").out.split()
    )
    other = cli(*asked, "--budget", "2.5ms")
    assert other.code == 2 and 'latency runtime was "onnxruntime", now "torch"' in other.err
    slow = cli(*asked[:-4], "--out", tmp_path / "slow", "--budget", "1.5ms", "--runtime", ORT)
    assert slow.code == 3, slow.err
