"""Optuna's dashboard as a browser shows it: names, notes, artifacts and plots of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sret_nas.report.dashboard import Dashboard

PLOTS = ("front-macs", "learning-curves", "cost-by-stage")


@pytest.fixture(scope="module")
def served(make_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    runs = make_runs(tmp_path_factory.mktemp("served"))
    outcome = runs.outcome(6, runs.mixed, confirmed=True, stored=True)
    with Dashboard(outcome, outcome.run.path / "artifacts", port=0) as dashboard:
        dashboard.publisher(outcome, final=True)
        thread = threading.Thread(target=dashboard.server.run, daemon=True)
        thread.start()
        yield dashboard


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_studys_page_has_our_plots(served: Dashboard, look: Any, scheme: str) -> None:
    page = look(served.url, scheme=scheme)
    page.get_by_text("validation loss (nats)").first.wait_for()
    for name in PLOTS:
        page.locator(f"[id='user-defined-plot:{name}'] .main-svg").first.wait_for()
    front = page.locator("[id='user-defined-plot:front-macs']")
    assert "validation loss (nats)" in front.inner_text()
    assert "front" in front.inner_text()


def test_a_trials_page_has_its_note_and_artifacts(served: Dashboard, look: Any) -> None:
    page = look(f"{served.url}/trials?numbers=0")
    page.get_by_text("Trained to the end").wait_for()
    assert page.get_by_role("columnheader", name="slices by loop").count() == 1
    for name in ("drawing.svg", "architecture.yaml", "learning-curve.svg"):
        page.get_by_text(name).first.wait_for()
    pictures = "[...document.querySelectorAll('img[src^=\"/artifacts/\"]')]"
    page.wait_for_function(f"{pictures}.length >= 3 && {pictures}.every(i => i.naturalWidth > 100)")


def test_the_studys_note_has_the_answer(served: Dashboard, look: Any) -> None:
    best = served.outcome.recommended()
    assert best is not None
    look(f"{served.url}/note").get_by_text(f"Recommended: trial {best.trial}").wait_for()


def test_it_fits_a_phone(served: Dashboard, look: Any) -> None:
    """One column: no plot or choice is cut, and none lies on another."""
    page = look(served.url, width=390)
    page.locator("[id='user-defined-plot:front-macs'] .main-svg").first.wait_for()
    page.locator("[id='graph-pareto-front'] .main-svg").first.wait_for()
    boxes = {
        name: page.locator(name).first.bounding_box()
        for name in (
            "[id='user-defined-plot:front-macs']",
            "[id='graph-pareto-front']",
            "main .MuiSelect-root",
        )
    }  # fmt: skip
    for name, box in boxes.items():
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 390, name
    choice, plot = boxes["main .MuiSelect-root"], boxes["[id='graph-pareto-front']"]
    assert choice["y"] + choice["height"] <= plot["y"]


def test_our_plots_have_cards_and_no_bar_of_buttons_covers_a_title(
    served: Dashboard, look: Any
) -> None:
    page = look(served.url, width=1400)
    inside = []
    for name in PLOTS:
        plot = page.locator(f"[id='user-defined-plot:{name}']")
        plot.locator(".main-svg").first.wait_for()
        plot.hover()
        bar, title = plot.locator(".modebar").bounding_box(), plot.locator(".gtitle").bounding_box()
        assert bar["y"] > title["y"] + title["height"]
        assert bar["y"] + bar["height"] <= plot.bounding_box()["y"] + plot.bounding_box()["height"]
        card = page.locator(f".MuiCard-root:has([id='user-defined-plot:{name}'])")
        inside.append(card.bounding_box())
    apart = [b["x"] - (a["x"] + a["width"]) for a in inside for b in inside if b["x"] > a["x"]]
    assert apart and min(apart) >= 8
