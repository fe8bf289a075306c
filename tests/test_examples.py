"""The files of ``docs/examples``: what schedulers are told is what the commands understand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

Cli = Callable[..., Any]
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def understood(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Whether a command line is one of ours; with ``--help`` it is read and not carried out."""
    monkeypatch.setenv("COLUMNS", "80")

    def check(*words: str) -> None:
        assert words[0] == "sret-nas"
        result = cli(*words[1:], "--help")
        assert result.code == 0, result.err
        assert f"sret-nas {words[1]} " in result.out

    return check


def slurm(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script as a node does, with an ``srun`` that says what it is given."""
    (tmp_path / "srun").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (tmp_path / "srun").chmod(0o755)
    return subprocess.run(
        ["bash", EXAMPLES / "slurm.sh", *arguments],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
    )


NODE = {"SLURM_CPUS_PER_TASK": "4", "SRET_NAS_STORAGE": "@address"}


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [
        (["demo"], ["--workers", "4"]),
        (["demo", "--device", "cuda", "--workers", "1"], ["--device", "cuda", "--workers", "1"]),
    ],
)
def test_a_job_of_slurm(
    arguments: list[str], ends: list[str], understood: Callable[..., None], tmp_path: Path
) -> None:
    result = slurm(tmp_path, *arguments, **NODE)
    words = result.stdout.splitlines()
    assert words == ["sret-nas", "worker", "--study", "demo", *ends], result.stderr
    understood(*words)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [([], NODE, "name of the study"), (["demo"], {}, "address of the storage")],
)
def test_what_a_job_of_slurm_misses_is_said(
    arguments: list[str], environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    result = slurm(tmp_path, *arguments, **environment)
    assert result.returncode != 0 and says in result.stderr and not result.stdout


def test_the_manifest(understood: Callable[..., None]) -> None:
    text = (EXAMPLES / "kubernetes.yaml").read_text()
    secret, *jobs = yaml.safe_load_all(text)
    assert secret["kind"] == "Secret"
    studies = set()
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        words = [*container["command"], *container["args"]]
        understood(*words)
        studies.add(words[words.index("--study") + 1])
        cpus = container["resources"]["limits"]["cpu"]
        assert words[words.index("--workers") + 1] == cpus
        # The address is the file that the secret becomes.
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        (mount,), (variable,) = container["volumeMounts"], container["env"]
        assert mount["name"] == volume["name"]
        assert variable["name"] == "SRET_NAS_STORAGE"
        folder, _, key = variable["value"].removeprefix("@").rpartition("/")
        assert folder == mount["mountPath"] and key in secret["stringData"]
    assert len(jobs) == 2 and len(studies) == 1


def test_the_proxy_serves_a_storage(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="demo", storage=url)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", EXAMPLES / "proxy.py", str(port)],
        env=os.environ | {"SRET_NAS_STORAGE": url},
        stderr=subprocess.DEVNULL,
    )
    try:
        from sret_nas.study.address import Address
        from sret_nas.study.storage import open_storage

        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        storage = open_storage(Address.parse(f"grpc://127.0.0.1:{port}"))
        assert [study.study_name for study in storage.get_all_studies()] == ["demo"]
    finally:
        process.kill()
        process.wait()


def test_the_pages_name_files_that_exist() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in text.split("](")[1:]:
            target = link.partition(")")[0].partition("#")[0]
            if target and "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
