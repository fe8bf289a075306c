"""Names of devices and dtypes, fingerprints, the cache folder."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sret_nas import device, gpus
from sret_nas.device import dtypes, hardware
from sret_nas.errors import UsageError

CPU = torch.device("cpu")
SEEN = gpus.seen  # before a fixture hides them


BUILT = ["sm_75", "sm_80", "sm_90a", "compute_90"]
H100 = gpus.Gpu("H100", (9, 0), 70 * 2**30, 80 * 2**30)
OLD = gpus.Gpu("K80", (3, 7), 11 * 2**30, 12 * 2**30)
FULL = gpus.Gpu("A100", (8, 0), 2**29, 40 * 2**30)
TAKEN = gpus.Gpu("A100", (8, 0), 0, 40 * 2**30, "devices are busy or unavailable")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine that has these GPUs."""

    def have(*all_of_them: gpus.Gpu) -> None:
        monkeypatch.setattr(gpus, "seen", lambda: (len(all_of_them), "torch sees no GPU"))
        monkeypatch.setattr(gpus, "look", lambda index: all_of_them[index])
        monkeypatch.setattr(gpus, "built_for", lambda: BUILT)

    return have


def test_devices_by_name() -> None:
    assert device.resolve("cpu") == device.resolve("auto") == device.resolve() == CPU


def test_auto_is_the_first_gpu_else_the_cpu_and_says_why(machine: Callable[..., None]) -> None:
    machine(H100, FULL)
    assert str(device.choose()) == "cuda:0 (H100), the first GPU"
    assert device.resolve() == torch.device("cuda:0")
    machine()
    assert str(device.choose("auto")) == "cpu, torch sees no GPU"
    assert device.resolve("auto") == CPU


@pytest.mark.parametrize(
    ("gpu", "why"),
    [
        (
            OLD,
            "compute capability 3.7 is too old for this torch, built for 7.5, 8.0, 9.0 "
            "(install a build of torch for 3.7)",
        ),
        (FULL, "too full: 0.5 of 40.0 GiB free, needed 1.0 (nvidia-smi says who holds it)"),
        (
            TAKEN,
            "devices are busy or unavailable (nvidia-smi says who uses it, and in which mode)",
        ),
    ],
)
def test_auto_passes_over_what_cannot_be_used_and_says_the_next_step(
    machine: Callable[..., None], gpu: gpus.Gpu, why: str
) -> None:
    machine(gpu, H100)
    assert str(device.choose()) == (f"cuda:1 (H100), the first GPU that can be used; cuda:0: {why}")
    machine(gpu)
    assert str(device.choose()) == f"cpu, no GPU can be used; cuda:0: {why}"


def test_a_gpu_that_is_named_and_cannot_be_used_is_refused(machine: Callable[..., None]) -> None:
    machine(OLD, H100, FULL)
    assert str(device.choose("cuda:1")) == "cuda:1 (H100), as asked"
    assert str(device.choose("cpu")) == "cpu, as asked"
    for name, what in (("cuda", "K80"), ("cuda:0", "K80"), ("cuda:2", "A100")):
        with pytest.raises(UsageError, match=f"{what}.*too (old|full)") as caught:
            device.choose(name)
        assert str(caught.value.hint).endswith("another device: auto, cpu, cuda:0, cuda:1, cuda:2")
    with pytest.raises(UsageError, match="K80"):
        device.choose("cuda", spread=True)


def test_cuda_is_the_first_gpu_or_all_in_turn(machine: Callable[..., None]) -> None:
    machine(H100, H100)
    assert device.choose("cuda").name == "cuda:0"
    assert str(device.choose("cuda", spread=True)) == "cuda (H100), all 2 GPUs in turn, as asked"
    machine(H100)
    assert str(device.choose("cuda", spread=True)) == "cuda (H100), the only GPU, as asked"


def test_no_gpu_is_looked_at_before_its_turn(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask one for its memory begins a context on it."""
    machine(H100, FULL, H100)
    looked: list[int] = []
    monkeypatch.setattr(gpus, "look", lambda index: looked.append(index) or H100)
    device.choose()
    device.choose("cuda:2")
    device.choose("cpu")
    device.resolve("cuda:1")
    assert looked == [0, 2]


def test_how_much_memory_is_needed_is_the_caller_s_to_say(machine: Callable[..., None]) -> None:
    machine(FULL)
    assert device.choose(needed_bytes=2**28).name == "cuda:0"
    machine(H100)
    assert "needed 75.0" in device.choose(needed_bytes=75 * 2**30).reason


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),  # machine code runs on later GPUs of the major version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_75", "compute_75"], True),  # intermediate code on all later
        ((12, 0), ["sm_90", "sm_100a", "sm_120"], True),
        ((12, 0), ["sm_75", "sm_90"], False),
        ((9, 0), ["gfx90a"], True),  # nothing known of it: let torch try
        ((9, 0), [], True),
    ],
)
def test_what_a_build_of_torch_runs_on(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    gpu = gpus.Gpu("X", capability, 2**40, 2**40)
    assert (gpu.obstacle(built, 2**30) is None) == runs


def test_a_gpu_newer_than_torch_is_not_called_old() -> None:
    obstacle = gpus.Gpu("X", (12, 0), 2**40, 2**40).obstacle(["sm_80"], 0)
    assert obstacle and "12.0 is too new for this torch, built for 8.0" in obstacle[0]


def test_gpus_are_seen_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has cached is free; what does not answer is a problem, not a failure."""
    properties = SimpleNamespace(name="X", major=9, minor=0, total_memory=100)

    def free(index: int) -> tuple[int, int]:
        if index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if index == 2:
            raise RuntimeError("CUDA error: busy or unavailable\nmore")
        return 40, 100

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 3,
        "get_device_properties": lambda _: properties,
        "mem_get_info": free,
        "memory_reserved": lambda _: 30,
        "memory_allocated": lambda _: 10,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert SEEN() == (3, "")
    assert [gpus.look(index) for index in range(3)] == [
        gpus.Gpu("X", (9, 0), 60, 100),
        gpus.Gpu("X", (9, 0), 0, 100),
        gpus.Gpu("X", (9, 0), 0, 100, "CUDA error: busy or unavailable"),
    ]


def test_why_torch_sees_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert SEEN() == (0, "torch sees no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    assert SEEN() == (0, "torch sees no GPU: The NVIDIA driver on your system is too old")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert SEEN() == (0, "this torch is built without CUDA")


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "", "cpu:0", "meta"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"no such device here: {name}; allowed: auto, cpu"):
        device.resolve(name)


def test_dtypes_by_name() -> None:
    assert device.torch_dtype("fp32", CPU) is torch.float32
    with pytest.raises(UsageError, match="given 'int8'; allowed: fp32, bf16, fp16"):
        device.torch_dtype("int8", CPU)


def test_a_dtype_that_would_be_emulated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_dtype", lambda dtype, _: dtype in ("fp32", "bf16"))
    assert device.torch_dtype("bf16", CPU) is torch.bfloat16
    with pytest.raises(UsageError, match="cpu has no fp16 arithmetic") as caught:
        device.torch_dtype("fp16", CPU)
    assert caught.value.hint == "here: fp32, bf16"


def test_the_fingerprint_of_the_cpu() -> None:
    found = device.fingerprint(CPU, threads=3)
    assert (found.device, found.threads, found.driver) == ("cpu", 3, None)
    assert found.name and found.cores >= 1 and found.torch == torch.__version__
    assert device.fingerprint(CPU).threads == torch.get_num_threads()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["key"] == found.key
    assert str(found).startswith(f"{found.name}, 3 of {found.cores} cores")


def test_the_key_changes_with_the_device_but_not_with_its_clock() -> None:
    one = device.Fingerprint("cpu", "X", 2, 1, "2.11", clock_mhz=2000)
    assert len(one.key) == 12
    assert one.key == device.Fingerprint("cpu", "X", 2, 1, "2.11", clock_mhz=3000).key
    others = [
        device.Fingerprint("cuda:0", "X", 2, 1, "2.11"),
        device.Fingerprint("cpu", "Y", 2, 1, "2.11"),
        device.Fingerprint("cpu", "X", 2, 2, "2.11"),
        device.Fingerprint("cpu", "X", 2, 1, "2.12"),
        device.Fingerprint("cpu", "X", 2, 1, "2.11", driver="610.1"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 6


def test_the_key_of_a_gpu_is_that_of_its_like() -> None:
    """Its number and the cores of a process are no properties of a GPU."""
    one = device.Fingerprint("cuda:0", "X", 16, 8, "2.11", driver="610.1")
    assert one.key == device.Fingerprint("cuda:3", "X", 2, 1, "2.11", driver="610.1").key
    others = [
        device.Fingerprint("cuda:0", "Y", 16, 8, "2.11", driver="610.1"),
        device.Fingerprint("cuda:0", "X", 16, 8, "2.12", driver="610.1"),
        device.Fingerprint("cuda:0", "X", 16, 8, "2.11", driver="610.2"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize(
    ("answer", "code", "expected"),
    [
        ("610.12.01, 1305, 1980\n", 0, ("610.12.01", 1305, 1980)),
        ("610.12.01, [N/A], 1980\n", 0, ("610.12.01", None, 1980)),
        ("No devices were found\n", 6, (None, None, None)),
        ("", 0, (None, None, None)),
    ],
)
def test_driver_and_clocks_come_from_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, answer: str, code: int, expected: tuple[object, ...]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, code, answer, "")

    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(hardware.subprocess, "run", run)
    assert hardware._nvidia_smi("GPU-1") == expected
    assert asked[0][:2] == ["/bin/nvidia-smi", "--id=GPU-1"]


def test_no_nvidia_smi_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    assert hardware._nvidia_smi("GPU-1") == (None, None, None)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SRET_NAS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert device.cache_folder() == tmp_path / "home" / ".cache" / "sret_nas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert device.cache_folder() == tmp_path / "xdg" / "sret_nas"
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path / "own"))
    assert device.cache_folder() == tmp_path / "own"


@pytest.mark.cuda
def test_the_fingerprint_of_a_gpu() -> None:
    gpu = device.resolve("cuda")
    assert device.choose() == device.Choice(
        "cuda:0", "the first GPU", torch.cuda.get_device_name(0)
    )
    seen = gpus.look(0)
    assert 0 < seen.free_bytes <= seen.total_bytes
    found = device.fingerprint(gpu)
    assert found.device == "cuda:0"
    assert found.name == torch.cuda.get_device_name(0)
    assert device.has_dtype("fp16", gpu)


def precisions() -> list[object]:
    backends = torch.backends
    at = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return [*(place.fp32_precision for place in at), backends.cudnn.allow_tf32]


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [False, True])
def test_tf32_is_off_within_and_as_it_was_after(matmul: str, cudnn: bool) -> None:
    with device.exact_fp32():
        pass  # this far, a test before may have left anything
    at_first = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn
    before = precisions()
    try:
        assert ("tf32" in before) == (matmul != "highest" or cudnn)
        with pytest.raises(ZeroDivisionError), device.exact_fp32():
            assert "tf32" not in precisions()
            # What torch.compile reads: an error where torch's switches contradict each other.
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            raise ZeroDivisionError
        assert precisions() == before and torch.get_float32_matmul_precision() == matmul
    finally:
        torch.set_float32_matmul_precision(at_first[0])
        torch.backends.cudnn.allow_tf32 = at_first[1]


def test_tf32_of_torchs_newer_switches_alone_is_off_within() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with device.exact_fp32():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_training_and_measurements_are_exact_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    from sret_nas import latency
    from sret_nas.arch import Architecture, Stage
    from sret_nas.data import load_data
    from sret_nas.latency.breakdown import time_by_stage
    from sret_nas.model import SReT
    from sret_nas.recipe import Recipe
    from sret_nas.training import Trainer

    seen: list[list[object]] = []
    forward = SReT.forward

    def look(model: SReT, x: torch.Tensor) -> torch.Tensor:
        seen.append(precisions())
        return forward(model, x)

    monkeypatch.setattr(SReT, "forward", look)
    arch = Architecture(
        image_size=16,
        stem_stride=4,
        in_chans=1,
        num_classes=10,
        stages=(Stage(heads=1, head_dim=8),),
    )
    data = load_data(image_size=16, subset=20, val_images=10)

    def train() -> None:
        trainer = Trainer(arch, data, Recipe(epochs=1, batch=20), device=CPU)
        next(trainer.epochs())

    for compute in (
        train,
        lambda: latency.measure({"one": arch}, device="cpu", rounds=1, seconds=0.1),
        lambda: time_by_stage(arch, device="cpu", runs=1),
    ):
        seen.clear()
        compute()
        assert seen and not any("tf32" in one or one[-1] for one in seen)
