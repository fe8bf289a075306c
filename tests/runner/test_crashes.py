"""Workers that go down: what a candidate is blamed for, and what not."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sret_nas.runner import crashes, search
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import standing


def test_three_kills_during_one_candidate_do_not_lose_it_and_three_crashes_do(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    dying_table = importlib.import_module("dying_table")
    data = {"source": str(tmp_path), "fingerprint": "0"}
    proxy = lab.config().proxy.model_copy(update={"seeds": 1})
    config = lab.config(trials=4, workers=3).model_copy(update={"data": data, "proxy": proxy})
    ended = search(RunDir(tmp_path / "executor"), config, make=dying_table.make)
    told = capfd.readouterr().err
    killed, crashed = (dying_table.ends(tmp_path / name) for name in ("killed", "crashed"))
    assert len(killed) == dying_table.KILLS and len(set(killed)) == 1
    assert len(crashed) == 3 and len(set(crashed)) == 1
    by_id = {t.user_attrs["id"]: t for t in standing(ended.outcome.study)}
    assert len(by_id) == 4
    assert by_id[killed[0]].state != TrialState.FAIL
    assert by_id[crashed[0]].user_attrs["reason"] == "crashed 3 times"
    assert by_id[crashed[0]].user_attrs["error"] == "SIGABRT"
    assert sum(t.state == TrialState.FAIL for t in by_id.values()) == 1
    assert "killed by signal 9: " in told and "killed by signal 6 (SIGABRT): " in told


@pytest.mark.parametrize("name", crashes.OWN)
def test_signals_that_a_process_raises_itself(name: str) -> None:
    assert crashes.of_process(-signal.Signals[name], False) == name


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_signals_from_outside(name: str) -> None:
    assert crashes.of_process(-signal.Signals[name], False) == ""


def test_a_kill_for_want_of_memory_is_known_by_the_kernels_count() -> None:
    assert crashes.of_process(-signal.SIGKILL, True) == "out of memory"
    assert crashes.of_process(1, True) == crashes.of_process(-1000, True) == ""
    assert crashes.oom_kills() >= 0


SCRIPT = """
import dying_table
from pathlib import Path
from sret_nas.runner import search
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

print("imported")
for name in ("one", "other"):
    Path(name).write_text("nobody")
config = RunConfig.model_validate_json(Path("config.json").read_text())
ended = search(RunDir(Path("run")), config, make=dying_table.make)
print(ended.ending, len(ended.outcome.complete()))
"""


def test_a_script_needs_no_main_guard(lab: Any, tmp_path: Path) -> None:
    proxy = lab.config().proxy.model_copy(update={"seeds": 1})
    data = {"source": ".", "fingerprint": "0"}
    changes = {"data": data, "proxy": proxy}
    config = lab.config(trials=2, workers=2, published=False).model_copy(update=changes)
    (tmp_path / "config.json").write_text(config.model_dump_json(by_alias=True))
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported\ndone ")
    assert "failed" not in done.stderr and "Traceback" not in done.stderr
