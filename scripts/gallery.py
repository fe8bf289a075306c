"""Make all pictures of docs/gallery.md and the README from one run.

    python scripts/gallery.py RUN

Needs chromium and the test extra. The run is copied first: the dashboard writes to a study.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from sret_nas import report, runner
from sret_nas.report.commands import search as command
from sret_nas.report.dashboard import Dashboard
from sret_nas.zoo import PRESETS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = DOCS / "pictures"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 128


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run directory")
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        print("chromium is not installed", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    outcome = runner.load(arguments.run)
    best = outcome.recommended()
    if best is None:
        print(f"{arguments.run}: no candidate was trained to the end", file=sys.stderr)
        return 1
    drawings = {"sret_t": PRESETS["sret_t"], "recommended": best.architecture}
    for name, arch in drawings.items():
        (PICTURES / f"{name}.svg").write_text(report.draw(arch, name), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        copy = Path("runs") / arguments.run.resolve().name  # what pages say of where they are
        shutil.copytree(arguments.run, Path(folder) / copy)
        os.chdir(folder)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        of_report(browser, copy)
        of_dashboard(browser, copy, best.trial)
        tell(runner.load(copy))
        browser.close()
        os.chdir(DOCS)
    total = sum(path.stat().st_size for path in PICTURES.iterdir())
    print(f"{PICTURES}: {total / 1000:,.0f} KB")
    return 0


def opened(browser: Browser, address: str, width: int, height: int, dark: bool = False) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        device_scale_factor=1,
    )
    page = context.new_page()
    page.goto(address)
    return page


def keep(picture: bytes, name: str) -> None:
    """Save a screenshot with few colours: a fifth of the size, and nobody sees it."""
    image: Any = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def of_report(browser: Browser, run: Path) -> None:
    address = report.write(runner.load(run)).absolute().as_uri()
    page = opened(browser, address, 1280, 1010)
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 4")
    keep(page.screenshot(), "report")
    for part in ("front", "mattered", "honesty"):
        keep(page.locator(f"#{part}").screenshot(), f"report-{part}")
    member = page.locator("#members details[open]")
    keep(member.screenshot(), "report-member")
    page = opened(browser, address, 360, 800, dark=True)
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 4")
    keep(page.screenshot(), "report-phone")


def of_dashboard(browser: Browser, run: Path, trial: int) -> None:
    outcome = runner.load(run)
    with Dashboard(outcome, run / "artifacts", port=0) as dashboard:
        dashboard.publisher(outcome, final=True)
        threading.Thread(target=dashboard.server.run, daemon=True).start()
        page = opened(browser, dashboard.url, 1400, 1000)
        page.get_by_text("Best Trials").wait_for()
        page.wait_for_timeout(2000)  # its charts move into place
        keep(page.screenshot(), "dashboard")
        plots = page.locator("[id^='user-defined-plot:']")
        plots.first.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        names = [plots.nth(i).get_attribute("id") or "" for i in range(plots.count())]
        for name in names:
            keep(page.locator(f"[id='{name}']").screenshot(), f"dashboard-{name.split(':')[1]}")
        page = opened(browser, f"{dashboard.url}/trials?numbers={trial}", 1400, 1500)
        page.get_by_text("drawing.svg").first.wait_for()
        page.wait_for_timeout(1000)
        keep(page.screenshot(), "dashboard-trial")


def tell(outcome: runner.RunResult) -> None:
    """Write into the gallery which run it shows."""
    counts, config = outcome.counts(), outcome.config
    words = command(outcome).split(" --workers")[0]
    text = (
        f"`{words}`: {counts['complete']} candidates trained to the end, {counts['pruned']} "
        f"stopped early, {outcome.seconds()['total'] / 60:.0f} minutes with {config.workers} "
        f"workers on {' and '.join(outcome.machines()) or config.device}; "
        + ", ".join(f"{name} {number}" for name, number in config.versions.items())
        + "."
    )
    text = textwrap.fill(text, 95, break_long_words=False, break_on_hyphens=False)
    path = DOCS / "gallery.md"
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"(?s)(<!-- run -->).*?(<!-- end -->)", rf"\g<1>\n{text}\n\g<2>", page)
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
