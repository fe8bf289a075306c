"""``sret-nas dashboard``, as one types it: a server on a run that was really searched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import create_trial
from sret_nas.cli.main import run as command

from sret_nas.report.publish import Publisher
from sret_nas.runner import load

Cli = Callable[..., Any]
PROXY = {
    "image_size": 28, "width": 0.5, "subset": 64, "val_images": 32, "epochs": 2,
    "rungs": [1, 2], "batch": 32, "seeds": 2,
}  # fmt: skip
DEADLINE_S = 60.0
pytestmark = pytest.mark.usefixtures("few_test_images")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four candidates."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROXY))
    words = ["--proxy", folder / "tiny.yaml", "--workers", 1, "--trials", 4, "--budget", "1MMACs"]
    code = command(["search", "smoke", *map(str, words), "--out", str(folder / "run")])
    assert code == 0
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(searched, tmp_path / "run")


@contextmanager
def serving(*words: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that the command prints, and its process."""
    program = str(Path(sys.executable).with_name("sret-nas"))
    process = subprocess.Popen(
        [program, "dashboard", *map(str, words), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        return json.load(answer)


def api(address: str) -> str:
    return address.replace("/dashboard/", "/api/")


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


def test_a_search_leaves_all_of_it(searched: Path) -> None:
    """Whoever opens the study finds notes, artifacts and plots, with or without this command."""
    outcome = load(searched)
    assert (searched / "report.html").exists()
    stored = outcome.study._storage.get_study_system_attrs(outcome.study._study_id)
    for trial in outcome.trials:
        assert f"dashboard:{trial._trial_id}:note_str:0" in stored
        assert trial.system_attrs["constraints"][0] <= 0
    assert sum("dashboard:artifacts:" in key for key in stored) == 3 * len(outcome.trials)
    assert len(list((searched / "artifacts").iterdir())) == 3 * len(outcome.trials)
    assert {k.split(":")[2] for k in stored if "plot_data" in k} == {
        "front-macs", "learning-curves", "cost-by-stage",
    }  # fmt: skip


def test_a_search_without_room_for_artifacts_says_so_once(
    searched: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run/artifacts/x"))

    monkeypatch.setattr(Publisher, "_file", full)
    words = ["--proxy", searched.parent / "tiny.yaml", "--workers", 1, "--trials", 1]
    result = cli("search", "smoke", *words, "--out", tmp_path / "run")
    assert result.code == 0
    said = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert (tmp_path / "run" / "report.html").exists()


def test_an_interrupted_search_leaves_its_report(searched: Path, tmp_path: Path) -> None:
    """And the notes of what was finished."""
    program = str(Path(sys.executable).with_name("sret-nas"))
    words = ["--proxy", searched.parent / "tiny.yaml", "--workers", 1, "--trials", 200]
    process = subprocess.Popen(
        [program, "search", "smoke", *map(str, words), "--out", str(tmp_path / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("trial 1 "):
            assert line, "it ended before it was interrupted"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()
    run = tmp_path / "run"
    assert "Recommended architecture" in (run / "report.html").read_text(encoding="utf-8")
    outcome = load(run)
    stored = outcome.study._storage.get_study_system_attrs(outcome.study._study_id)
    assert outcome.complete()
    for trial in outcome.complete():
        assert f"dashboard:{trial._trial_id}:note_str:0" in stored


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_stops_cleanly(run: Path, sign: int) -> None:
    with serving(run, "--no-browser") as (address, process):
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=DEADLINE_S) as page:
            assert b"Optuna Dashboard" in page.read()
        study = get(api(address))
        assert study["objective_names"] == ["validation loss (nats)", "MACs"]
        assert all(trial["note"]["body"] and trial["artifacts"] for trial in study["trials"])
        process.send_signal(sign)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out) == (0, "")
        assert err == f"run     {run}\n"


def test_it_follows_a_search(run: Path) -> None:
    """A trial that ends while the dashboard is open gets its note."""
    with serving(run, "--no-browser") as (address, _):
        study = load(run).study
        last = study.get_trials(deepcopy=False)[-1]
        late = create_trial(
            params=last.params, distributions=last.distributions, values=last.values,
            user_attrs=last.user_attrs, system_attrs=last.system_attrs,
        )  # fmt: skip
        study.add_trial(late)

        def told() -> bool:
            trials = get(api(address))["trials"]
            return len(trials) == last.number + 2 and bool(trials[-1]["note"]["body"])

        until(told)


def test_it_opens_the_browser_that_is_there(run: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {seen}.part && mv {seen}.part {seen}\n')
    program.chmod(0o755)
    with serving(run, BROWSER=f"{program} %s") as (address, _):
        until(seen.exists)
        assert seen.read_text().strip() == address


def test_without_a_run_it_is_the_newest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.parent / "runs"
    folder.mkdir()
    for name, age_s in (("old", 1000), ("new", 0)):
        copy = shutil.copytree(run, folder / name)
        for path in copy.iterdir():
            os.utime(path, (time.time() - age_s,) * 2)
    monkeypatch.chdir(run.parent)
    with serving("--no-browser") as (address, process):
        assert address
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_S)[1] == "run     runs/new\n"


def test_without_any_run(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--study", "mine"]):
        result = cli("dashboard", *words)
        assert result.code == 2
        assert "--storage" in result.err


def test_without_the_folder_of_artifacts(run: Path) -> None:
    shutil.rmtree(run / "artifacts")
    (run / "artifacts").write_text("in the way")
    with serving(run, "--no-browser") as (address, process):
        assert get(api(address))["trials"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert err.count("warning: notes and artifacts are not complete") == 1


def test_a_busy_port_names_a_free_one(run: Path, cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        result = cli("dashboard", run, "--no-browser", "--port", port)
    assert result.code == 2
    assert f"error: port {port} is in use" in result.err
    free = int(result.err.split("--port")[1].split()[0])
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_a_host_that_is_none(run: Path, cli: Cli) -> None:
    for host in ("no.such.host.invalid", "192.0.2.1"):
        result = cli("dashboard", run, "--no-browser", "--port", 0, "--host", host)
        assert result.code == 2
        assert host in result.err


def test_what_is_no_run(run: Path, tmp_path: Path, cli: Cli, monkeypatch: Any) -> None:
    result = cli("dashboard", tmp_path)
    assert result.code == 2
    assert "is not a run" in result.err
    (run / "study.db").unlink()
    assert cli("dashboard", run).code == 2
    (run / "study.db").write_text("not a database")
    assert "not a study of Optuna" in cli("dashboard", run).err


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "minimize"]])
def test_a_study_that_is_not_ours(run: Path, cli: Cli, directions: list[str]) -> None:
    (run / "study.db").unlink()
    study = optuna.create_study(
        study_name="run", storage=f"sqlite:///{run}/study.db", directions=directions
    )
    study.add_trial(create_trial(values=[1.0] * len(directions)))
    result = cli("dashboard", run, "--no-browser")
    assert result.code == 2
    assert "was not made by sret-nas search" in result.err
