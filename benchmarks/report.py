"""What is looked at: how fast a report opens, and what the dashboard's content costs a search.

    python benchmarks/report.py --rounds 5

Runs are made up, of 36 and of 1,000 trials of ``smoke``, the front confirmed. ``report``
writes the page and opens it in chromium: until text is on the screen, until the page is
loaded, and until its charts are drawn; the small run is the baseline, for both carry the
same library, which takes most of the time.
``dashboard`` publishes notes, artifacts and plots to SQLite, trial by trial as a search does,
and asks the dashboard's API for the study before and after. ``search`` is a real one with
one worker, which publishes between the epochs: the share of its time that goes into that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
from optuna.trial import FrozenTrial, TrialState, create_trial
from playwright.sync_api import Browser, sync_playwright

from sret_nas import report, search
from sret_nas.cost import cost
from sret_nas.device import processor
from sret_nas.proxy import choose
from sret_nas.report import publish
from sret_nas.space import SearchSpace

SIZES = (36, 1000)
MOMENTS = ("text_ms", "loaded_ms", "charts_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved openings")
    parser.add_argument("--trials", type=int, default=10, help="of the real search")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/report-cpu.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {size: run(folder / str(size), size) for size in SIZES}
        document = {
            "device": {
                "name": processor(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "optuna": optuna.__version__,
                "optuna_dashboard": optuna_dashboard.__version__,
            },
            "report": reports(made, options.rounds),
            "dashboard": [published(made[size], 24) for size in SIZES],
            "search": searched(folder, options.trials),
        }
    print(json.dumps(document, indent=1))
    out = options.out or Path(__file__).parent / "results" / "report-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def run(path: Path, size: int) -> search.RunResult:
    """A run of so many trials, in memory."""
    space = SearchSpace.load("smoke")
    plan, _ = choose("fast", "cpu")
    config = search.RunConfig(
        space=space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
        budget=("4MMACs",),
        data={"source": "demo", "fingerprint": "0"},
        proxy=plan,
    )
    study = optuna.create_study(directions=["minimize", "minimize"], study_name=path.name)
    study.add_trials([trial(space, plan.rungs, i, a) for i, a in enumerate(space.sample(size, 0))])
    directory = search.RunDir(path)
    with directory.only_one():
        directory.begin(config)
    outcome = search.RunResult(directory, config, study)
    for member in outcome.front:
        for seed in (1, 2):
            found = {"val_loss": 1.0, "val_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 2.0}
            study.set_user_attr(f"confirmed:{member.trial}:{seed}", found)
    return search.RunResult(directory, config, study)


def trial(space: SearchSpace, rungs: tuple[int, ...], i: int, arch: Any) -> FrozenTrial:
    """Two of three are trained to the end; larger ones are better, with some scatter."""
    found, complete = cost(arch), i % 3 < 2
    loss = 2.0 - found.macs / 4e6 + 0.02 * (i * 7 % 11)
    curve = [
        {"epoch": e, "train_loss": loss + 2 / e, "val_loss": loss + 1 / e, "val_accuracy": 0.5,
         "seconds": 1.0, "images": 100}
        for e in range(1, (rungs[-1] if complete else rungs[0]) + 1)
    ]  # fmt: skip
    metrics = {"macs": found.macs, "params": found.params, "peak_bytes": found.peak_bytes}
    metrics |= {"val_loss": curve[-1]["val_loss"], "val_accuracy": 0.5}
    params = space.params(space.encode(arch))
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        values=[metrics["val_loss"], found.macs] if complete else None,
        params=params,
        distributions={key: space.distributions[key] for key in params},
        user_attrs={"id": arch.id, "architecture": arch.to_dict(), "metrics": metrics}
        | {"curve": curve} | metrics,
    )  # fmt: skip


def reports(made: dict[int, search.RunResult], rounds: int) -> list[dict[str, Any]]:
    """Size of each page, seconds to write it, milliseconds until it is there."""
    rows: dict[int, dict[str, Any]] = {}
    for size, outcome in made.items():
        start = time.perf_counter()
        path = report.write(outcome)
        rows[size] = {
            "trials": size,
            "bytes": path.stat().st_size,
            "write_s": time.perf_counter() - start,
        } | {key: [] for key in MOMENTS}
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(rounds):
            for size, outcome in made.items():
                found = opened(browser, outcome.run.report.absolute().as_uri())
                for key, value in found.items():
                    rows[size][key].append(value)
        browser.close()
    for row in rows.values():
        for key in MOMENTS:
            row[f"median_{key}"] = statistics.median(row[key])
    return list(rows.values())


def opened(browser: Browser, address: str) -> dict[str, int]:
    """Milliseconds until text is seen, the page is loaded, and its charts are drawn."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 4")
    found = page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
        " performance.getEntriesByType('navigation')[0].loadEventEnd, performance.now()]"
    )
    context.close()
    return {key: round(value) for key, value in zip(MOMENTS, found, strict=True)}


def published(outcome: search.RunResult, trials: int) -> dict[str, Any]:
    """Seconds to publish the last trials of a run whose others have been; the API's seconds."""
    database = f"sqlite:///{outcome.run.path}/published.db"
    optuna.copy_study(
        from_study_name=outcome.study.study_name, from_storage=outcome.study._storage,
        to_storage=database,
    )  # fmt: skip
    study = optuna.load_study(study_name=outcome.study.study_name, storage=database)
    before = api_s(study)
    now = search.RunResult(outcome.run, outcome.config, study)
    publisher = publish.Publisher(outcome.run.path / "artifacts")
    last = now.trials[-trials:]
    now.trials = now.trials[:-trials]
    publisher(now, final=True)
    now = search.RunResult(outcome.run, outcome.config, study)
    start = time.perf_counter()
    publisher(now, final=True)
    taken = time.perf_counter() - start
    return {
        "trials": len(now.trials),
        "s_per_trial": taken / len(last),
        "api_before_s": before,
        "api_after_s": api_s(study),
    }


def api_s(study: optuna.Study) -> float:
    """Seconds of the dashboard's answer with the whole study, the second time."""
    app = optuna_dashboard.wsgi(study._storage)
    for _ in range(2):
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ["PATH_INFO"] = f"/api/studies/{study._study_id}"
        start = time.perf_counter()
        b"".join(app(environ, lambda *_: None))
    return time.perf_counter() - start


def searched(folder: Path, trials: int) -> dict[str, float]:
    """Seconds of a search with one worker, and what of it goes into publishing."""
    from sret_nas.cli.main import run as command

    spent = 0.0
    whole = publish.Upkeep._publish

    def timed(self: publish.Upkeep, outcome: search.RunResult, **how: Any) -> None:
        nonlocal spent
        start = time.perf_counter()
        whole(self, outcome, **how)
        spent += time.perf_counter() - start

    publish.Upkeep._publish = timed  # type: ignore[method-assign]
    words = ["search", "smoke", "--workers", "1", "--trials", str(trials)]
    start = time.perf_counter()
    assert command([*words, "--out", str(folder / "searched")]) == 0
    total = time.perf_counter() - start
    return {"trials": trials, "seconds": total, "publishing_s": spent, "share": spent / total}


if __name__ == "__main__":
    main()
