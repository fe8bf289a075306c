"""The page of a full training: whole without a network, whatever the folder holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sret_nas.deploy.intervals import wilson
from sret_nas.errors import ConfigError
from sret_nas.report import is_training
from sret_nas.report.curves import Line, curves
from sret_nas.report.training_page import page, write

MARKUP = "<script>alert(1)</script><b>&"
Make = Callable[..., Path]


class Text(HTMLParser):
    """Visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


@pytest.fixture(scope="module")
def trained(make_training: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training(tmp_path_factory.mktemp("models") / "demo-7")


def test_the_answer_comes_first(trained: Path) -> None:
    text = page(trained)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "What it is worth", "Curves", "Classes", "Cost", "What was asked for",
    ]  # fmt: skip
    shown = Text(text).text
    answer = shown[shown.index("What it is worth") : shown.index("Curves By epoch")]
    for told in (
        "Test top-1 65.0 % 57.5 to 80.0 % (95 %), 53 images", "Validation top-1 70.0 %",
        "Test top-5 97.5 %", "Calibration error 8.0 %", "do not take it at its word", "1.25 ms",
        "the test images were read once", f"sret-nas evaluate {trained} --data demo",
        f"sret-nas evaluate {trained} --predict photo.jpg",
        f"sret-nas export {trained} --to onnx --int8", f"local-dir:{trained}",
    ):  # fmt: skip
        assert told in answer, told
    assert '<svg class="arch"' in text or "arch" in re.findall(r'<svg[^>]*class="([^"]*)"', text)


def test_what_was_asked_for_is_told(trained: Path) -> None:
    shown = Text(page(trained)).text
    for told in (
        "5 epochs, the weights of epoch 3", "runs/demo#7, id ", "8,000 training and 60 validation",
        "cut from the training images", "2 files were skipped", "ffffffffffffffff", "fresh weights",
        "torch 2", "epochs: 5", "ema: 0.9", "16 s on cpu, as asked", "A CPU torch, eager fp32",
        f"sret-nas train runs/demo#7 --data demo --recipe recipe.yaml --seed 0 --out {trained}",
    ):  # fmt: skip
        assert told in shown, told


def test_classes_have_intervals_the_worst_first(trained: Path) -> None:
    """By hand: of 12 pullovers 8 were right, of 10 coats 8."""
    text = page(trained)
    table = text[text.index("Accuracy by class") : text.index("Most confused")]
    names = re.findall(r'<td class="name">(.*?)</td>', table)
    assert names[:3] == ["pullover", "coat", "cap"]
    low, high = wilson(8, 12)
    assert f"<td>66.7 %</td><td>{100 * low:.1f} to {100 * high:.1f} %</td><td>12</td>" in table
    pairs = text[text.index("taken for</th>") : text.index("<h2>Cost")]
    assert re.findall(r"<td>(\d+)</td><td>(.*?)</td>", pairs) == [
        ("4", "33.3 %"), ("2", "20.0 %"), ("1", "16.7 %"),
    ]  # fmt: skip


def test_curves_are_those_of_the_summary(trained: Path) -> None:
    text = page(trained)
    assert text.count('class="curve"') == 4
    assert 'aria-label="Validation accuracy from 30.0% to 60.0%"' in text
    assert 'aria-label="Learning rate from 1.0e-3 to 2.0e-4"' in text
    assert text.count("<circle") == 4 * 5
    assert '<tr class="best"><td>3 ★</td><td>0.8333</td><td>0.6667</td><td>70.0 %</td>' in text


def test_nothing_is_loaded_and_little_is_stored(trained: Path) -> None:
    text = page(trained)
    assert not re.findall(r"<(link|iframe|img|object|base)\b", text)
    assert "default-src 'none'" in text
    assert len(text) < 60_000


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (0, ["No epoch has ended yet", "0 of 5 epochs so far"]),
        (2, ["The best so far is epoch 2: 50.0 %", "goes on after epoch 2"]),
        (4, ["The best so far is epoch 3: 70.0 %", "dotted upright is epoch 3, the best so far"]),
        (5, ["All epochs are done; the command it was begun with validates"]),
    ],
)
def test_an_interrupted_training_says_what_there_is(
    make_training: Make, tmp_path: Path, epochs: int, said: list[str]
) -> None:
    text = page(make_training(tmp_path / "x", epochs=epochs, whole=False))
    shown = Text(text).text
    for told in (*said, "Not finished", "The same training again"):
        assert told in shown
    assert "Most confused" not in shown and "Use it" not in shown
    assert (text.count('class="curve"') == 4) == (epochs > 0)


def test_a_model_of_timms_with_all_that_a_training_may_have(
    make_training: Make, tmp_path: Path
) -> None:
    folder = make_training(
        tmp_path / "x", network="resnet18", architecture=None, teachers=("big", "models/a b"),
        teacher="0abc", soft_labels=4, init="old.pt", processes=2, commit="c0ffee",
    )  # fmt: skip
    shown = Text(page(folder)).text
    for told in (
        "resnet18 (timm's), trained on demo", "big, models/a b (hash of the weights 0abc)",
        "answers to 4 crops", "the weights of old.pt", "0, 2 processes", "commit c0ffee",
        "torchrun --nproc-per-node 2 --no-python sret-nas train resnet18 --data demo --recipe "
        "recipe.yaml --teacher big --teacher 'models/a b' --soft-labels 4 --init old.pt",
    ):  # fmt: skip
        assert told in shown, told
    assert "import sret_nas" not in shown


def test_without_test_images_validation_is_said_to_flatter(
    make_training: Make, tmp_path: Path
) -> None:
    folder = make_training(tmp_path / "x")
    metrics = json.loads((folder / "metrics.json").read_text())
    worth = metrics["validation"] | {"top5": None, "confusion": [["coat", "coat", 9]]}
    metrics |= {"test": None, "latency": [], "validation": worth}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    shown = Text(page(folder)).text
    assert "There are no test images, and validation chose the epoch" in shown
    assert "No image of the validation set was taken for another class" in shown
    assert "latency was not measured" in shown and "top-5" not in shown


def test_a_thousand_classes_stay_a_page(make_training: Make, tmp_path: Path) -> None:
    folder = make_training(tmp_path / "x")
    metrics = json.loads((folder / "metrics.json").read_text())
    names = [f"class {i}" for i in range(1000)]
    worth = metrics["test"] | {"per_class": dict.fromkeys(names, 1.0)}
    worth["confusion"] = [[name, name, 50] for name in names]
    metrics |= {"test": worth, "validation": worth}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = page(folder)
    assert "60 of 1,000, <code>metrics.json</code> has all" in text
    assert len(text) < 100_000


def test_markup_in_names_stays_text(make_training: Make, tmp_path: Path) -> None:
    folder = make_training(
        tmp_path / "<b>&", data=MARKUP, network=MARKUP, init=MARKUP, teachers=(MARKUP,)
    )
    metrics = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(metrics.replace("coat", MARKUP))
    text = page(folder)
    assert MARKUP not in text and "<h1><b>" not in text
    assert MARKUP in Text(text).text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.csv", "epoch,loss\n1,2\n"),
        ("summary.csv", "\0"),
        ("metrics.json", "{"),
        ("metrics.json", '{"schema": 1, "validation": {"top1": 2}}'),
        ("training.yaml", "[]"),
        ("training.yaml", "network: x"),
    ],
)
def test_what_is_broken_is_one_line(
    make_training: Make, tmp_path: Path, cli: Callable[..., Any], file: str, content: str
) -> None:
    folder = make_training(tmp_path / "x")
    (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=file.replace(".", r"\.")) as error:
        write(folder)
    assert "\n" not in str(error.value)
    result = cli("report", folder)
    assert result.code == 2 and result.err.startswith("error: ")
    assert not (folder / "report.html").exists()


def test_from_the_command_line(
    make_training: Make, tmp_path: Path, runs: Any, cli: Callable[..., Any]
) -> None:
    folder = make_training(tmp_path / "models" / "x")
    result = cli("report", folder)
    assert (result.code, result.out.strip()) == (0, str(folder / "report.html"))
    assert "What it is worth" in (folder / "report.html").read_text(encoding="utf-8")
    other = tmp_path / "other.html"
    assert cli("report", folder, "--out", other).out.strip() == str(other)
    assert other.read_text() == (folder / "report.html").read_text()
    result = cli("report", folder, "--study", "x")
    assert result.code == 2 and "a model folder, and --study" in result.err
    assert is_training(folder) and not is_training(tmp_path)
    assert not is_training(runs.outcome(0).run.path)
    with pytest.raises(ConfigError, match="no training is there"):
        write(tmp_path)


def test_equal_values_are_a_line_too() -> None:
    drawn = curves([Line("a", [1.0, 1.0])], "step <", "label <")
    assert drawn.count("<text") == 4 and "step &lt;" in drawn and "label &lt;" in drawn
    assert 'class="axis mark"' not in drawn
    assert "mark" in curves([Line("a", [1.0])], "epoch", "x", mark=1)
