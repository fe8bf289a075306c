"""From an architecture to a model folder: refused, interrupted, gone on with, delivered."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from sret_nas.cli.main import run
from torch.utils.flop_counter import FlopCounterMode

import sret_nas
from sret_nas.data import load_data
from sret_nas.deploy import full_training
from sret_nas.deploy.about import own_data
from sret_nas.deploy.delivery import cost_of
from sret_nas.deploy.full_training import Moment, Watch
from sret_nas.deploy.subject import subject_of
from sret_nas.deploy.train import Training
from sret_nas.errors import ConfigError, TrainingError, UsageError
from sret_nas.runner.lease import lease

pytestmark = pytest.mark.usefixtures("one_thread")
ARCH: dict[str, Any] = {
    "schema": 1, "image_size": 16, "in_chans": 1, "num_classes": 10, "stem_stride": 4,
    "stages": [
        {"heads": 2, "head_dim": 4, "recursions": 2, "groups": [2, 1], "mlp_ratio": 1.0},
        {"heads": 2, "head_dim": 8, "recursions": 1, "groups": [1], "mlp_ratio": 1.0},
    ],
}  # fmt: skip
RECIPE: dict[str, Any] = {"epochs": 2, "batch": 16, "lr": 2e-3, "pad": 1, "ema": 0.8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real images in three parts, an architecture and a recipe."""
    top = tmp_path_factory.mktemp("train")
    data = load_data("demo", image_size=16, subset=48, val_images=30)
    splits = {"train": data.train, "val": data.val, "test": data.test().first(30)}
    for name, split in splits.items():
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):  # type: ignore[attr-defined]
            folder = top / "images" / name / data.classes[int(label)].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{i:03d}.png")
    (top / "arch.yaml").write_text(yaml.safe_dump(ARCH))
    (top / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return top


def training(place: Path, out: Path, **options: Any) -> Training:
    usual: dict[str, Any] = {"data": str(place / "images"), "recipe": RECIPE, "device": "cpu"}
    return Training(str(place / "arch.yaml"), out=out, **(usual | options))


@pytest.fixture(scope="module")
def whole(place: Path) -> Any:
    return training(place, place / "whole").run()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / "model.safetensors")
    return found


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- what comes out ------------------------------------------------------------------------------


def test_a_model_folder_holds_what_its_use_needs(whole: Any) -> None:
    folder = whole.folder
    for name in ("model.safetensors", "config.json", "architecture.yaml", "preprocessing.json",
                 "metrics.json", "summary.csv", "training.yaml"):  # fmt: skip
        assert (folder / name).is_file(), name
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "sret" and len(config["label_names"]) == 10
    lines = (folder / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,train_loss,val_loss,val_accuracy") and len(lines) == 3
    images = json.loads((folder / "preprocessing.json").read_text())
    assert (images["crop_pct"], images["interpolation"]) == (1.0, "bilinear")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    own = sret_nas.load(folder)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(model.eval()(x), own.eval()(x))


def test_validation_chooses_and_the_metrics_are_the_models(place: Path, whole: Any) -> None:
    metrics = whole.metrics
    rows = [line.split(",") for line in (whole.folder / "summary.csv").read_text().splitlines()[1:]]
    best = max(range(len(rows)), key=lambda i: (float(rows[i][3]), -float(rows[i][2])))
    assert metrics["epoch"] == best + 1
    assert metrics["validation"]["top1"] == pytest.approx(float(rows[best][3]), abs=0.04)  # bf16
    assert metrics["test"]["images"] == 30 and metrics["validation"]["images"] == 30
    assert metrics["cost"]["params"] == sum(
        p.numel() for p in sret_nas.load(whole.folder).parameters()
    )
    opened = training(place, whole.folder)
    assert opened.finished


def test_what_is_trained_is_not_trained_again(place: Path, whole: Any) -> None:
    said: list[str] = []
    again = training(place, whole.folder, watch=Watch(say=said.append)).run()
    assert said == [f"{whole.folder} is trained already"]
    assert again.metrics == whole.metrics


def test_a_model_of_timms_is_trained_on_equal_terms(place: Path, tmp_path: Path) -> None:
    made = Training(
        "test_vit", data=str(place / "images"), recipe=RECIPE, out=tmp_path / "vit", device="cpu",
        changes={"epochs": 1, "image_size": 32},
    ).run()  # fmt: skip
    model = timm.create_model(f"local-dir:{made.folder}", pretrained=True)
    assert model.num_classes == 10
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    "changes", [{}, {"pad": 0, "scale": [0.5, 1.0]}], ids=["device", "pictures"]
)
def test_images_that_exceed_memory_are_streamed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    held = training(place, tmp_path / "held", changes=changes, workers=0).run()
    monkeypatch.setattr("sret_nas.data.dataset.RESIDENT_BYTES", 0)
    made = training(place, tmp_path / "streamed", changes=changes, workers=2)
    assert not hasattr(made.data.train, "images")
    streamed = made.run()
    assert streamed.metrics["validation"]["images"] == 30
    assert equal(held.folder, streamed.folder)


def test_macs_of_a_model_of_timms_are_multiply_adds() -> None:
    data = load_data("demo", image_size=32, subset=10, val_images=10)
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1).eval()
    with FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, 1, 32, 32))
    assert cost_of(model, data)["macs"] == counted.get_total_flops() // 2 > 0


# -- interrupted ---------------------------------------------------------------------------------


class Stopper:
    """Presses Ctrl-C after a number of steps."""

    def __init__(self, after: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = after, number

    def __call__(self, _: Moment) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_an_interrupted_training_goes_on_to_the_same_result(
    place: Path, tmp_path: Path, whole: Any, step: int, number: int
) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        training(place, out, watch=Watch(moment=Stopper(step, number))).run()
    assert list((out / "checkpoints").glob("*.pt")) and not (out / "metrics.json").exists()
    said: list[str] = []
    found = training(place, out, watch=Watch(say=said.append)).run()
    assert "going on after epoch" in said[0]
    assert equal(out, whole.folder)
    for key in ("epoch", "validation", "test"):
        assert found.metrics[key] == whole.metrics[key]


def test_killed_twice_it_goes_on_with_the_same_command(place: Path, tmp_path: Path) -> None:
    """In processes of their own: nothing is left of them but what they wrote."""
    code = (
        "import os, signal, sys; from sret_nas.deploy import full_training;"
        "keep = full_training.checkpoints.save; left = [int(sys.argv.pop(1))]\n"
        "def save(*a):\n"
        "    found = keep(*a); left[0] -= 1\n"
        "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return found\n"
        "full_training.checkpoints.save = save\n"
        "from sret_nas.cli.main import main; main()"
    )
    line = ["train", str(place / "arch.yaml"), "--data", str(place / "images"), "--recipe",
            str(place / "recipe.yaml"), "--epochs", "3", "--device", "cpu", "--threads", "1",
            "--json", "--out", str(tmp_path / "model")]  # fmt: skip

    def run(kill: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, str(kill), *line], capture_output=True, text=True
        )

    assert [run(1).returncode, run(1).returncode] == [-signal.SIGKILL, -signal.SIGKILL]
    done = run(-1)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 2 of 3" in done.stderr
    found = json.loads(done.stdout)
    assert found["metrics"]["epochs"] == 3 and found["model"] == str(tmp_path / "model")
    straight = training(place, tmp_path / "straight", changes={"epochs": 3}).run()
    assert equal(tmp_path / "model", straight.folder)


def test_a_corrupt_checkpoint_is_said_and_the_one_before_it_serves(
    place: Path, tmp_path: Path, whole: Any
) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        training(place, out, watch=Watch(moment=Stopper(5))).run()
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    said: list[str] = []
    training(place, out, watch=Watch(say=said.append)).run()
    assert "broken" in said[0] and newest.name in said[0]
    assert equal(out, whole.folder)


def test_states_are_kept_amid_an_epoch_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_training, "EVERY_S", 0.0)
    steps: list[int] = []
    keep = full_training.checkpoints.save

    def save(state: Any, folder: Path, number: int) -> Path:
        steps.append(number)
        return keep(state, folder, number)

    monkeypatch.setattr(full_training.checkpoints, "save", save)
    training(place, tmp_path / "model", changes={"epochs": 1}).run()
    assert steps[:2] == [1, 2]


def test_a_full_disk_ends_it_and_it_goes_on_later(
    place: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    keep = full_training.checkpoints.save

    def fails(state: Any, folder: Path, number: int) -> Path:
        if number > 3:
            raise OSError(28, "No space left on device", str(folder))
        return keep(state, folder, number)

    with monkeypatch.context() as patch:
        patch.setattr(full_training.checkpoints, "save", fails)
        with pytest.raises(OSError, match="No space left"):
            training(place, out).run()
    training(place, out).run()
    assert equal(out, whole.folder)


# -- refused -------------------------------------------------------------------------------------


def test_another_training_in_the_folder_is_refused_with_the_difference(
    place: Path, whole: Any
) -> None:
    with pytest.raises(ConfigError, match=r"another training: recipe lr was 0\.002, now 0\.01"):
        training(place, whole.folder, changes={"lr": 0.01})
    with pytest.raises(ConfigError, match="seed was 0, now 3"):
        training(place, whole.folder, seed=3)


def test_a_folder_of_something_else_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds thesis\.txt and no training of ours"):
        training(place, tmp_path)
    with pytest.raises(UsageError, match="a file; allowed: a folder"):
        training(place, tmp_path / "thesis.txt")


def test_two_at_once_in_a_folder_are_refused(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    other: list[Exception] = []

    def meanwhile(_: Moment) -> None:
        if not other:
            try:
                training(place, out).run()
            except UsageError as error:
                other.append(error)

    training(place, out, changes={"epochs": 1}, watch=Watch(moment=meanwhile))
    made = training(place, out, watch=Watch(moment=meanwhile))
    made.run()
    assert "another process is training there" in str(other[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sret_x", "'sret_x' is neither an architecture, a run nor a model of timm's"),
        ("resnet81", "did you mean 'resnet18'"),
        ("nowhere/run#3", "nowhere/run"),
    ],
)
def test_what_is_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=message):
        subject_of(name)


def test_stored_labels_want_a_teacher(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--soft-labels: whose"):
        training(place, tmp_path / "model", soft_labels=2)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("test_vit", 30, r"timm model 'test_vit' at 30 px: .*divisible by"),
        ("test_convnext", 4, r"timm model 'test_convnext' at 4 px: .*Kernel size"),
        ("test_vit.nowhere", 32, "no weights 'nowhere'; allowed: r160_in1k"),
        ("test_vit.", 32, "no weights ''; allowed: r160_in1k"),
    ],
)
def test_a_model_of_timms_that_cannot_be_made_is_refused_beforehand(
    place: Path, tmp_path: Path, name: str, side: int, message: str
) -> None:
    options: dict[str, Any] = {"data": str(place / "images"), "device": "cpu"}
    with pytest.raises(UsageError, match=message):
        Training(name, out=tmp_path / "m", changes={"image_size": side}, **options)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"changes": {"lr": 1.0, "epochs": 1}, "recipe": RECIPE | {"clip": 1e6}}, TrainingError),
        ({"init": "nowhere"}, ConfigError),
    ],
)
def test_of_what_fails_before_its_first_state_nothing_is_left(
    place: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception]
) -> None:
    """The same folder then takes the same training with another learning rate."""
    with pytest.raises(kind):
        training(place, tmp_path / "made", **options).run()
    assert not (tmp_path / "made").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(kind):
        training(place, tmp_path / "mine", **options).run()
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1, "validation": null}'])
def test_broken_metrics_of_a_trained_model_are_named(
    place: Path, tmp_path: Path, whole: Any, content: str
) -> None:
    out = tmp_path / "model"
    shutil.copytree(whole.folder, out)
    (out / "metrics.json").write_text(content)
    with pytest.raises(ConfigError, match=r"metrics\.json: "):
        training(place, out).run()
    (out / "metrics.json").unlink()
    assert training(place, out).run().metrics["validation"] == whole.metrics["validation"]


def test_a_model_among_the_images_would_be_a_class(place: Path, tmp_path: Path) -> None:
    images = tmp_path / "flat"
    shutil.copytree(place / "images" / "train", images)
    before = sorted(images.iterdir())
    for out in (images, images / "m", images / "bag" / "m"):
        with pytest.raises(UsageError, match=r"lies among the images of .* would be a class"):
            training(place, out, data=str(images))
    with pytest.raises(UsageError, match="lies among the images"):
        training(place, place / "images" / "train" / "m")
    assert sorted(images.iterdir()) == before
    training(place, place / "images" / "m")  # beside train/ and val/ nothing is read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "all of it: Input should be a valid dictionary"),
        ("network: {a: 1}\nseed: x\n", "network: Input should be a valid string"),
        ("recipe: {epochs: x}\n", "epochs: given 'x'; allowed: a whole number"),
    ],
)
def test_a_broken_file_of_a_training_is_named(
    place: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "training.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"training\.yaml: not a training's file: {message}"):
        training(place, tmp_path)
    assert (tmp_path / "training.yaml").read_text() == content


@pytest.mark.parametrize(
    "options", [["--threads", "1000000000"], ["--workers", "100000"], ["--workers", "-1"]]
)
def test_no_machine_has_so_many(options: list[str], tmp_path: Path) -> None:
    """More threads than memory end the process without a word."""
    out = tmp_path / "m"
    assert run(["train", "sret_t", "--out", str(out), *options]) == 2
    assert not out.exists()


# -- learning from others --------------------------------------------------------------------------


def test_a_teacher_is_a_model_folder_and_its_answers_can_be_stored(
    place: Path, tmp_path: Path, whole: Any
) -> None:
    said: list[str] = []
    asked = training(
        place, tmp_path / "asked", teachers=[str(whole.folder)], watch=Watch(say=said.append)
    ).run()
    assert said[0].endswith("% of the validation images right")
    assert asked.job.teacher and not equal(asked.folder, whole.folder)
    said.clear()
    options: dict[str, Any] = {
        "teachers": [str(whole.folder)],
        "soft_labels": 3,
        "watch": Watch(say=said.append),
        "workers": 0,
    }
    stored = training(place, tmp_path / "stored", **options).run()
    assert "48 images, 3 crops each, 144 of them new" in said[0]
    said.clear()
    again = training(place, tmp_path / "again", **options).run()
    assert "3 crops each, 0 of them new" in said[0]
    assert equal(stored.folder, again.folder) and not equal(stored.folder, asked.folder)
    left_out = training(place, tmp_path / "left", **options).left_out
    assert left_out == ["pad"]


def test_weights_to_start_from_are_taken_over(place: Path, tmp_path: Path, whole: Any) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"init": str(whole.folder), "watch": Watch(say=said.append)}
    made = training(place, tmp_path / "model", changes={"lr": 1e-7, "ema": None}, **options).run()
    assert "same function: yes" in said[0]
    assert made.metrics["validation"]["top1"] == pytest.approx(
        whole.metrics["validation"]["top1"], abs=0.1
    )


# -- several processes -----------------------------------------------------------------------------


def test_two_processes_train_one_network(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--no-python", str(Path(sys.executable).parent / "sret-nas"), "train",
         str(place / "arch.yaml"), "--data", str(place / "images"), "--recipe",
         str(place / "recipe.yaml"), "--device", "cpu", "--threads", "1", "--json",
         "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of one of them
    assert found["metrics"]["validation"]["images"] == 30
    assert yaml.safe_load((out / "training.yaml").read_text())["processes"] == 2
    rows = (out / "summary.csv").read_text().splitlines()
    assert len(rows) == 3
    accuracy = float(rows[found["metrics"]["epoch"]].split(",")[3])
    assert found["metrics"]["validation"]["top1"] == pytest.approx(accuracy, abs=0.04)
    assert np.isfinite([float(x) for row in rows[1:] for x in row.split(",")]).all()


def test_a_model_knows_its_data(place: Path, tmp_path: Path, whole: Any) -> None:
    assert own_data(whole.folder) == str(place / "images")
    assert own_data("sret_t") is None and own_data(tmp_path) is None
    (tmp_path / "training.yaml").write_text("data: {name: /nowhere/images}")
    assert own_data(tmp_path) is None
    (tmp_path / "training.yaml").write_text("data: {name: cifar10}")
    assert own_data(tmp_path) == "cifar10"


def test_a_model_of_timms_without_drop_path_is_refused_with_what_helps(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(name: str, **options: Any) -> Any:
        if "drop_path_rate" in options:
            raise TypeError("Net.__init__() got an unexpected keyword argument 'drop_path_rate'")
        return real(name, **options)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    options: dict[str, Any] = {"data": str(place / "images"), "out": tmp_path / "model"}
    with pytest.raises(UsageError, match="drop_path_rate") as raised:
        Training("test_resnet", recipe={**RECIPE, "drop_path": 0.1}, **options)
    assert raised.value.hint == "a recipe with drop_path: 0"


def test_nothing_is_measured_while_a_training_computes(place: Path, tmp_path: Path) -> None:
    """And a training says what it waits for."""
    free: list[bool] = []

    def look(_: Moment) -> None:
        held = os.open(lease(torch.device("cpu")).device, os.O_RDWR)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free.append(True)
        except BlockingIOError:
            free.append(False)
        finally:
            os.close(held)

    training(place, tmp_path / "model", changes={"epochs": 1}, watch=Watch(moment=look)).run()
    assert free and not any(free)
