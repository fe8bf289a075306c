"""The model card, and the files that it is made from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from timm.models import push_to_hf_hub, save_for_hf

import sret_nas
from sret_nas.data import choose_images
from sret_nas.data.embedded import CLASSES
from sret_nas.deploy.about import About
from sret_nas.deploy.card import card, write_card
from sret_nas.deploy.evaluation import evaluate
from sret_nas.deploy.metrics_file import Metrics, Timed, note_latency
from sret_nas.deploy.opening import open_model
from sret_nas.errors import ConfigError
from sret_nas.model import SReT, create_model

from .conftest import SMALL

TIMED = Timed(
    runtime="onnxruntime", dtype="int8", batch=8, device="A CPU", median_ms=1.5, p95_ms=2.0
)


@pytest.fixture(scope="module")
def metrics(folder: Path) -> dict[str, Any]:
    """As a training writes them."""
    chosen = choose_images("demo", "val", image_size=28, val_images=50)
    worth = evaluate(open_model(folder), chosen.splits, chosen.classes).scores.to_dict()
    cost = sret_nas.cost(SMALL)
    return {
        "schema": 1, "epoch": 3, "epochs": 4, "seconds": 12.5, "device": "cpu, as asked",
        "cost": {"params": cost.params, "macs": cost.macs, "peak_bytes": cost.peak_bytes},
        "validation": worth, "test": worth | {"images": 51, "top1": 0.5},
    }  # fmt: skip


@pytest.fixture
def trained(folder: Path, metrics: dict[str, Any], tmp_path: Path) -> Path:
    place = Path(shutil.copytree(folder, tmp_path / "demo-7"))
    (place / "metrics.json").write_text(json.dumps(metrics))
    training = {
        "data": {
            "name": "/home/me/secret/images", "fingerprint": "abc123", "train": 8000, "val": 2000,
            "notes": ["mixed | channels\n<b>"],
        },
        "recipe": {"epochs": 4, "lr": 0.001},
        "teachers": ["/home/me/models/big"],
        "soft_labels": 4, "init": "/home/me/models/old", "seed": 7,
        "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    (place / "training.yaml").write_text(yaml.safe_dump(training))
    return place


def test_the_hub_reads_the_card(trained: Path, metrics: dict[str, Any]) -> None:
    path = write_card(trained)
    assert path == trained / "README.md"
    read = ModelCard(path.read_text("utf-8"))
    assert (read.data.license, read.data.library_name) == ("mit", "timm")
    assert read.data.pipeline_tag == "image-classification"
    assert "recursive-transformer" in read.data.tags
    assert read.data.metrics == ["accuracy"]
    assert read.data.eval_results is not None
    found = {
        (one.dataset_split, one.metric_name): one.metric_value for one in read.data.eval_results
    }
    assert found[("test", "top-1")] == 0.5
    assert found[("validation", "top-1")] == pytest.approx(metrics["validation"]["top1"])
    assert found[("validation", "top-5")] == pytest.approx(metrics["validation"]["top5"])


def test_the_card_says_all_that_the_folder_knows(trained: Path, metrics: dict[str, Any]) -> None:
    note_latency(trained, [TIMED])
    text = write_card(trained).read_text("utf-8")
    for said in (
        "# demo-7", "10 classes for grey images of 28 × 28 px", "| test | 51 | 50.00% |",
        f"{metrics['cost']['params']:,}", f"{metrics['cost']['macs']:,}", "Wilson",
        "| A CPU | onnxruntime | int8 | 8 | 1.5 | 2 | 5,333 |", "`abc123`",
        "8,000 for training, 2,000 for validation, 51 for the test", "T-shirt/top, trouser",
        "4 epochs, the weights of epoch 3, 12 s on cpu, as asked", "distilled from big",
        "answers to 4 crops", "begun with the weights of old", "seed 7", "torch 2.14.1",
        "lr: 0.001", "](architecture.svg)", SMALL.id, 'create_model("local-dir:demo-7"',
        "sret-nas evaluate demo-7", "sret-nas export demo-7", "mean 0.3", "Limits",
    ):  # fmt: skip
        assert said in text, said
    assert "/home/me" not in text
    assert "<b>" not in text and r"mixed \| channels &lt;b>" in text
    svg = (trained / "architecture.svg").read_text()
    assert svg.startswith("<svg") and "demo-7" in svg


def test_the_card_says_no_more_than_the_folder_knows(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "x"))
    text = write_card(place).read_text("utf-8")
    assert "What it is worth" not in text
    assert "accuracy was not measured" in text
    assert "latency was not measured" in text
    ModelCard(text)


def test_a_model_without_test_images_says_so(trained: Path, metrics: dict[str, Any]) -> None:
    (trained / "metrics.json").write_text(json.dumps(metrics | {"test": None}))
    text = card(About.load(trained))
    assert "There were no test images" in text
    assert "| test |" not in text


def test_a_model_of_timm_has_a_card_too(timm_folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(timm_folder, tmp_path / "resnet"))
    text = write_card(place).read_text("utf-8")
    assert "timm's `test_resnet`" in text
    assert "import sret_nas" not in text
    assert not (place / "architecture.svg").exists()
    ModelCard(text)


def test_data_that_the_hub_has_are_named_as_there(trained: Path) -> None:
    for name, hub in (("demo", "fashion_mnist"), ("cifar10", "cifar10"), ("hfds/a/b", "a/b")):
        training = yaml.safe_load((trained / "training.yaml").read_text())
        training["data"]["name"] = name
        (trained / "training.yaml").write_text(yaml.safe_dump(training))
        (found,) = ModelCard(card(About.load(trained))).data.datasets
        assert found.endswith(hub)


def test_latencies_are_kept_by_what_they_are_of(trained: Path, metrics: dict[str, Any]) -> None:
    note_latency(trained, [TIMED])
    faster = TIMED.model_copy(update={"median_ms": 1.0})
    other = TIMED.model_copy(update={"batch": 1})
    note_latency(trained, [faster, other])
    known = Metrics.load(trained)
    assert known is not None
    assert known.latency == (faster, other)
    assert known.test is not None and known.test.top1 == 0.5
    content = json.loads((trained / "metrics.json").read_text())
    assert content["validation"] == metrics["validation"]  # confusion too
    note_latency(trained.parent, [TIMED])
    fresh = Metrics.load(trained.parent)
    assert fresh is not None and fresh.latency == (TIMED,)


def test_a_measurement_becomes_an_entry() -> None:
    from sret_nas.latency import measure

    ((found,),) = [list(measure({"x": SMALL}, batches=[2], threads=1).values())]
    assert not isinstance(found, Exception)
    timed = Timed.of(found)
    assert (timed.batch, timed.dtype, timed.mode) == (2, "fp32", "eager")
    assert timed.median_ms == found.median_ms
    assert "torch" in timed.device


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.json", "{", "metrics.json: cannot be read"),
        ("metrics.json", "[]", "given a list"),
        ("metrics.json", '{"schema": 2}', "schema"),
        ("metrics.json", '{"validation": {"images": 1}}', "top1: required key is missing"),
        ("metrics.json", '{"epochs": -1}', "epochs"),
        ("training.yaml", "[]", "given a list"),
        ("config.json", "[]", "not a model folder"),
        ("config.json", "{}", "not a model folder"),
        ("architecture.yaml", "{}", "stages"),
    ],
)
def test_a_broken_file_is_named(file: str, content: str, said: str, trained: Path) -> None:
    (trained / file).write_text(content)
    with pytest.raises(ConfigError, match=said):
        write_card(trained)
    assert not (trained / "README.md").exists()


def test_later_versions_may_say_more(trained: Path, metrics: dict[str, Any]) -> None:
    (trained / "metrics.json").write_text(json.dumps(metrics | {"energy": 3}))
    assert Metrics.load(trained) is not None


def test_what_people_call_things_is_not_markdown(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    config["label_names"] = ["a|b\nc", "# d", "<script>", "\x1b[31m", *CLASSES[4:]]
    (trained / "config.json").write_text(json.dumps(config))
    text = card(About.load(trained))
    assert "<script>" not in text and "\x1b" not in text
    assert r"a\|b c" in text


# --- timm and the hub -------------------------------------------------------------------------


def test_the_folder_loads_where_only_timm_and_sret_nas_are_imported(
    folder: Path, model: SReT, tmp_path: Path
) -> None:
    script = f"""
import timm, torch
import sret_nas
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
assert config["input_size"] == (1, 28, 28) and tuple(config["mean"]) == (0.3,), config
with torch.no_grad():
    torch.save(model(torch.ones(1, 1, 28, 28)), "{tmp_path}/out.pt")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with torch.no_grad():
        known = model(torch.ones(1, 1, 28, 28))
    assert torch.equal(torch.load(tmp_path / "out.pt"), known)


MADE = {
    "small": lambda: create_model(SMALL),
    "other head": lambda: create_model(SMALL, num_classes=3, in_chans=3, img_size=56),
    "published": lambda: create_model("sret_t", num_classes=5, img_size=32),
    "by timm": lambda: timm.create_model("sret_t_wo_slice", num_classes=5, img_size=32),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_timm_saves_and_pushes_is_loaded_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MADE[kind]().eval()
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)

    class Hub:
        """Takes what is pushed, in place of the network."""

        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def file_exists(self, **_: Any) -> bool:
            return False

        def upload_folder(self, folder_path: str, **_: Any) -> None:
            shutil.copytree(folder_path, tmp_path / "pushed")

    monkeypatch.setattr("timm.models._hub.HfApi", Hub)
    push_to_hf_hub(model, "me/small")
    chans, side = model.arch.in_chans, model.arch.image_size
    x = torch.randn(1, chans, side, side)
    for place in ("saved", "pushed"):
        opened = open_model(tmp_path / place)
        with torch.no_grad():
            assert torch.equal(opened(x), model(x))
    assert "library_name: timm" in (tmp_path / "pushed" / "README.md").read_text()
