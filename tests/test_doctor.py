from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sret_nas import doctor


def found() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.findings()}


def test_versions_are_those_installed() -> None:
    assert found()["torch"].found == torch.__version__.split("+")[0]
    assert found()["sret_nas"].found == importlib.metadata.version("sret_nas")


def test_a_healthy_machine_misses_nothing() -> None:
    assert not [finding for finding in doctor.findings() if finding.state == "missing"]


def test_an_old_or_absent_package_is_missing_with_the_command_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "optuna":
            return "4.0.0"
        if name == "fvcore":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert found()["optuna"].state == found()["fvcore"].state == "missing"
    assert found()["optuna"].next_step == 'pip install "optuna>=5.0"'


def test_bf16_threads_and_devices_are_told() -> None:
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert ("native" in found()["cpu bf16"].found) == native
    assert f"{torch.get_num_threads()} torch threads" in found()["cpu"].found
    assert ("cuda:0" in found()) == torch.cuda.is_available()


def test_a_read_only_directory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "--out" in found()["working directory"].next_step


def test_without_a_compiler_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert "g++" in found()["c++ compiler"].next_step


def test_the_command_prints_what_was_found(cli: Callable[..., Any]) -> None:
    rows = cli("doctor", "--json").json
    assert {"what", "found", "state", "next_step"} == set(rows[0])
    assert "torch" in cli("doctor").out
    assert cli("doctor", "--format", "csv").out.startswith("what,found,state,next_step\n")
