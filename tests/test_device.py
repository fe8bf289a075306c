"""Names of devices and dtypes, fingerprints, the cache folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from sret_nas import device
from sret_nas.errors import UsageError

CPU = torch.device("cpu")


def test_devices_by_name() -> None:
    assert device.resolve("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "", "cpu:0", "meta"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"no such device here: {name}; allowed: cpu"):
        device.resolve(name)


def test_dtypes_by_name() -> None:
    assert device.torch_dtype("fp32", CPU) is torch.float32
    with pytest.raises(UsageError, match="given 'int8'; allowed: fp32, bf16, fp16"):
        device.torch_dtype("int8", CPU)


def test_a_dtype_that_would_be_emulated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_dtype", lambda dtype, _: dtype in ("fp32", "bf16"))
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

    monkeypatch.setattr(device.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(device.subprocess, "run", run)
    assert device._nvidia_smi("GPU-1") == expected
    assert asked[0][:2] == ["/bin/nvidia-smi", "--id=GPU-1"]


def test_no_nvidia_smi_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda _: None)
    assert device._nvidia_smi("GPU-1") == (None, None, None)


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
    found = device.fingerprint(gpu)
    assert found.device == "cuda:0"
    assert found.name == torch.cuda.get_device_name(0)
    assert device.has_dtype("fp16", gpu)
