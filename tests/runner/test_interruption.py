"""Real searches, really killed: nothing finished is lost, and the same command goes on.

One search that nobody disturbs is compared with one that is killed again and
again, and with one that is interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState
from sret_nas.cli.main import run

from sret_nas.runner import load
from sret_nas.runner.run import STOPPING, _interruptible
from sret_nas.study.trials import standing

Cli = Callable[..., Any]
PROGRAM = Path(sys.executable).with_name("sret-nas")
RETRY_S = 120
EPOCHS = 4
TINY = {
    "image_size": 28,
    "width": 0.5,
    "subset": 256,
    "val_images": 64,
    "epochs": EPOCHS,
    "rungs": [1, 2, EPOCHS],
    "batch": 32,
    "seeds": 2,
}
TRIALS = 5


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("proxy") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return ["search", "smoke", "--proxy", str(path), "--budget", "1M MACs", "--json"]


@pytest.fixture(scope="module")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run([*options, "--workers", "1", "--trials", str(TRIALS), "--out", str(out)]) == 0
    return out


@contextlib.contextmanager
def started(options: list[str], out: Path, workers: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A search in a process of its own."""
    command = [PROGRAM, *options, "--workers", str(workers), "--trials", str(TRIALS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something holds; the process must be alive until then."""
    deadline = time.monotonic() + RETRY_S
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def rows(out: Path, query: str) -> list[Any]:
    """What the database says, read beside the search; nothing while there is none."""
    if not (out / "study.db").exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True)) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []


def curves(out: Path) -> int:
    """Epochs that all trials have come to."""
    found = rows(out, "select value_json from trial_user_attributes where key = 'curve'")
    return sum(text.count('"epoch"') for (text,) in found)


def asked(out: Path) -> int:
    return len(rows(out, "select 1 from trial_user_attributes where key = 'seconds'"))


def confirmed(out: Path) -> int:
    return len(rows(out, "select 1 from study_user_attributes where key like 'confirmed:%'"))


def found(out: Path) -> list[tuple[Any, ...]]:
    """All that a search found, times apart."""
    outcome = load(out)
    return [
        (
            trial.user_attrs["id"],
            trial.state,
            trial.values,
            trial.user_attrs["metrics"],
            [{k: v for k, v in e.items() if k != "seconds"} for e in trial.user_attrs["curve"]],
        )
        for trial in standing(outcome.study)
    ]


def front(out: Path) -> list[Any]:
    """The front with its confirmation; trials by architecture, for numbers shift."""
    members = load(out).to_dict()["front"]
    return [{k: v for k, v in member.items() if k != "trial"} for member in members]


def test_killed_at_several_points_a_search_goes_on_to_the_same_end(
    options: list[str], whole: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    points: list[Callable[[], bool]] = [
        lambda: asked(out) >= 1,  # before an epoch is done
        lambda: curves(out) >= EPOCHS + 2,  # within a later one
        lambda: confirmed(out) >= 1,  # while the front is confirmed
    ]
    for point in points:
        with started(options, out) as process:
            until(point, process)
            process.kill()
            process.wait()
            if point is points[1]:
                assert load(out).to_dict()["trials"]["failed"] == 0
                assert cli("pareto", out, "--json").code == 0
    result = cli(*options, "--workers", 1, "--trials", TRIALS, "--out", out)
    assert result.code == 0
    assert found(out) == found(whole)
    assert front(out) == front(whole)
    assert result.json["interrupted"] >= 2
    assert result.json["trials"] == load(whole).to_dict()["trials"]


def test_ctrl_c_once_stops_cleanly_and_nobody_else_gets_in(
    options: list[str], whole: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = (*options, "--workers", 1, "--trials", TRIALS, "--out", out)
    with started(options, out) as process:
        until(lambda: curves(out) >= EPOCHS + 1, process)
        config = (out / "config.yaml").read_bytes()
        second = cli(*command[:-4], "--trials", TRIALS + 1, "--out", out)
        assert second.code == 2
        assert "another search is at work" in second.err
        assert (out / "config.yaml").read_bytes() == config
        process.send_signal(signal.SIGINT)
        output, messages = process.communicate(timeout=RETRY_S)
    assert process.returncode == 130
    assert "the same command goes on" in messages
    assert "Traceback" not in messages
    assert output.startswith("{")
    assert len(load(out).front) >= 1
    assert (out / "pareto.json").exists()
    assert not load(out).study.get_trials(states=(TrialState.RUNNING,))
    assert len(found(out)) < TRIALS
    assert cli(*command).code == 0
    assert found(out) == found(whole)
    assert front(out) == front(whole)


def test_ctrl_c_twice_stops_at_once(options: list[str], cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = tmp_path / "slow.yaml"
    slow.write_text(yaml.safe_dump(TINY | {"subset": 9_000, "batch": 2}))  # an epoch of minutes
    options = [*options[:3], str(slow), *options[4:]]
    with started(options, out) as process:
        until(lambda: asked(out) >= 1, process)
        process.send_signal(signal.SIGINT)
        told = iter(process.stderr or ())
        assert f"{STOPPING}\n" in told  # two signals at the same time are one
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=RETRY_S)
    assert process.returncode == 130
    assert "Traceback" not in messages
    assert curves(out) == 0
    assert not load(out).study.get_trials(states=(TrialState.RUNNING,))


def test_an_interrupt_that_python_drops_is_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    """What is raised within a finaliser is ignored, and would be lost."""

    class Raises:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)  # where it is raised

    event = threading.Event()
    with _interruptible(event):
        signal.raise_signal(signal.SIGINT)
        assert event.is_set() and STOPPING in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            held = [Raises()]
            held.clear()
            for _ in range(RETRY_S * 100):
                time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Worker processes of a search."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    every = [child for task in tasks for child in (task / "children").read_text().split()]
    return [int(c) for c in every if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_two_workers_one_of_them_killed(options: list[str], tmp_path: Path) -> None:
    """The other goes on; in the end the lost candidate is tried again, by the same command."""
    out = tmp_path / "run"
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump(TINY | {"seeds": 1}))  # nothing to confirm
    options = [*options[:3], str(alone), *options[4:]]
    with started(options, out, workers=2) as process:
        until(lambda: asked(out) >= 2 and curves(out) >= 1, process)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        output, messages = process.communicate(timeout=RETRY_S)
    assert process.returncode == 0, messages
    assert "a worker was killed by signal 9: another takes its place" in messages
    outcome = load(out)
    assert not outcome.study.get_trials(states=(TrialState.RUNNING,))
    ids = [trial.user_attrs["id"] for trial in standing(outcome.study)]
    assert len(ids) == len(set(ids)) == TRIALS
    lost = [t for t in outcome.trials if t.user_attrs.get("interrupted") == "lost"]
    assert len(lost) == 1
    if "id" in lost[0].user_attrs:
        assert lost[0].user_attrs["id"] in ids
        assert "interrupted: its architecture is tried again" in messages
    assert output.startswith("{")
    seconds = outcome.seconds()
    assert seconds["workers"] == pytest.approx(2 * seconds["total"])
    assert 0 < seconds["training"] < seconds["workers"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_killed_workers_are_replaced(options: list[str], tmp_path: Path) -> None:
    """With both gone, nobody else could end the search."""
    out = tmp_path / "run"
    with started(options, out, workers=2) as process:
        until(lambda: asked(out) >= 2 and curves(out) >= 1, process)
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        _, messages = process.communicate(timeout=RETRY_S)
    assert process.returncode == 0, messages
    assert messages.count("another takes its place") == 2
    ids = [trial.user_attrs["id"] for trial in standing(load(out).study)]
    assert len(ids) == len(set(ids)) == TRIALS
