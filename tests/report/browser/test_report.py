"""The report as a browser shows it: narrow and wide, light and dark, by keyboard, with markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sret_nas import report
from sret_nas.report import draw
from sret_nas.zoo import PRESETS

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"

CONTRAST = """() => {
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const ground = node => {
    if (!node) return [255, 255, 255];
    const [r, g, b, a = 1] = parts(getComputedStyle(node).backgroundColor);
    return a === 1 ? [r, g, b] : over([r, g, b, a], ground(node.parentElement));
  };
  const poor = [];
  const walker = document.createTreeWalker(document.querySelector("SCOPE"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.closest("script,style,title,desc,.chart")) continue;
    const style = getComputedStyle(node);
    const [r, g, b, a = 1] = parts(node.closest("svg") ? style.fill : style.color);
    const below = ground(node);
    const ink = over([r, g, b, a * Number(style.opacity)], below);
    const [low, high] = [light(ink), light(below)].sort((x, y) => x - y);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.textContent.trim(), ratio]);
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def written(make_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a run with confirmed members."""
    runs = make_runs(tmp_path_factory.mktemp("looked at"))
    return report.write(runs.outcome(36, runs.mixed, confirmed=True)).absolute().as_uri()


@pytest.fixture(scope="module")
def trained(make_training: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a full training."""
    folder = make_training(tmp_path_factory.mktemp("models") / "demo-7")
    return str(report.write_training(folder).absolute().as_uri())


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(written: str, look: Any, width: int, scheme: str) -> None:
    """Charts are drawn, nothing sticks out, all text stands out from its ground."""
    page = look(written, width=width, scheme=scheme)
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 4")
    readable(page)


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_training_is_readable(trained: str, look: Any, width: int, scheme: str) -> None:
    page = look(trained, width=width, scheme=scheme)
    readable(page)
    page.locator("button").first.click()
    page.wait_for_function("document.querySelector('[data-copy]').textContent != 'copy'")


def readable(page: Any) -> None:
    """With all folds open, nothing sticks out, and all text stands out from its ground."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
    assert page.evaluate(CONTRAST.replace("SCOPE", "body")) == []
    cut = """() => [...document.querySelectorAll("body *")].filter(node =>
      node.checkVisibility() && !node.closest(".scroll,pre,svg,.chart,.skip")
      && node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
      .map(node => node.outerHTML.slice(0, 80))"""
    assert page.evaluate(cut) == []


@pytest.mark.parametrize("width", [390, 1400, 1920])
def test_no_objective_is_out_of_sight(runs: Any, look: Any, width: int) -> None:
    """Each is in the table without scrolling; on a wide page the room is used."""
    goals = ("val_accuracy", "params", "latency_ms", "peak_bytes")
    page = look(report.write(runs.outcome(12, objectives=goals)).absolute().as_uri(), width=width)
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 9")
    for cell in page.locator(".rows tr:first-child td").all():
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    if width < 600:  # without a heading each value says what it is
        said = "e => getComputedStyle(e, '::before').content"
        cells = page.locator(".rows tr:nth-child(1) td").all()
        assert [cell.evaluate(said) for cell in cells[1:3]] == [
            '"validation accuracy"',
            '"parameters"',
        ]
    used = page.evaluate("document.querySelector('#front').getBoundingClientRect().width")
    assert used >= 0.88 * width


def test_the_drawing_stays_legible_on_a_phone(written: str, look: Any) -> None:
    page = look(written, width=360)
    height = page.locator("#answer .arch text").first.bounding_box()["height"]
    assert height >= 10  # of a line of text, in CSS pixels


def test_every_part_is_reached_by_keyboard(written: str, look: Any) -> None:
    """From the top with Tab alone: to the answer, into the tables, the folds and the buttons."""
    page = look(written)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#answer"
    seen: set[str] = set()
    kinds = {"SUMMARY", "BUTTON", "PRE", "DIV"}
    for _ in range(400):
        page.keyboard.press("Tab")
        kind = page.evaluate("document.activeElement.tagName")
        if kind in seen or kind not in kinds:
            continue
        seen.add(kind)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if kind == "SUMMARY":
            before = page.evaluate("document.activeElement.parentElement.open")
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open") != before
        if kind == "BUTTON":
            page.keyboard.press("Enter")
            page.wait_for_function("document.activeElement.textContent != 'copy'")
        if seen == kinds:
            break
    assert seen == kinds


def test_markup_in_a_spaces_name_is_text(runs: Any, look: Any) -> None:
    """Nothing of it runs: a dialog would fail the test, as would a word on the console."""
    made = runs.outcome(12, confirmed=True, name=MARKUP)
    page = look(report.write(made).absolute().as_uri())
    assert MARKUP in page.inner_text("h1")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_drawing_on_its_own_has_its_own_ground(tmp_path: Path, look: Any, scheme: str) -> None:
    path = tmp_path / "drawing.svg"
    path.write_text(draw(PRESETS["sret_t"]), encoding="utf-8")
    page = look(path.as_uri(), scheme=scheme)
    ground, ink = page.evaluate(
        """() => [".p", "text"].map(s => getComputedStyle(document.querySelector(s)).fill)"""
    )
    dark = [sum(map(int, colour.strip("rgb()").split(","))) < 384 for colour in (ground, ink)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])
