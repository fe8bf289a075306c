"""From a search to trained members of its front, and what that says of the search."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import sret_nas
from sret_nas.data import load_data
from sret_nas.deploy import full_training
from sret_nas.deploy.summary import read_summary
from sret_nas.deploy.transfer import Transfer
from sret_nas.runner import load

Cli = Callable[..., Any]
PROXY = {"image_size": 28, "width": 0.5, "subset": 48, "val_images": 20, "epochs": 1,
         "rungs": [1], "batch": 16, "seeds": 1}  # fmt: skip
RECIPE = {"epochs": 1, "batch": 16, "lr": 2e-3, "image_size": 28}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Path]:
    """A folder with images, a recipe, and a small search on the images."""
    top = tmp_path_factory.mktemp("take away")
    data = load_data("demo", image_size=28, subset=48, val_images=30)
    splits = {"train": data.train, "val": data.val, "test": data.test().first(30)}
    for name, split in splits.items():
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):  # type: ignore[attr-defined]
            folder = top / "images" / name / data.classes[int(label)].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{i:03d}.png")
    (top / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        patch.setenv("SRET_NAS_CACHE", str(cache))
        sret_nas.search(
            "smoke", budget=["5M MACs"], objectives=["val_loss", "macs", "params"], proxy=PROXY,
            data="images", trials=8, workers=1, device="cpu", out="runs/demo", seed=1,
        )  # fmt: skip
        yield top
    torch.set_num_threads(before)


@pytest.fixture
def train(place: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command, where the run is."""
    monkeypatch.chdir(place)

    def call(arch: str, *options: object) -> Any:
        usual = ("--data", "images", "--recipe", "recipe.yaml", "--device", "cpu", "--workers", 0)
        return cli("train", arch, *usual, *options)

    return call


def test_several_members_are_trained_and_their_order_compared(place: Path, train: Cli) -> None:
    result = train("runs/demo", "--top", 3, "--json")
    assert result.code == 0, result.err
    outcome = load("runs/demo")
    front = {member.trial: member for member in outcome.front}
    best = outcome.recommended()
    assert best is not None and len(front) >= 3
    transfer = Transfer.load("runs/demo")
    assert transfer is not None
    assert (transfer.proxy, transfer.data) == ("val_loss", "images")
    first, *others = transfer.members
    assert first.trial == best.trial
    assert [one.proxy for one in others] == sorted(one.proxy for one in others)
    for one in transfer.members:
        assert one.proxy == front[one.trial].metrics["val_loss"]
        folder = place / "models" / f"demo-{one.trial}"
        assert place / one.model == folder
        assert (place / "runs" / "demo" / one.beside).resolve() == folder.resolve()
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (one.loss, one.top1) == tuple(metrics["validation"][k] for k in ("loss", "top1"))
        assert sret_nas.load(folder).arch.id == front[one.trial].architecture.at(
            image_size=28, in_chans=1
        ).id  # fmt: skip
        assert "What it is worth" in (folder / "report.html").read_text("utf-8")
    assert [one.by for one in transfer.orders] == ["val_loss", "params", "macs"]
    found = {row["model"]: row for row in result.json}
    assert found.keys() == {one.model for one in transfer.members}
    text = outcome.run.report.read_text("utf-8")
    section = text[text.index('id="transfer"') : text.index("What was done")]
    assert "3 members of the front, trained in full on images" in section
    for one in transfer.members:
        assert f'<a href="{one.beside}/report.html">{one.model}</a>' in section
    assert "order of validation losses in full training, 3 members: val_loss" in result.err
    assert "Kendall's tau" in result.err and "runs/demo/report.html" in result.err


def test_more_than_there_are_is_refused_with_their_number(train: Cli) -> None:
    result = train("runs/demo", "--top", 99)
    count = len(load("runs/demo").front)
    assert result.code == 2
    assert f"--top 99: the front of runs/demo has {count} members" in result.err


def test_a_run_stands_for_its_recommended_member(place: Path, train: Cli) -> None:
    best = load("runs/demo").recommended()
    assert best is not None
    result = train("runs/demo", "--out", "models/best", "--json")
    assert result.code == 0, result.err
    assert result.json["network"] == f"runs/demo#{best.trial}"
    assert "sret-nas export models/best --to onnx --int8 --data images" in result.err
    result = train(f"runs/demo#{best.trial}", "--out", "models/best", "--json")
    assert result.code == 0 and "models/best is trained already" in result.err


def test_any_trial_of_a_run_can_be_trained(place: Path, train: Cli) -> None:
    best, trials = load("runs/demo").recommended(), load("runs/demo").complete()
    assert best is not None
    other = next(trial.number for trial in trials if trial.number != best.trial)
    shutil.rmtree("models", ignore_errors=True)
    result = train(f"runs/demo#{other}", "--json")
    assert result.code == 0, result.err
    assert result.json["model"] == f"models/demo-{other}"
    assert "report  models/demo-" in result.err


def test_an_interrupted_training_has_its_page_and_its_events(
    place: Path, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the first of two epochs: the page says so; events go on at the second."""
    steps: list[tuple[str, int]] = []
    purged: list[int] = []

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            assert log_dir == "models/stopped/tensorboard"
            purged.append(purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            steps.append((name, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    command = ("runs/demo", "--epochs", 2, "--out", "models/stopped", "--json")
    keep = full_training.write_summary

    def stop(*arguments: Any) -> None:
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(full_training, "write_summary", stop)
        stopped = train(*command)
    assert stopped.code == 130
    assert "interrupted: what was trained is kept; the same command goes on" in stopped.err
    page = Path("models/stopped/report.html").read_text("utf-8")
    assert "Not finished" in page and "1 of 2 epochs so far" in page
    assert train(*command).code == 0
    assert purged == [2] and {step for _, step in steps} == {2}
    assert "What it is worth" in Path("models/stopped/report.html").read_text("utf-8")
    assert len(read_summary(Path("models/stopped"))) == 2
