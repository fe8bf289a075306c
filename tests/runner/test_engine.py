"""Which device the workers of a command get, and that it is said."""

from __future__ import annotations

import pytest
from sret_nas.cli.engine import Engine, device_of

from sret_nas import gpus
from sret_nas.runner.executors import ray as ray_engine

H100 = gpus.Gpu("H100", (9, 0), 2**40, 2**40)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "seen", lambda: (1, ""))
    monkeypatch.setattr(gpus, "look", lambda _: H100)
    monkeypatch.setattr(gpus, "built_for", lambda: ["sm_90"])


@pytest.mark.parametrize(
    ("asked", "chosen", "said"),
    [
        ("auto", "cuda:0", "device  cuda:0 (H100), the first GPU\n"),
        ("cuda", "cuda", "device  cuda (H100), the only GPU, as asked\n"),
        ("cpu", "cpu", "device  cpu, as asked\n"),
    ],
)
def test_processes_here(
    asked: str, chosen: str, said: str, one_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device_of(Engine.local, asked) == chosen
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("asked", "cluster", "chosen", "said"),
    [
        ("auto", {"CPU": 8.0, "GPU": 2.0}, "cuda", "device  cuda, as the cluster has GPUs\n"),
        ("auto", {"CPU": 8.0}, "cpu", "device  cpu, as the cluster has no GPU\n"),
        ("cuda", {"GPU": 2.0}, "cuda", "device  cuda (H100), the only GPU, as asked\n"),
    ],
)
def test_ray_chooses_among_the_gpus_of_its_cluster(
    asked: str,
    cluster: dict[str, float],
    chosen: str,
    said: str,
    one_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ray_engine, "connect", lambda: cluster)
    assert device_of(Engine.ray, asked) == chosen
    assert capsys.readouterr().err == said


def test_without_a_gpu_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_of(Engine.local, "auto") == "cpu"
    assert capsys.readouterr().err == "device  cpu, torch sees no GPU\n"
