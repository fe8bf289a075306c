"""Searches whose evaluator does not see everything, as one types them; tiny but real trainings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import sret_nas
from sret_nas import api
from sret_nas.arch import Architecture
from sret_nas.evaluators import proxy as evaluators_proxy
from sret_nas.proxy import Proxy
from sret_nas.report import words
from sret_nas.runner import RunResult
from sret_nas.space import SearchSpace
from sret_nas.study.rundir import RunDir
from sret_nas.training import Trainer

from ..tiny import TINY

Cli = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("few_test_images")
SIZES: dict[str, Any] = {
    "schema": 1,
    "name": "sizes",
    "image_size": [160, 192, 224],
    "stem_stride": [4, 8],
    "all_stages": {"head_dim": [8, 12], "nll_ratio": 0.0, "mlp_ratio": 1.0},
    "stages": [{"heads": 1, "groups": {"loop1": [1, 4]}}, {"heads": 2}],
}
NEAR = SIZES | {"name": "near", "image_size": [216, 220, 224], "stem_stride": [1, 2, 8]}
"""Sizes of one proxy, and strides that no proxy is fine enough for."""
SAID = [
    "the proxy cannot tell image_size 216 from 220 and 224: only 216, the cheapest, is searched",
    "the proxy cannot tell stem_stride 2 from 1: only 2, the cheaper, is searched",
]


@pytest.fixture
def search(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Search a space with one worker, into the folder ``run`` unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    for space in (SIZES, NEAR):
        Path(f"{space['name']}.yaml").write_text(yaml.safe_dump(space))

    def call(space: str, *arguments: object, out: str | None = "run") -> Any:
        where = ("--out", out) if out else ()
        options = ("--proxy", "tiny.yaml", "--workers", 1, "--no-seeds", *where)
        return cli("search", f"{space}.yaml", *options, *arguments)

    return call


def tried() -> list[Architecture]:
    """The architectures of the run, in order."""
    study = RunDir(Path("run")).study()
    return [Architecture.load(t.user_attrs["architecture"]) for t in study.get_trials()]


def test_image_sizes_and_strides_are_really_searched(
    search: Cli, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int, int]] = []

    class Spy(Trainer):
        def __init__(self, network: Any, data: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(network, data, *arguments, **options)
            trained.append((network.image_size, network.stem_stride, data.image_size))

    monkeypatch.setattr(evaluators_proxy, "Trainer", Spy)
    result = search("sizes", "--trials", 5, "--json", "--budget", "100M MACs")
    assert result.code == 0, result.err
    assert "px for 224, stem stride 4 for 8, others in proportion, width" in result.err
    assert "sees    all 4 searched choices" in result.err
    proxy = RunDir(Path("run")).config().proxy
    assert proxy == Proxy.load(
        TINY | {"reference": {"image_size": 224, "stem_stride": 8}}
    )  # and so is it in the file
    assert "stem_stride: 8" in Path("run/config.yaml").read_text()
    archs = tried()
    scales = [proxy.scale(arch.image_size, arch.stem_stride) for arch in archs]
    assert len({a.image_size for a in archs}) > 1 and {a.stem_stride for a in archs} == {4, 8}
    assert len(set(scales)) > 2
    assert set(scales) <= {(image, stride) for image, stride, _ in trained}
    assert all(image == of for image, _, of in trained)  # each on images of its own size

    again = search("sizes", "--trials", 8, "--json", "--budget", "100M MACs")
    assert again.code == 0 and tried()[:5] == archs and len(tried()) == 8
    outcome = sret_nas.runner.load(Path("run"))
    assert "2 epochs at 28 px for 224 px, others in proportion, on 64" in words.how(outcome)


def test_a_worker_that_joins_tries_at_the_same_scale(search: Cli, cli: Cli, tmp_path: Path) -> None:
    where = {"storage": f"sqlite:///{tmp_path}/shared.db", "study": "mine"}
    prepared = api.prepare(
        NEAR, proxy=TINY, trials=4, workers=1, published=False, out="run", **where
    )
    with prepared.run.only_one():  # killed before it tried anything
        study = prepared.run.study(create=prepared.config)
        prepared.run.begin(prepared.config)
    assert not study.get_trials()
    options = [part for name, value in where.items() for part in (f"--{name}", value)]
    worker = cli("worker", *options, "--workers", 1)
    assert worker.code == 0, worker.err
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    archs = [Architecture.load(trial.user_attrs["architecture"]) for trial in ended]
    assert len(archs) == 4 and {arch.image_size for arch in archs} == {216}
    alone = sret_nas.search(NEAR, proxy=TINY, trials=4, workers=1, published=False, out="alone")
    for trial, other in zip(ended, alone.study.get_trials(), strict=True):
        assert trial.user_attrs["architecture"] == other.user_attrs["architecture"]
        assert trial.values == other.values


def test_a_choice_that_the_proxy_cannot_see_is_frozen_and_said(search: Cli) -> None:
    result = search("near", "--trials", 6, "--json")
    assert result.code == 0, result.err
    assert [line[6:] for line in result.err.splitlines() if line.startswith("note: the p")] == SAID
    assert "sees    " not in result.err
    assert {arch.image_size for arch in tried()} == {216}
    assert {arch.stem_stride for arch in tried()} <= {2, 8}
    config = RunDir(Path("run")).config()
    assert config.unseen == tuple(SAID)
    assert config.search_space().choices("stem_stride") == (2, 8)
    how = words.how(sret_nas.runner.load(Path("run")))
    assert all(f"{line[0].upper()}{line[1:]}." in how for line in SAID)
    again = search("near", "--trials", 7, "--json")
    assert again.code == 0 and len(tried()) == 7
    assert all(line in again.err for line in SAID)


def test_a_plan_shows_the_choices_that_are_seen(search: Cli) -> None:
    plan = search("near", "--dry-run", "--json").json
    assert plan["unseen"] == SAID
    choices = {one["name"]: one for one in plan["choices"]}
    assert list(choices) == ["image_size", "stem_stride", "all.head_dim", "stage1.groups.loop1"]
    assert choices["image_size"] == {
        "name": "image_size",
        "values": [216, 220, 224],
        "searched": [216],
        "seen": 0,
    }
    assert choices["stem_stride"]["searched"] == [2, 8]
    assert plan["proxy"]["reference"] == {"image_size": 224, "stem_stride": 8}
    shown = [line.split("  ", 1) for line in search("near", "--dry-run").out.splitlines()]
    rows = {row[0]: row[1].strip() for row in shown if len(row) == 2}
    assert rows["choices seen"] == "3 of 4"
    assert rows["seen as the same"] == "image_size 216 = 220 = 224, stem_stride 2 = 1"
    all_seen = search("sizes", "--dry-run").out
    assert "all 4" in all_seen and "seen as the same" not in all_seen
    assert not Path("run").exists()


@pytest.mark.parametrize("evaluator", ["params", "dss"])
def test_who_looks_at_the_architecture_itself_loses_nothing(search: Cli, evaluator: str) -> None:
    result = search("near", "--trials", 3, "--evaluator", evaluator, "--budget", "1G MACs")
    assert result.code == 0 and "sees    all 4 searched choices" in result.err
    written = RunDir(Path("run")).config().space
    assert written["image_size"] == NEAR["image_size"]
    assert written["stem_stride"] == NEAR["stem_stride"]


OWN = '''
from sret_nas import Declaration, Evaluation, Evaluator, Metric


class Coarse(Evaluator):
    """Looks at everything through small images."""

    def __init__(self, proxy, data, device):
        pass

    @property
    def declaration(self):
        return Declaration(metrics=(Metric(name="far", title="far", direction="maximize"),))

    def fits(self, arch):
        return arch.at(image_size=64)

    def evaluate(self, arch, *, seed=0, report=None):
        return Evaluation({"far": float(self.fits(arch).depth)}, 0.01)
'''


def test_an_evaluator_of_ones_own_is_told_by_what_it_fits(search: Cli) -> None:
    Path("their_coarse.py").write_text(OWN)
    result = search("sizes", "--trials", 2, "--evaluator", "their_coarse:Coarse")
    assert result.code == 0, result.err
    assert (
        "evaluator 'their_coarse:Coarse' cannot tell image_size 160 from 192 and 224: only 160"
    ) in result.err
    assert {arch.image_size for arch in tried()} == {160}


def test_from_python_it_is_seen_before_and_logged(
    search: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"proxy": TINY, "workers": 1, "published": False, "out": "run"}
    prepared = api.prepare(NEAR, trials=2, **options)
    assert prepared.sight.said(prepared.judged_by) == SAID
    assert prepared.space.choices("image_size") == (216,)
    assert prepared.sight.seen == 3
    with caplog.at_level(logging.WARNING, "sret_nas"):
        found = sret_nas.search(NEAR, trials=2, **options)
    assert [record.message for record in caplog.records if record.name == "sret_nas"] == SAID
    assert isinstance(found, RunResult) and found.config.unseen == tuple(SAID)


def test_a_run_of_before_goes_on_with_the_whole_space(
    search: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its proxy is the same: its name and folder are those of the request."""
    space = NEAR | {"image_size": 224, "stem_stride": 8, "name": "before"}
    space["stages"] = [{"heads": 1, "groups": {"loop1": [1, 4, 8]}}, {"heads": 2}]
    Path("before.yaml").write_text(yaml.safe_dump(space))
    with monkeypatch.context() as patch:
        patch.setattr(api, "look", lambda space, *_: (space, api.Sight(())))
        assert search("before", "--trials", 2, out=None).code == 0
    (folder,) = Path("runs").iterdir()
    whole = RunDir(folder).config()
    assert whole.space["stages"][0]["groups"]["loop1"] == [1, 4, 8] and not whole.unseen
    more = search("before", "--trials", 3, out=None)
    assert more.code == 0, more.err
    said = (
        "cannot tell stage1.groups.loop1 8 from 4: the run was begun with them, so all are "
        "searched and look alike"
    )
    assert said in more.err
    assert list(Path("runs").iterdir()) == [folder]
    assert RunDir(folder).config().space == whole.space
    assert json.loads((folder / "pareto.json").read_text())["trials"]["complete"] == 3
    fresh = search("before", "--trials", 2, out="other")
    assert "8 from 4: only 8, the cheaper, is searched" in fresh.err
    kept = SearchSpace.load(RunDir(Path("other")).config().space)
    assert kept.coding.stages[0].groups[0].choices == (1, 8)
