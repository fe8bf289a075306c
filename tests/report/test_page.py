"""The page of a run: whole without a network, whatever the run holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sret_nas import report
from sret_nas.cost import cost
from sret_nas.errors import SretNasError
from sret_nas.metrics import PARAMS, VAL_ACCURACY
from sret_nas.report import charts, notes, plots, words
from sret_nas.report.commands import search as command
from sret_nas.report.known import Reference
from sret_nas.report.page import page
from sret_nas.runner import RunResult, load
from sret_nas.study.rundir import RunDir

MARKUP = "<script>alert(1)</script><b>&"
LIMIT_BYTES = 6_000_000


class Page(HTMLParser):
    """Tags, headings and visible text of a page, its scripts and styles left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)


@pytest.fixture(scope="module")
def usual_page(usual: RunResult) -> tuple[RunResult, str]:
    return usual, page(usual)


def test_the_answer_comes_first(usual_page: tuple[RunResult, str]) -> None:
    found, text = usual_page
    best = found.recommended()
    assert best is not None
    assert best.confirmation is not None
    shown = Page(text).text
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Recommended architecture", "The front", "Progress", "What mattered",
        "Members of the front", "How far to trust it",
    ]  # fmt: skip
    answer = shown[shown.index("Recommended architecture") : shown.index("No other candidate")]
    assert f"Trial {best.trial}" in answer
    loss = best.confirmation
    assert f"{loss.mean['val_loss']:.4f} ± {loss.std['val_loss']:.4f}" in answer
    assert f"architectures/{best.trial:03d}.yaml" in answer
    assert "sret_nas.create_model(arch)" in answer
    member = f"{found.run.path}#{best.trial} --data demo --out models/run-{best.trial}"
    assert f"sret-nas train {member}" in answer
    assert f"sret-nas evaluate models/run-{best.trial} --data demo" in answer
    assert f"sret-nas export models/run-{best.trial} --to onnx --int8" in answer


def test_every_part_is_there(usual_page: tuple[RunResult, str]) -> None:
    found, text = usual_page
    shown = Page(text).text
    for told in (
        "deit_small_patch16_224", "timm's model card", "sret_t", "PED-ANOVA", "more parameters",
        "more MACs", "diverged <i>", "too slow <i>", "Kendall's τ", command(found), "torch 2",
        "Machine", "fingerprint of the splits",
    ):  # fmt: skip
        assert told in shown, told
    assert text.count("<svg") >= 2 * len(found.front)
    for member in found.front:
        assert member.architecture.to_yaml().split() == _yaml(text, member.trial).split()


def _yaml(text: str, trial: int) -> str:
    match = re.search(rf'aria-label="Architecture of trial {trial}">([^<]*)<', text)
    assert match
    return match[1]


def test_charts_hold_the_front_with_its_spread(usual_page: tuple[RunResult, str]) -> None:
    found, text = usual_page
    match = re.search(r"const figures = (.*);\n", text)
    assert match
    chart, volume = json.loads(match[1])
    traces = {trace["name"]: trace for trace in chart["data"]}
    standing = [member for member in found.front if not member.dethroned]
    assert traces["front"]["x"] == [member.metrics["macs"] for member in standing]
    assert all(spread > 0 for spread in traces["front"]["error_y"]["array"])
    assert {"stopped at a rung", "trained to the end"} <= set(traces)
    shares = volume["data"][0]["y"]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_nothing_is_loaded_from_anywhere(usual_page: tuple[RunResult, str]) -> None:
    tags = Page(usual_page[1]).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "img", "object", "base")]
    for _, attributes in tags:
        for key in ("src", "href", "action", "data", "srcset"):
            assert not (attributes.get(key) or "#").startswith(("http", "//"))
    policy = next(a["content"] for t, a in tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    styles = "".join(re.findall(r"<style>(.*?)</style>", usual_page[1], re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


def test_markup_in_names_stays_text(runs: Any) -> None:
    made = runs.outcome(3, name=MARKUP)
    made.config = made.config.model_copy(
        update={"data": {"source": MARKUP, "fingerprint": MARKUP}, "commit": MARKUP}
    )
    text = page(made)
    assert MARKUP not in text
    shown = Page(text)
    assert MARKUP in shown.text
    assert sum(tag == "script" for tag, _ in shown.tags) == 3


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_run_that_has_hardly_begun(runs: Any, number: int) -> None:
    shown = Page(page(runs.outcome(number))).text
    assert ("nothing to recommend" in shown) == (number == 0)
    assert ("Fewer than eight candidates" in shown) is True
    assert "importances are shown" in shown


def test_only_stopped_and_failed(runs: Any) -> None:
    made = runs.outcome(4, lambda i: TrialState.FAIL if i % 2 else TrialState.PRUNED)
    assert "nothing to recommend" in Page(page(made)).text


def test_a_thousand_trials_stay_small(runs: Any) -> None:
    made = runs.outcome(1000, runs.mixed, confirmed=True)
    path = report.write(made)
    assert path == made.run.report
    assert path.stat().st_size < LIMIT_BYTES


def test_the_command_asks_for_the_same_run(runs: Any) -> None:
    made = runs.outcome(0, published=False, trials=None, timeout_s=90.0, seed=3)
    words = command(made).split()
    assert words[:3] == ["sret-nas", "search", "smoke"]
    for option, value in (("--budget", "2MMACs"), ("--timeout", "90s"), ("--seed", "3")):
        assert words[words.index(option) + 1] == value
    assert "--no-seeds" in words
    assert "--trials" not in words


def test_a_folder_that_cannot_be_written(runs: Any) -> None:
    made = runs.outcome(0)
    made.run.report.mkdir()
    with pytest.raises(SretNasError, match=r"report\.html"):
        report.write(made)


def test_from_the_command_line(tmp_path: Path, runs: Any, cli: Callable[..., Any]) -> None:
    run = RunDir(tmp_path / "run")
    with run.only_one():
        study = run.study(create=run.begin(runs.config()))
    study.add_trials(runs.trials(2))
    result = cli("report", run.path)
    assert result.code == 0
    assert result.out.strip() == str(run.report)
    assert "Recommended architecture" in run.report.read_text(encoding="utf-8")
    assert cli("report", tmp_path).code == 2


def test_profile_draws_one(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "t.svg"
    assert cli("profile", "sret_t", "--no-latency", "--draw", path).code == 0
    assert path.read_text(encoding="utf-8").startswith("<svg")
    for bad in (["sret_t", "sret_s", "--draw", path], ["sret_t", "--draw", tmp_path / "t.png"]):
        result = cli("profile", "--no-latency", *bad)
        assert result.code == 2
        assert "allowed: one, and FILE.svg" in result.err


def test_accuracy_has_its_spread_too(runs: Any) -> None:
    """By hand: 0.5 in its own trial, then 0.44 and 0.56; a sample deviation of 0.06."""
    made = runs.outcome(6)
    best = made.recommended()
    for seed, accuracy in ((1, 0.44), (2, 0.56)):
        result = {"val_loss": 1.0, "val_accuracy": accuracy, "test_accuracy": None}
        made.study.set_user_attr(f"confirmed:{best.trial}:{seed}", result)
    made = RunResult(made.run, made.config, made.study)
    assert charts.spreads(made, "val_accuracy")[best.trial] == pytest.approx(0.06)
    assert "50.0 ± 6.0 %" in Page(page(made)).text


@pytest.mark.parametrize(("taken", "said"), [(1.5, "satisfies"), (2.5, "2.5 ms instead of 2 ms")])
def test_a_latency_beside_its_bound(runs: Any, taken: float, said: str) -> None:
    made = runs.outcome(6, budget=("2ms",))
    for trial in made.trials:
        trial.user_attrs["metrics"]["latency_ms"] = taken  # of the storage in memory itself
    text = Page(page(RunResult(made.run, made.config, made.study))).text
    assert said in text
    assert ("exceeds the budget" in text) == (taken > 2)


def test_hypervolume_goes_over_the_time_of_training(usual: RunResult) -> None:
    figure = charts.hypervolume(usual)
    assert figure is not None
    (line,) = figure["data"]
    assert line["x"] == sorted(line["x"])
    trained = sum(len(t.user_attrs["curve"]) for t in usual.trials)  # a second each
    assert 0 < line["x"][-1] <= trained
    assert "(s)" in figure["layout"]["xaxis"]["title"]["text"]


def test_a_study_in_a_storage_names_itself(runs: Any, tmp_path: Path) -> None:
    """Without a folder: the command has its address, and the file is the reader's to save."""
    made = runs.outcome(3, stored=True)
    address = f"sqlite:///{made.run.database}"
    other = load(storage=address, study=made.study.study_name)
    assert f"--storage {address} --study run" in command(other)
    assert "--out" not in command(other)
    best = other.recommended()
    assert best is not None
    text = Page(page(other)).text
    assert f"sret-nas train {best.trial:03d}.yaml --data demo" in text
    assert f"First save its architecture file, below , as {best.trial:03d}.yaml" in text


@pytest.mark.parametrize("quality", ["val_loss", "val_accuracy"])
def test_stopped_ones_far_off_stand_at_the_edge(runs: Any, quality: str) -> None:
    """They would press all others together; their words keep the true loss."""
    made = runs.outcome(12, runs.mixed, objectives=(quality, "macs"))
    (stopped,) = [t for t in made.trials if t.number == 2]
    stopped.user_attrs["metrics"] |= {"val_loss": 99.0, "val_accuracy": 0.001}
    (chart,) = charts.front(made, [])
    low, high = chart["layout"]["yaxis"]["range"]
    for trace in chart["data"]:
        assert all(low <= y <= high for y in trace["y"])
    (trace,) = [t for t in chart["data"] if t["name"] == "stopped at a rung"]
    at = next(i for i, text in enumerate(trace["text"]) if "loss 99.0000" in text)
    assert trace["marker"]["symbol"][at].startswith("arrow")
    edge = high if quality == "val_loss" else low
    assert abs(trace["y"][at] - edge) < 0.1 * (high - low)


@pytest.mark.parametrize(("macs", "near"), [(1e6, True), (1e9, False)])
def test_known_models_stand_below_where_near(usual: RunResult, macs: float, near: bool) -> None:
    (chart,) = charts.front(usual, [Reference("known", macs, 5e3, "a card")])
    assert ("timm, cost only" in {trace["name"] for trace in chart["data"]}) == near
    assert ("yaxis2" in chart["layout"]) == near


@pytest.mark.parametrize(
    "goals", [("val_accuracy", "latency_ms"), ("val_loss", "peak_bytes", "params")]
)
def test_everything_shown_follows_the_objectives(runs: Any, goals: tuple[str, ...]) -> None:
    made = runs.outcome(12, objectives=goals, device="cpu")
    text = page(made)
    shown = Page(text).text
    best = made.recommended()
    assert best is not None
    titles = re.findall(r'<th scope="col">([^<]*)</th>', text[text.index('class="rows"') :])
    tiles = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)<small>", text)
    sought = made.config.goals
    for i, goal in enumerate(sought):
        assert titles[1 + i] == goal.title  # after the trial
        assert tiles[i][0].lower() == goal.title.lower()
        assert tiles[i][1] == words.reached(made, best, goal)
        for member in made.front:  # on a phone each value stands beside its name
            value = words.reached(made, member, goal)
            assert f'<td data-name="{goal.title}">{value}</td>' in text
    costs = [goal for goal in sought if goal.known]
    assert text.count('<div class="chart" ') == len(costs)
    for goal in costs:
        assert f"If {goal.title} matter" in shown
    assert f"at a {sought[0].title} of" in shown
    assert "If MACs matter" not in shown
    assert "The strip below" not in shown
    note = notes.of_study(made)
    for goal in sought:
        assert f"{goal.title} {words.reached(made, best, goal)}" in note
    for told in (shown, note):
        assert ("latency is measured for cpu, so not exact" in told) == ("latency_ms" in goals)
        assert "exact." not in told.replace("so not exact.", "")
    assert [name for name in plots.of_study(made) if name.startswith("front-")] == [
        f"front-{goal.name}" for goal in costs
    ]


def test_curves_and_stages_follow_the_objectives(runs: Any) -> None:
    made = runs.outcome(3, objectives=("val_accuracy", "params"))
    found = plots.of_study(made)
    assert found["learning-curves"]["layout"]["yaxis"]["title"]["text"] == VAL_ACCURACY.label
    assert {0.5, None} == {y for t in found["learning-curves"]["data"] for y in t["y"]}
    assert found["cost-by-stage"]["layout"]["yaxis"]["title"]["text"] == PARAMS.label
    member = made.front[0]
    heights = [trace["y"][0] for trace in found["cost-by-stage"]["data"]]
    assert sum(heights) == cost(member.architecture).params


def test_the_data_that_were_used_are_told(runs: Any) -> None:
    facts = {
        "train": 3998, "val": 1, "num_classes": 40, "classes": [f"class {i}" for i in range(40)],
        "notes": ["2 files were skipped <b>"],
    }  # fmt: skip
    made = runs.outcome(3, images=facts)
    made.config.data["source"] = "data"
    shown = Page(page(made)).text
    assert "3,998 training and 1 validation images of 40 classes from “data”" in shown
    assert "class 29 and 10 more" in shown
    assert "2 files were skipped <b>" in shown
    assert "3,998 training images, batch" in shown
    assert "Data: data" not in shown
