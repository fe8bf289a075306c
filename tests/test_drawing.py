"""Drawings say what they should: colours are weights, cuts are slices, arrows are loops."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture, Stage
from sret_nas.drawing import COLUMNS, PIECES, ROWS
from sret_nas.report import describe, draw
from sret_nas.space import SearchSpace

SVG = "{http://www.w3.org/2000/svg}"


def one(**stage: object) -> Architecture:
    """One stage of 64 tokens."""
    data = {"heads": 2, "head_dim": 8} | stage
    return Architecture(image_size=32, stem_stride=4, stages=(Stage.model_validate(data),))


def found(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def colours(svg: str) -> tuple[list[str], list[str]]:
    """Colours of the attentions and of the MLPs, loop after loop of block after block."""
    root = found(svg)
    attention = [e.attrib["fill"] for e in root.iter(f"{SVG}path") if e.get("class") == "a"]
    mlp = [e.attrib["fill"] for e in root.iter(f"{SVG}rect") if e.get("class") == "m"]
    return attention, mlp


def loops(svg: str) -> int:
    return svg.count('class="l loop"')


@pytest.mark.parametrize("order", ["adjacent", "cyclic"])
@pytest.mark.parametrize(
    ("share", "attention_units", "mlp_units", "all_units"),
    [("all", 2, 2, 2), ("attention", 2, 6, 6), ("mlp", 6, 2, 6), ("none", 6, 6, 6)],
)
def test_same_weights_same_colour(
    order: str, share: str, attention_units: int, mlp_units: int, all_units: int
) -> None:
    svg = draw(one(blocks=2, recursions=3, order=order, share=share))
    attention, mlp = colours(svg)
    assert (len(attention), len(mlp)) == (6, 6)
    assert len(set(attention)) == attention_units
    assert len(set(mlp)) == mlp_units
    assert len(set(attention) | set(mlp)) == all_units
    if share in ("all", "attention"):  # the loops of a block stand below each other
        assert attention[:3] == [attention[0]] * 3


def test_stages_share_nothing() -> None:
    attention, _ = colours(draw(Architecture.load("sret_t")))
    assert len(attention) == 20
    assert len(set(attention)) == 10


@pytest.mark.parametrize(
    ("stage", "arrows"),
    [
        ({"blocks": 3, "recursions": 2}, 3),
        ({"blocks": 3, "recursions": 2, "order": "cyclic"}, 1),
        ({"blocks": 1, "recursions": 2, "order": "cyclic"}, 1),
        ({"blocks": 3, "recursions": 1}, 0),
        ({"blocks": 3, "recursions": 2, "share": "none"}, 0),
    ],
)
def test_a_loop_is_an_arrow_around_what_is_repeated(stage: dict[str, object], arrows: int) -> None:
    assert loops(draw(one(**stage))) == arrows


def test_slices_are_cuts() -> None:
    root = found(draw(one(recursions=4, groups=[1, 4, 16, 64])))
    tiles = [e for e in root.iter(f"{SVG}path") if e.get("class") == "a"]
    assert [tile.attrib["d"].count("M") for tile in tiles] == [1, 4, 16, PIECES]
    assert [tile.attrib["data-slices"] for tile in tiles] == ["1", "4", "16", "64"]
    words = " ".join(root.itertext())
    for text in ("one piece", "4 slices", "64 slices"):
        assert text in words


def test_width_is_width() -> None:
    root = found(draw(Architecture.load("sret_s")))
    widths = [float(e.attrib["width"]) for e in root.iter(f"{SVG}rect") if e.get("class") == "m"]
    assert widths[-1] / widths[4] == pytest.approx(2, rel=0.02)
    assert widths[4] / widths[0] == pytest.approx(2, rel=0.02)


def test_a_giant_stays_small_and_says_so() -> None:
    svg = draw(one(blocks=90, recursions=100))
    assert len(colours(svg)[0]) == COLUMNS * ROWS
    assert "90 blocks, 100 loops in all" in svg
    assert len(svg) < 30_000


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["sret", "smoke"]), st.integers(0, 10_000))
def test_everything_of_a_space_is_drawn_inside_the_picture(name: str, seed: int) -> None:
    (arch,) = SearchSpace.load(name).sample(1, seed=seed)
    svg = draw(arch)
    root = found(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    assert not re.search(r"nan|inf\b", svg)


def test_a_title_is_escaped_and_words_are_there() -> None:
    root = found(draw(Architecture.load("sret_t"), "<b>&x"))
    assert root.findtext(f"{SVG}title") == "<b>&x"
    assert root.findtext(f"{SVG}desc") == describe(Architecture.load("sret_t"))
    assert "8 slices, 2 slices" in describe(Architecture.load("sret_t"))
