"""What Optuna's dashboard says of a run, asked through its own API."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from wsgiref.util import setup_testing_defaults
from xml.etree import ElementTree

import optuna
import optuna_dashboard
import plotly.graph_objects
import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import SretNasError
from sret_nas.report import notes, publish
from sret_nas.report.publish import Publisher, Upkeep
from sret_nas.runner import RunResult


class Api:
    """The dashboard of a study, without a server."""

    def __init__(self, outcome: RunResult, folder: Path) -> None:
        store = FileSystemArtifactStore(str(folder))
        self.app = optuna_dashboard.wsgi(outcome.study._storage, artifact_store=store)
        self.id = outcome.study._study_id

    def get(self, path: str) -> tuple[dict[str, str], bytes]:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        seen: dict[str, Any] = {}
        environ["PATH_INFO"] = path

        def start(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            seen.update(headers, status=status)

        parts = self.app(environ, start)
        body = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        assert seen["status"].startswith("200"), (path, seen, body[:200])
        return seen, body

    def study(self) -> dict[str, Any]:
        self.app._inmemory_cache.clear()
        document: dict[str, Any] = json.loads(self.get(f"/api/studies/{self.id}")[1])
        return document

    def file(self, trial: dict[str, Any], name: str) -> tuple[dict[str, str], str]:
        (found,) = [a for a in trial["artifacts"] if a["filename"] == name]
        address = f"/artifacts/{self.id}/{trial['trial_id']}/{found['artifact_id']}"
        headers, body = self.get(address)
        return headers, body.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


Shown = tuple[RunResult, dict[str, Any], Api]


def publish_all(outcome: RunResult, folder: Path) -> Shown:
    assert Publisher(folder)(outcome, final=True)
    api = Api(outcome, folder)
    return outcome, api.study(), api


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, make_runs: Any) -> Shown:
    """Published to the database of a run; to be looked at."""
    runs = make_runs(tmp_path_factory.mktemp("published"))
    outcome = runs.outcome(12, runs.mixed, confirmed=True, stored=True)
    return publish_all(outcome, outcome.run.path / "artifacts")


@pytest.fixture
def shown(runs: Any, folder: Path) -> Shown:
    """The same in memory; to be changed."""
    return publish_all(runs.outcome(6, runs.mixed, confirmed=True), folder)


@pytest.fixture
def writes() -> Iterator[list[str]]:
    """The keys of the study that are written."""
    keys: list[str] = []
    write = optuna.storages.InMemoryStorage.set_study_system_attr

    def spy(self: Any, study_id: int, key: str, value: Any) -> None:
        keys.append(key)
        write(self, study_id, key, value)

    with mock.patch.object(optuna.storages.InMemoryStorage, "set_study_system_attr", spy):
        yield keys


def test_objectives_have_names_with_units(on_disk: Shown) -> None:
    assert on_disk[1]["objective_names"] == ["validation loss (nats)", "MACs"]


def test_numbers_can_be_sorted_by(on_disk: Shown) -> None:
    sortable = {a["key"] for a in on_disk[1]["union_user_attrs"] if a["sortable"]}
    assert {"macs", "params", "peak_bytes", "val_loss", "val_accuracy"} <= sortable


def test_feasible_and_infeasible_are_told_apart(runs: Any, folder: Path) -> None:
    """The dashboard calls a trial infeasible whose constraints exceed 0: here 2M MACs."""
    outcome = runs.outcome(30)
    feasible = {
        trial["number"]: all(value <= 0 for value in trial["constraints"])
        for trial in Api(outcome, folder).study()["trials"]
    }
    assert feasible == {
        trial.number: trial.user_attrs["metrics"]["macs"] <= 2_000_000 for trial in outcome.trials
    }
    assert set(feasible.values()) == {True, False}


def test_a_note_says_why_training_was_not_recorded(runs: Any) -> None:
    outcome = runs.outcome(30)
    trial = copy.deepcopy(outcome.trials[outcome.front[0].trial])
    assert "CUDA graphs" not in notes.of_trial(outcome, trial)
    trial.user_attrs = trial.user_attrs | {"eager": "out of memory: 3 GiB"}
    assert "Trained without CUDA graphs: out of memory: 3 GiB." in notes.of_trial(outcome, trial)


def test_a_note_says_what_a_trial_is(on_disk: Shown) -> None:
    outcome, document, _ = on_disk
    member = outcome.front[0]
    note = document["trials"][member.trial]["note"]["body"]
    arch, found = member.architecture, member.confirmation
    assert found is not None
    for words in (
        f"`{arch.id}`", f"MACs: **{member.metrics['macs']:,}**", "of the budget of 2M MACs",
        f"{found.mean['val_loss']:.4f} ± {found.std['val_loss']:.4f}",
        "Learning curve, last values",
        "slices by loop", f"RUN#{member.trial}", "![the architecture](/artifacts/",
    ):  # fmt: skip
        assert words in note, words
    failed = next(t for t in document["trials"] if t["state"] == "Fail")
    assert "diverged \\<i\\>" in failed["note"]["body"]
    best = outcome.recommended()
    assert best is not None
    assert f"**Recommended: trial {best.trial}**" in document["note"]["body"]


def test_every_trial_has_its_artifacts(on_disk: Shown) -> None:
    outcome, document, api = on_disk
    for trial, one in zip(outcome.trials, document["trials"], strict=True):
        kind, drawing = api.file(one, "drawing.svg")
        assert kind["Content-Type"] == "image/svg+xml"
        assert f"trial {trial.number}" in "".join(ElementTree.fromstring(drawing).itertext())
        _, text = api.file(one, "architecture.yaml")
        path = outcome.run.path / "copy.yaml"
        path.write_text(text, encoding="utf-8")
        assert Architecture.load(path).id == trial.user_attrs["id"]
        _, curve = api.file(one, "learning-curve.svg")
        assert ElementTree.fromstring(curve).tag.endswith("svg")


def test_plots_are_plotly_figures(on_disk: Shown) -> None:
    outcome, document, _ = on_disk
    found = {
        plot["id"]: plotly.graph_objects.Figure(json.loads(plot["graph_object"]))
        for plot in document["plotly_graph_objects"]
    }
    assert set(found) == {"front-macs", "learning-curves", "cost-by-stage"}
    curves = {trace.name: trace for trace in found["learning-curves"].data}
    numbers = {number for trace in curves.values() for number in trace.customdata}
    assert numbers == {trial.number for trial in outcome.trials}
    bars = {name: sum(bar.y) for name, bar in ((b.name, b) for b in found["cost-by-stage"].data)}
    assert sum(bars.values()) == sum(float(m.metrics["macs"] or 0) for m in outcome.front)


def test_published_models_are_marked_where_they_were_trained(runs: Any) -> None:
    outcome = runs.outcome(6)
    (trial,) = [t for t in outcome.trials if t.number == 2]
    trial.user_attrs["id"] = Architecture.load("sret_t").at(num_classes=10).id  # the space's
    figure = publish.plots.of_study(outcome)["front-macs"]
    (ring,) = [t for t in figure["data"] if t["name"] == "published SReT, trained here"]
    assert ring["text"] == ["sret_t"]
    assert ring["x"] == [trial.user_attrs["metrics"]["macs"]]


def test_nothing_is_written_twice(shown: Shown, folder: Path, writes: list[str]) -> None:
    outcome, before, api = shown
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert Publisher(folder)(outcome, final=True)  # as another process would
    assert writes == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert api.study() == before


def test_what_comes_later_is_added(runs: Any, folder: Path, writes: list[str]) -> None:
    outcome = runs.outcome(6)
    publisher = Publisher(folder)
    publisher(outcome)
    runs.confirm(outcome)
    outcome.study.add_trials(runs.trials(2, first=6))
    later = RunResult(outcome.run, outcome.config, outcome.study)
    writes.clear()
    publisher(later)
    touched = {key.split(":")[1] for key in writes if ":note_ver" in key}
    new = [t for t in later.trials if t.number >= 6]
    confirmed = [t for t in later.trials if t.number in {m.trial for m in outcome.front}]
    assert touched >= {str(t._trial_id) for t in [*new, *confirmed]}
    document = Api(later, folder).study()
    assert all(trial["note"]["body"] for trial in document["trials"])
    assert "over 3 seeds" in document["trials"][outcome.front[0].trial]["note"]["body"]


def test_a_running_trial_waits(runs: Any, folder: Path) -> None:
    outcome = runs.outcome(3)
    outcome.study.ask()
    Publisher(folder)(RunResult(outcome.run, outcome.config, outcome.study))
    trials = Api(outcome, folder).study()["trials"]
    assert [len(trial["artifacts"]) for trial in trials] == [3, 3, 3, 0]


def test_an_edited_note_and_a_deleted_artifact_stay_as_they_are(shown: Shown, folder: Path) -> None:
    outcome, document, api = shown
    one = document["trials"][0]
    key = f"dashboard:{one['trial_id']}:note_str:0"
    storage, study = outcome.study._storage, outcome.study._study_id
    mine = one["note"]["body"].replace("Trained to the end", "My favourite")
    storage.set_study_system_attr(study, key, mine)
    gone = one["artifacts"][0]["artifact_id"]
    storage.set_study_system_attr(
        study, f"dashboard:artifacts:{one['trial_id']}:{gone}", json.dumps(None)
    )
    Publisher(folder)(outcome, final=True)
    after = api.study()["trials"][0]
    assert after["note"]["body"] == mine
    assert len(after["artifacts"]) == len(one["artifacts"]) - 1


def test_lost_files_come_back(shown: Shown, folder: Path) -> None:
    """Artifacts may have been written on another machine."""
    outcome, document, api = shown
    for path in folder.iterdir():
        path.unlink()
    Publisher(folder)(outcome)
    assert api.file(document["trials"][0], "drawing.svg")[1].startswith("<svg")


def test_plots_are_rewritten_rarely(runs: Any, folder: Path, writes: list[str]) -> None:
    """In 60 steps of one trial each, some dozen times; with few values each time."""
    outcome = runs.outcome(0)
    publisher, rewritten = Publisher(folder), 0
    with mock.patch.object(publisher, "_trial"):
        for trial in runs.trials(60):
            outcome.study.add_trial(trial)
            writes.clear()
            publisher(RunResult(outcome.run, outcome.config, outcome.study))
            rewritten += any("plot_data" in key for key in writes)
    assert 5 <= rewritten <= 18
    assert len(writes) < 40


def test_plots_follow_when_all_is_quiet(runs: Any, folder: Path) -> None:
    outcome = runs.outcome(8)
    publisher = Publisher(folder)
    publisher(outcome)
    runs.confirm(outcome)
    later = RunResult(outcome.run, outcome.config, outcome.study)
    before = Api(later, folder).study()["plotly_graph_objects"]
    publisher(later)
    assert Api(later, folder).study()["plotly_graph_objects"] == before
    now = publish.time.monotonic() + publish.QUIET_S + 1
    with mock.patch.object(publish.time, "monotonic", lambda: now):
        publisher(later)
    assert Api(later, folder).study()["plotly_graph_objects"] != before


def test_little_time_is_kept_to(runs: Any, folder: Path) -> None:
    outcome = runs.outcome(5)
    publisher = Publisher(folder)
    assert not publisher(outcome, within_s=-1)
    assert not folder.exists()
    assert publisher(outcome)
    assert len(list(folder.iterdir())) == 15


def test_a_folder_that_cannot_be_written(runs: Any, folder: Path) -> None:
    outcome = runs.outcome(2)
    folder.write_text("in the way")
    with pytest.raises(SretNasError, match="artifacts"):
        Publisher(folder)(outcome)


def test_a_search_goes_on_without_it(runs: Any) -> None:
    outcome = runs.outcome(2)
    folder = outcome.run.path / "artifacts"
    folder.rmdir()
    folder.write_text("in the way")
    upkeep = Upkeep(outcome.run, outcome.config)
    upkeep.last -= 60  # a beat has passed
    upkeep(outcome.study)
    first = upkeep.problem
    assert first is not None
    upkeep.last -= 60
    upkeep(outcome.study)
    upkeep.finish(outcome)
    assert upkeep.problem is first


def test_a_search_publishes_at_its_beat(runs: Any, writes: list[str]) -> None:
    outcome = runs.outcome(2)
    upkeep = Upkeep(outcome.run, outcome.config)
    writes.clear()
    for _ in range(5):
        upkeep(outcome.study)
    assert writes == []  # the first beat has not passed
    upkeep.last -= 60
    upkeep(outcome.study)
    assert writes
    upkeep.finish(outcome)
    assert upkeep.problem is None
    assert any("plot_data" in key for key in writes)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_notes_stay_in_one_value(runs: Any, state: TrialState, folder: Path) -> None:
    """So that a note is there as a whole or not at all, whenever a search is killed."""
    outcome = runs.outcome(5, lambda _: state)
    Publisher(folder)(outcome)
    stored = outcome.study._storage.get_study_system_attrs(outcome.study._study_id)
    assert not [key for key in stored if key.endswith(":note_str:1")]


def test_a_note_says_how_to_train_the_trial(runs: Any) -> None:
    outcome = runs.outcome(8)
    trial = outcome.trials[3]
    said = "`sret-nas train RUN#3 --data demo --out models/run-3` trains it in full"
    assert said in notes.of_trial(outcome, trial)
    outcome.config.data["source"] = "a`b"
    assert "`` sret-nas train RUN#3 --data 'a`b' --out models/run-3 ``" in notes.of_trial(
        outcome, trial
    )
