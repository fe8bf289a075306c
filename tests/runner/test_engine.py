"""Which device the workers of a run get, and why."""

from __future__ import annotations

import pytest

from sret_nas import gpus
from sret_nas.errors import UsageError
from sret_nas.runner.executors import Engine, choose_device, engine_of
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
        ("auto", "cuda:0", "cuda:0 (H100), the first GPU"),
        ("cuda", "cuda", "cuda (H100), the only GPU, as asked"),
        ("cpu", "cpu", "cpu, as asked"),
    ],
)
def test_processes_here(asked: str, chosen: str, said: str, one_gpu: None) -> None:
    choice = choose_device(Engine.local, asked)
    assert (choice.name, str(choice)) == (chosen, said)


@pytest.mark.parametrize(
    ("asked", "cluster", "chosen", "said"),
    [
        ("auto", {"CPU": 8.0, "GPU": 2.0}, "cuda", "cuda, as the cluster has GPUs"),
        ("auto", {"CPU": 8.0}, "cpu", "cpu, as the cluster has no GPU"),
        ("cuda", {"GPU": 2.0}, "cuda", "cuda (H100), the only GPU, as asked"),
    ],
)
def test_ray_chooses_among_the_gpus_of_its_cluster(
    asked: str,
    cluster: dict[str, float],
    chosen: str,
    said: str,
    one_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_engine, "connect", lambda: cluster)
    choice = choose_device(Engine.ray, asked)
    assert (choice.name, str(choice)) == (chosen, said)


def test_without_a_gpu_here() -> None:
    assert str(choose_device(Engine.local, "auto")) == "cpu, torch sees no GPU"


def test_an_engine_that_is_none() -> None:
    with pytest.raises(UsageError, match="given 'slurm'") as caught:
        engine_of("slurm")
    assert caught.value.hint == "allowed: local, ray"
