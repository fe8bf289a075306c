"""The front on a terminal: headings that say what they are, and the picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from sret_nas.cli.scatter import scatter

from sret_nas import zoo
from sret_nas.cost import cost
from sret_nas.metrics import COSTS, VAL_ACCURACY, VAL_LOSS
from sret_nas.runner import RunResult
from sret_nas.study.rundir import RunDir

from .conftest import Lab

GOLDEN = Path(__file__).parent.parent / "golden" / "terminal"
NAMES = ("sret_t", "sret_t_wo_slice", "sret_lt", "sret_s")
LOSSES = (0.61, 0.58, 0.6, 0.47)
"""Only the last, and the dearest, is on the front."""


@pytest.fixture
def run(lab: Lab, tmp_path: Path) -> RunDir:
    """Four published models, three of their neighbours; of the front, all confirmed twice."""
    run = RunDir(tmp_path / "found")
    lab.proxy["seeds"] = 3
    config = lab.config("sret", trials=7)
    with run.only_one():
        run.begin(config)
    study = run.study(create=config)
    published = [zoo.PUBLISHED[name] for name in NAMES]
    others = [arch.at(image_size=192) for arch in published[:3]]
    for arch, loss in zip([*published, *others], [*LOSSES, 0.75, 0.55, 0.8], strict=True):
        found = cost(arch)
        metrics = {
            "macs": found.macs,
            "params": found.params,
            "peak_bytes": found.peak_bytes,
            "val_loss": loss,
            "val_accuracy": 1 - loss / 3,
        }
        attributes = {
            "id": arch.id,
            "architecture": arch.to_dict(),
            "metrics": metrics,
            "curve": [
                {
                    "epoch": 1,
                    "val_loss": loss,
                    "val_accuracy": 1 - loss / 3,
                    "seconds": 1.0,
                    "images": 64,
                }
            ],
        }
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, values=[loss, found.macs], user_attrs=attributes
            )
        )
    for member in RunResult(run, config, study).front:
        for seed in (1, 2):
            loss = (member.metrics["val_loss"] or 0) + 0.01 * seed
            result = {"val_loss": loss, "val_accuracy": 0.8, "test_accuracy": 0.79 + 0.01 * seed}
            study.set_user_attr(f"confirmed:{member.trial}:{seed}", result | {"seconds": 1.0})
    return run


@pytest.fixture
def outcome(run: RunDir) -> RunResult:
    return RunResult(run, run.config(), run.study())


def test_the_golden_picture(outcome: RunResult) -> None:
    assert scatter(outcome, 80) + "\n" == (GOLDEN / "scatter.txt").read_text()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_it_holds_in_its_width_and_loses_no_point(outcome: RunResult, width: int) -> None:
    picture = scatter(outcome, width).splitlines()
    assert max(map(len, picture)) <= width
    canvas = "\n".join(line.partition("|")[2] for line in picture)
    assert len(re.findall("[●◆◇·]", canvas)) >= 6  # at the smallest two may share a place
    if width >= 80:
        assert [canvas.count(mark) for mark in "●◆◇·"] == [2, 1, 3, 1]


def test_ascii_has_the_same_picture(outcome: RunResult) -> None:
    picture = scatter(outcome, 80, ascii_only=True)
    assert picture.isascii()
    signs = str.maketrans("●◆◇·", "oPp.")
    assert picture == scatter(outcome, 80).translate(signs)


def test_what_is_published_is_named_with_its_cost(outcome: RunResult) -> None:
    below = scatter(outcome, 80).splitlines()[-2:]
    assert "◇ sret_t 1.11G" in below[0] + below[1]
    assert "◆ sret_s 4.17G" in below[0] + below[1]


def test_accuracy_and_another_cost(outcome: RunResult) -> None:
    outcome.config = outcome.config.model_copy(
        update={"objectives": ("val_accuracy", "params"), "seed": 4}
    )
    picture = scatter(outcome, 80)
    assert "val acc with seed 4 (higher is better) against params (logarithmic)" in picture
    assert "%" in picture.splitlines()[2]
    assert "(params)" in picture


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_few_points_take_few_lines(outcome: RunResult, number: int) -> None:
    outcome.trials = outcome.trials[:number]
    picture = scatter(outcome, 80)
    assert (picture == "") == (number < 3)
    assert len(picture.splitlines()) < 14
    assert scatter(outcome, 39) == ""


def test_a_picture_that_was_asked_for_and_is_none_is_said(
    cli: Callable[..., Any], lab: Lab, tmp_path: Path
) -> None:
    empty, config = RunDir(tmp_path / "empty"), lab.config("sret")
    with empty.only_one():
        empty.study(create=empty.begin(config))
    assert "no picture: fewer than 3 candidates" in cli("pareto", empty.path, "--plot").err


def test_every_cost_that_is_sought_has_its_picture(outcome: RunResult) -> None:
    outcome.config = outcome.config.model_copy(
        update={"objectives": ("val_loss", "params", "peak_bytes")}
    )
    picture = scatter(outcome, 80)
    assert "against params (logarithmic)" in picture
    assert "against memory (logarithmic)" in picture
    assert "MACs" not in picture
    assert len(picture.splitlines()) <= 30


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("quality", ["val_loss", "val_accuracy"])
def test_no_objective_is_dropped(
    run: RunDir,
    quality: str,
    width: int,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own training's value, the mean over seeds, and each cost, however narrow."""
    goals = (quality, "params", "peak_bytes", "macs")
    config = run.config().model_copy(update={"objectives": goals})
    config.save(run.config_file)
    best = RunResult(run, config, run.study()).rows()[-1]
    monkeypatch.setenv("COLUMNS", str(width))
    result = cli("pareto", run.path, "--no-plot")
    assert max(map(len, result.out.splitlines())) <= width
    mean = "confirmed_loss" if quality == "val_loss" else "confirmed_accuracy"
    metrics = {metric.name: metric for metric in (VAL_LOSS, VAL_ACCURACY, *COSTS)}
    for name, value in ((quality, best[quality]), (quality, best[mean])):
        assert metrics[name].show(value) in result.out
    for name in goals[1:]:
        assert (
            metrics[name].show(best[name]).removesuffix(" MACs").removesuffix(" params")
            in result.out
        )
    left_out = result.err.partition("left out")[2]
    assert not re.search(r"params|memory|MACs", left_out)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_pareto_on_a_terminal(
    run: RunDir,
    width: int,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = cli("pareto", run.path).out
    assert "●" not in whole  # a pipe
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = re.sub(r"\x1b\[[0-9;]*m", "", cli("pareto", run.path).out)
    assert max(map(len, out.splitlines())) <= width
    assert "●" in out
    cells = {line.split()[0]: line.split()[1:] for line in whole.splitlines()[1:]}
    assert list(cells) == ["4", "5", "3"]
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["4"], ["5"], ["3"])]
    assert all(set(row[1:]) <= set(cells[row[0]]) for row in rows)
    assert {"0.5600", "0.4800"} <= set(out.split())  # the means
    assert "●" not in cli("pareto", run.path, "--no-plot").out
    assert cli("pareto", run.path, "--json", "--plot").json["front"]


def test_headings_say_what_is_a_mean_of_how_many(run: RunDir, cli: Callable[..., Any]) -> None:
    heading = cli("pareto", run.path).out.splitlines()[0]
    for title in (
        "val loss, seed 0",
        "val loss, mean of 3 seeds",
        "std of 3 seeds",
        "val acc, seed 0",
        "test acc, mean of 2 seeds",
    ):
        assert title in heading
    assert "●" in cli("pareto", run.path, "--plot").out
