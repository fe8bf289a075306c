"""Reading a run loads no torch: a table is there at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sret_nas.study.rundir import RunDir

from .conftest import Lab

PROGRAM = """
import sys
from sret_nas.cli.main import run
code = run(sys.argv[1:])
sys.exit(code or 10 * ('torch' in sys.modules) + 20 * ('timm' in sys.modules))
"""


@pytest.mark.parametrize(
    "line",
    [["pareto", "RUN"], ["report", "RUN"], ["profile", "RUN#0", "--no-latency"]],
    ids=" ".join,
)
def test_reading_a_run_loads_no_torch(
    line: list[str], lab: Lab, few: dict[str, Any], tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "found")
    config = lab.config(few, trials=3)
    with run.only_one():
        run.begin(config)
    worker = lab.worker(config, run.study(create=config))
    worker.search()
    words = [word.replace("RUN", str(run.path)) for word in line]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True)
    assert done.stdout
    assert done.returncode == 0, done.stderr
