"""``search``, ``worker``, ``pareto`` on a study in PostgreSQL, with tiny but real trainings."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState
from PIL import Image
from sret_nas.cli.main import run

from sret_nas.runner import load
from sret_nas.study.rundir import CONFIG
from sret_nas.study.trials import standing

from ..tiny import TINY

Cli = Callable[..., Any]
WORD = "hidden-word"
pytestmark = pytest.mark.usefixtures("few_test_images")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proxy") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def storage(postgres: Any) -> str:
    return str(postgres.database("commands"))


@pytest.fixture(scope="module")
def options(proxy: Path, storage: str) -> list[str]:
    told = ["search", "smoke", "--proxy", str(proxy), "--workers", "1", "--storage", storage]
    return [*told, "--budget", "1M MACs"]


@pytest.fixture(scope="module")
def begun(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two trials; its study is called ``begun``."""
    out = tmp_path_factory.mktemp("runs") / "begun"
    assert run([*options, "--trials", "2", "--out", str(out), "--json"]) == 0
    return out


def allow(storage: str, trials: int) -> None:
    """Let the study have more candidates, as a ``search`` with more ``--trials`` would."""
    study = load(storage=storage, study="begun").study
    study.set_user_attr(CONFIG, study.user_attrs[CONFIG] | {"trials": trials})


def test_the_folder_and_the_storage_say_the_same(
    begun: Path, storage: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = cli("pareto", "--storage", storage, "--study", "begun", "--json")
    assert there.code == 0
    refused = cli("pareto", begun)
    assert refused.code == 2
    assert "SRET_NAS_STORAGE" in refused.err
    monkeypatch.setenv("SRET_NAS_STORAGE", storage)
    here = cli("pareto", begun, "--json")
    assert here.json["front"] == there.json["front"]
    assert cli("pareto", "--json").json == there.json  # the only study needs no name
    number = there.json["front"][0]["trial"]
    macs = there.json["front"][0]["metrics"]["macs"]
    for name in (f"{begun}#{number}", f"begun#{number}"):
        assert cli("profile", name, "--no-latency", "--json").json["macs"] == macs
    (row,) = cli("runs", "--json").json
    assert (row["run"], row["finished"], row["wanted"]) == ("begun", 2, 2)


def test_a_folder_goes_on_where_its_study_is(
    options: list[str], begun: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a file stays one, with a storage in the environment or on the command line."""
    at = options.index("--storage")
    local = [*options[:at], *options[at + 2 :], "--out", str(tmp_path / "run"), "--json"]
    assert cli(*local, "--trials", 1).code == 0
    result = cli(*local, "--trials", 2, "--storage", options[at + 1])
    assert result.code == 0
    assert "the run goes on in sqlite:///" in result.err
    assert sum(result.json["trials"].values()) == 2
    monkeypatch.setenv("SRET_NAS_STORAGE", options[at + 1])
    assert cli("pareto", tmp_path / "run", "--json").json["front"] == result.json["front"]
    assert (begun / "storage.yaml").exists() and not (tmp_path / "run" / "storage.yaml").exists()


def test_no_password_in_the_run(begun: Path) -> None:
    files = [path for path in begun.rglob("*") if path.is_file()]
    assert begun / "report.html" in files
    for path in files:
        assert WORD.encode() not in path.read_bytes(), path
    assert "sret:***@" in (begun / "storage.yaml").read_text()


def test_a_worker_with_another_version_is_refused(begun: Path, storage: str, cli: Cli) -> None:
    study = load(storage=storage, study="begun").study
    whole = study.user_attrs[CONFIG]
    other = whole["versions"] | {"torch": "1.2.3+cu1", "timm": "0.1"}
    study.set_user_attr(CONFIG, whole | {"versions": other, "unknown": "of a newer version"})
    result = cli("worker", "--storage", storage, "--study", "begun")
    study.set_user_attr(CONFIG, whole | {"versions": whole["versions"] | {"torch": "2.0+cpu"}})
    second = cli("worker", "--storage", storage, "--study", "begun")
    study.set_user_attr(CONFIG, whole)
    assert (result.code, second.code) == (2, 2)
    assert "1.2.3+cu1 there" in result.err
    assert "timm is" in result.err
    assert "torch is" in second.err
    assert "timm" not in second.err
    assert len(standing(study)) == 2


def test_a_worker_with_other_data_is_refused(
    begun: Path, storage: str, cli: Cli, tmp_path: Path
) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for k in range(60):
            Image.new("L", (28, 28), k).save(tmp_path / label / f"{k}.png")
    allow(storage, 3)
    try:
        for workers in (1, 2):
            result = cli(
                *("worker", "--storage", storage, "--study", "begun"),
                *("--data", tmp_path, "--workers", workers),
            )
            assert result.code == 2
            assert "content hash" in result.err
            assert result.err.count("error: ") == 1
    finally:
        allow(storage, 2)
    gone = cli("worker", "--storage", storage, "--study", "begun", "--data", tmp_path / "gone")
    assert gone.code == 2


def test_a_worker_needs_nothing_but_the_study(
    begun: Path, storage: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRET_NAS_STORAGE", storage)
    allow(storage, 4)
    result = cli("worker", "--study", "begun", "--workers", "1")
    assert result.code == 0, result.err
    assert "2 candidates here" in result.err
    assert sum(line.startswith("trial ") for line in result.err.splitlines()) >= 2
    outcome = load(storage=storage, study="begun")
    assert len(standing(outcome.study)) == 4
    assert all(member.confirmation for member in outcome.front)
    assert list(tmp_path.iterdir()) == []
    again = cli("worker", "--study", "begun", "--workers", "1")
    assert again.code == 0
    assert "0 candidates here" in again.err


def test_a_second_search_on_the_study_cooperates(
    begun: Path, options: list[str], storage: str, cli: Cli, tmp_path: Path
) -> None:
    before = len(standing(load(storage=storage, study="begun").study))
    more = ("--study", "begun", "--trials", before + 1)
    result = cli(*options, *more, "--out", tmp_path / "second", "--json")
    assert result.code == 0, result.err
    assert sum(result.json["trials"].values()) == before + 1
    other = cli(*options, *more, "--budget", "9K params", "--out", tmp_path / "other")
    assert other.code == 2
    assert "budget was" in other.err
    assert not (tmp_path / "other" / "config.yaml").exists()


def test_a_study_of_somebody_else_is_left_alone(
    options: list[str], storage: str, cli: Cli, tmp_path: Path
) -> None:
    import optuna

    from sret_nas.study.address import Address
    from sret_nas.study.storage import open_storage

    theirs = optuna.create_study(
        study_name="theirs",
        storage=open_storage(Address.parse(storage)),
        directions=["minimize", "minimize"],
    )
    theirs.ask()
    result = cli(*options, "--study", "theirs", "--trials", 1, "--out", tmp_path / "run")
    assert result.code == 2
    assert "was not made by sret-nas" in result.err
    assert cli("worker", "--storage", storage, "--study", "theirs").code == 2
    assert cli("pareto", "--storage", storage, "--study", "theirs").code == 2
    assert [row["run"] for row in cli("runs", "--storage", storage, "--json").json] == ["begun"]
    assert theirs.user_attrs == {}


@pytest.mark.parametrize(("which", "slowly"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_worker_that_is_asked_to_end_hands_its_candidate_back(
    which: signal.Signals, slowly: bool, begun: Path, storage: str, tmp_path: Path, until: Any
) -> None:
    """Ctrl-C after its epoch; SIGTERM at once, for a machine that goes away does not wait."""
    study = load(storage=storage, study="begun").study
    before = len(study.trials)
    allow(storage, len(standing(study)) + 50)
    program = Path(sys.executable).with_name("sret-nas")
    stderr = tmp_path / "stderr"
    with stderr.open("w") as file:
        worker = subprocess.Popen(
            [program, "worker", "--study", "begun", "--workers", "1"],
            env=os.environ | {"SRET_NAS_STORAGE": storage, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stderr=file,
        )
    try:
        until(lambda: any("curve" in t.user_attrs for t in study.trials[before:]))
        worker.send_signal(which)
        assert worker.wait(60) == 130
    finally:
        worker.kill()
        worker.wait()
        allow(storage, len(standing(study)))
    assert not study.get_trials(states=(TrialState.RUNNING,))
    text = stderr.read_text()
    assert "Traceback" not in text
    assert WORD not in text
    assert ("handed back" in text) is slowly
    lost = [t for t in study.trials[before:] if t.user_attrs.get("interrupted") == "lost"]
    assert not lost


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Puts a full disk of 64 KB in the place of a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk may be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        with contextlib.suppress(OSError), (folder / ".filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_for_artifacts_costs_the_artifacts_alone(
    small_disk: Callable[[Path], None], options: list[str], storage: str, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = (*options, "--study", "disk", "--out", out, "--json")
    assert cli(*command, "--trials", 1).code == 0
    small_disk(out / "artifacts")
    result = cli(*command, "--trials", 3)
    assert result.code == 0, result.err
    assert sum(result.json["trials"].values()) == 3
    assert "No space left on device" in result.err
    assert "Traceback" not in result.err


def test_a_full_disk_for_the_run_loses_nothing_of_the_study(
    small_disk: Callable[[Path], None], options: list[str], storage: str, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = (*options, "--study", "folder", "--out", out, "--json")
    small_disk(out.parent)
    refused = cli(*command, "--trials", 2)
    assert refused.code == 2
    assert "cannot be written: No space left on device" in refused.err
    elsewhere = cli(*command[:-3], "--out", tmp_path.parent / "elsewhere", "--json", "--trials", 2)
    assert elsewhere.code == 0
    assert sum(elsewhere.json["trials"].values()) == 2
