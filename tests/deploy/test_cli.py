"""``sret-nas evaluate``."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sret_nas.data import choose_images, embedded
from sret_nas.data.embedded import CLASSES
from sret_nas.deploy.evaluation import evaluate
from sret_nas.deploy.opening import open_model
from sret_nas.model import load, save_checkpoint

Cli = Callable[..., Any]
FEW = 200
"""Test images of the demonstration data here."""
GOLDEN = Path(__file__).parents[1] / "golden" / "terminal"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    last = slice(embedded.TRAIN_IMAGES, embedded.TRAIN_IMAGES + FEW)
    monkeypatch.setattr(embedded, "_test", lambda: embedded._read(last))


def test_the_numbers_are_those_of_the_python_call(folder: Path, cli: Cli) -> None:
    result = cli("evaluate", folder, "--json", "--batch", 100)
    assert result.code == 0, result.err
    found = result.json
    chosen = choose_images("demo", image_size=28)
    known = evaluate(open_model(folder), chosen.splits, chosen.classes, batch=100).scores
    assert {"top1", "top5", "images", "images_per_second"} <= found.keys()
    assert found["top1"] == known.top1
    assert found["top5"] == known.top5
    assert (found["images"], found["split"], found["data"]) == (FEW, "test", "demo")
    assert found["top1_low"] < found["top1"] < found["top1_high"]
    assert [*found["per_class"]] == list(CLASSES)
    assert sum(count for *_, count in found["confusion"]) == FEW
    assert found["images_per_second"] > 0
    assert found["preprocessing"]["input_size"] == [1, 28, 28]
    assert "device  cpu" in result.err


def test_csv_is_one_row(folder: Path, cli: Cli) -> None:
    result = cli("evaluate", folder, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.out))
    assert (row["split"], row["images"]) == ("test", str(FEW))
    assert 0 < float(row["top1"]) < 1


def test_predictions_of_every_image_as_csv(folder: Path, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    result = cli("evaluate", folder, "--json", "--csv", path, "--batch", 100)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == FEW
    assert [*rows[0]] == ["image", "label", "prediction", "probability", "top5"]
    assert sum(row["label"] == row["prediction"] for row in rows) / FEW == result.json["top1"]
    assert all(row["top5"].split("|")[0] == row["prediction"] for row in rows)
    refused = cli("evaluate", folder, "--csv", tmp_path)
    assert refused.code == 2 and "--csv" in refused.err


def test_golden_table(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = cli("evaluate", folder, "--batch", 100)
    assert result.code == 0, result.err
    heading, row, *rest = result.out.splitlines()
    speed = row.split()[-1]  # is another every time
    shown = "\n".join([heading, row.removesuffix(speed).rstrip(), *rest[:-1]]) + "\n"
    assert shown == (GOLDEN / "evaluate.txt").read_text()
    assert rest[-1].startswith("images/s of the model alone, batch 100, fp32, on ")


def test_a_narrow_terminal_keeps_numbers_whole(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = cli("evaluate", folder, "--batch", 100)
    assert max(map(len, result.out.splitlines()[:14])) <= 60


def test_a_checkpoint_and_its_architecture(folder: Path, cli: Cli, tmp_path: Path) -> None:
    save_checkpoint(load(folder), tmp_path / "c.safetensors")
    options = ["--mean", "0.3", "--std", "0.4", "--interpolation", "bilinear", "--crop-pct", "1"]
    line = ["evaluate", tmp_path / "c.safetensors", "--json", "--batch", 100]
    found = cli(*line, *options)
    whole = cli("evaluate", folder, "--json", "--batch", 100).json
    assert found.json["top1"] == whole["top1"]
    assert found.json["loss"] == pytest.approx(whole["loss"])
    assert not found.json["notes"][:-1]
    other = cli(*line)
    assert "preprocessing is not said" in other.err
    assert other.json["loss"] != found.json["loss"]


def test_images_that_the_model_saw_are_said(folder: Path, cli: Cli, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "x"))
    known = choose_images("demo", "val", image_size=28).fingerprint
    for fingerprint, split, said in (
        (known, "val", ""), (known, "all", "trained on some of these"), (known, "test", ""),
        ("other", "val", "may have seen some"), ("other", "test", ""),
    ):  # fmt: skip
        training = f"data: {{name: demo, fingerprint: '{fingerprint}'}}"
        (place / "training.yaml").write_text(training)
        result = cli("evaluate", place, "--batch", 512, "--split", split, "--json")
        assert result.code == 0
        notes = " ".join(result.json["notes"])
        assert said in notes and ("trained" in notes) is bool(said)


def test_prediction_of_images(folder: Path, cli: Cli, tmp_path: Path) -> None:
    for name, colour in (("a.png", 0), ("b.jpg", 200)):
        Image.new("L", (40, 60), colour).save(tmp_path / name)
    images = [tmp_path / "a.png", tmp_path / "b.jpg"]
    found = cli("evaluate", folder, "--predict", *images, "--json")
    assert found.code == 0
    first, _second = found.json["images"]
    assert first["image"] == str(images[0])
    assert len(first["classes"]) == 5
    assert first["classes"][0]["class"] in CLASSES
    assert sum(one["probability"] for one in first["classes"]) <= 1 + 1e-9
    printed = cli("evaluate", folder, "--predict", *images, "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert len(rows) == 10
    assert {row["image"] for row in rows} == set(map(str, images))
    assert "probability" in cli("evaluate", folder, "--predict", *images).out


def test_a_broken_image_is_a_line_after_the_others(folder: Path, cli: Cli, tmp_path: Path) -> None:
    Image.new("L", (40, 60)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    result = cli("evaluate", folder, "--predict", tmp_path / "b.png", tmp_path / "a.png")
    assert result.code == 2
    assert "a.png" in result.out and "b.png" not in result.out
    errors = [line for line in result.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "b.png: cannot identify" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such file, folder or timm model"),
        (["test_vit.nowhere"], "no such weights; allowed: test_vit.r160_in1k"),
        (["{folder}", "a.png"], "given 1 IMAGE without --predict"),
        (["{folder}", "--predict"], "given 0 IMAGEs with --predict"),
        (["{folder}", "--predict", "a.png", "--csv", "x.csv"], "--csv: allowed with --data"),
        (["{folder}", "--data", "nowhere"], "neither a folder nor the name of a data set"),
        (["{folder}", "--split", "training"], "allowed: test, val, all"),
        (["{folder}", "--batch", "0"], "--batch"),
        (["{folder}", "--device", "tpu"], "tpu"),
        (["{folder}", "--dtype", "int3"], "int3"),
        (["{folder}", "--arch", "sret_t"], "says its architecture itself"),
        (["{folder}", "--mean", "x"], "--mean: given 'x'"),
        (["{folder}", "--mean", "nan"], "mean"),
        (["{folder}", "--crop-pct", "7"], "crop_pct"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    arguments: list[str], said: str, folder: Path, cli: Cli, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = cli("evaluate", *(part.replace("{folder}", str(folder)) for part in arguments))
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 2, result.err
    assert len(errors) == 1 and said in errors[0]
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_130(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sret_nas.deploy.scoring.Tally.add", stop)
    assert cli("evaluate", folder).code == 130
