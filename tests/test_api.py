"""``sret_nas.search``: the main job in Python is that of the command."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

import sret_nas
from sret_nas.errors import ConfigError, InfeasibleError, UsageError

from .tiny import TINY

pytestmark = pytest.mark.usefixtures("few_test_images")
OPTIONS: dict[str, Any] = {"budget": ["1M MACs"], "proxy": TINY, "workers": 1, "trials": 3}


def test_what_it_returns_is_what_the_command_writes(
    tmp_path: Path, cli: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def callback(study: optuna.Study, trial: FrozenTrial) -> None:
        assert study.study_name == "run"
        told.append(trial.number)

    with caplog.at_level(logging.INFO, "sret_nas"):
        result = sret_nas.search("smoke", out=tmp_path / "run", callbacks=[callback], **OPTIONS)
    assert result.ending == "done"
    assert told == [0, 1, 2]
    ours = [record.message for record in caplog.records if record.name == "sret_nas"]
    assert [line.split(":")[0].split()[:2] for line in ours] == [
        ["trial", str(number)] for number in told
    ]
    assert len(result.study.trials) == 3
    assert result.best is not None and result.best in result.front
    page = result.report()
    assert page == tmp_path / "run" / "report.html" and page.stat().st_size > 100_000
    proxy = tmp_path / "tiny.json"
    proxy.write_text(json.dumps(TINY))
    command = ("search", "smoke", "--budget", "1M MACs", "--proxy", proxy, "--workers", 1)
    again = cli(*command, "--trials", 3, "--out", tmp_path / "run", "--json")
    assert again.code == 0, again.err
    assert [m["id"] for m in again.json["front"]] == [m.id for m in result.front]
    assert len(result.study.get_trials()) == 3  # nothing was trained again
    once_more = sret_nas.search("smoke", out=tmp_path / "run", callbacks=[callback], **OPTIONS)
    assert [m.to_dict() for m in once_more.front] == [m.to_dict() for m in result.front]
    assert told == [0, 1, 2]


SCRIPT = """
import sret_nas
result = sret_nas.search("smoke", out={out!r}, **{options!r})
print(result.ending, len(result.front), flush=True)
"""


@pytest.mark.parametrize("how", ["script", "python -c"])
def test_workers_need_no_main_guard(how: str, tmp_path: Path) -> None:
    options = OPTIONS | {"workers": 2, "trials": 2, "proxy": TINY | {"seeds": 1}}
    code = SCRIPT.format(out=str(tmp_path / "run"), options=options)
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [script] if how == "script" else ["-c", code]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done ")
    assert done.stdout.count("\n") == 1  # the script ran once, not in every worker


def test_ctrl_c_is_raised_when_all_is_kept(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        sret_nas.search("smoke", out=tmp_path / "run", callbacks=[interrupt], **OPTIONS)
    assert (tmp_path / "run" / "pareto.json").exists()
    found = sret_nas.search("smoke", out=tmp_path / "run", **OPTIONS)
    assert found.ending == "done" and len(found.complete()) + found.counts()["pruned"] == 3


def test_what_a_callback_raises_ends_the_search(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sret_nas.search("smoke", out=tmp_path / "run", callbacks=[fail], **OPTIONS)
    assert sret_nas.search("smoke", out=tmp_path / "run", **OPTIONS).ending == "done"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials: given 0; allowed: at least 1"),
        ({"trials": "3"}, "trials: given '3'; allowed: a whole number"),
        ({"timeout": -1}, "timeout_s: given -1; allowed: more than 0"),
        ({"timeout": "soon"}, "timeout: given 'soon'; allowed: e.g. 90s"),
        ({"timeout": float("nan")}, "timeout_s: given nan; allowed: a finite number"),
        ({"workers": 0}, "workers: given 0; allowed: at least 1"),
        ({"seed": -1}, "seed: given -1"),
        ({"seed": True}, "seed: given True"),
        ({"budget": [3]}, "budget '3': given a int; allowed: text"),
        ({"objectives": "macs"}, "one of them must be trained"),
        ({"device": "tpu"}, "no such device here: tpu"),
    ],
)
def test_wrong_arguments_are_one_line(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(sret_nas.SretNasError, match=re.escape(message)):
        sret_nas.search("smoke", out=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run").exists()


def test_words_as_on_the_command_line(tmp_path: Path) -> None:
    options = OPTIONS | {"trials": 1, "timeout": "5m"}
    options |= {"budget": "1M MACs", "objectives": "loss, params"}
    found = sret_nas.search("smoke", out=tmp_path / "run", **options)
    assert found.config.objectives == ("val_loss", "params")
    assert found.config.timeout_s == 300 and len(found.config.budget) == 1


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="given trails"):
        sret_nas.search("smoke", out=out, trails=3)
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        sret_nas.search("smoek", out=out)
    with pytest.raises(InfeasibleError):
        sret_nas.search("smoke", out=out, **OPTIONS | {"budget": ["1 MAC"]})
    with pytest.raises(UsageError, match="engine: given 'slurm'"):
        sret_nas.search("smoke", out=out, engine="slurm", **OPTIONS)
    assert not out.exists()


def test_the_top_of_the_package() -> None:
    from sret_nas.runner import run
    from sret_nas.samplers import KnownCostSampler

    assert sret_nas.KnownCostSampler is KnownCostSampler
    assert sret_nas.search is not run.search and callable(sret_nas.search)  # nor a module
    assert set(sret_nas.__all__) <= set(dir(sret_nas))
