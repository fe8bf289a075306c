"""``--evaluator``: searches whose candidates are not trained, as one types them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sret_nas
from sret_nas.errors import UsageError
from sret_nas.report import notes, plots
from sret_nas.runner import load

Cli = Callable[..., Any]
OWN = '''
"""Deeper is better."""
from sret_nas import Declaration, Evaluation, Evaluator, Metric

DEPTH = Metric(name="reach", title="reach", direction="maximize", format=".1f", alias="far")


class Depth(Evaluator):
    def __init__(self, proxy, data, device):
        pass

    @property
    def declaration(self):
        return Declaration(metrics=(DEPTH,))

    def evaluate(self, arch, *, seed=0, report=None):
        {body}
        return Evaluation({{"reach": float(arch.depth)}}, 0.01)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("pass")
    return tmp_path


def write(body: str) -> Path:
    path = Path("their_depth.py").absolute()
    path.write_text(OWN.format(body=body))
    return path


@pytest.fixture
def search(cli: Cli, here: Path) -> Cli:
    """Search ``smoke`` with one worker, into the folder ``run``."""

    def call(evaluator: str, *arguments: object, workers: int = 1) -> Any:
        options = ("--evaluator", evaluator, "--workers", workers, "--out", "run")
        return cli("search", "smoke", "--budget", "2M MACs", *options, *arguments)

    return call


def test_a_search_without_a_training(search: Cli, cli: Cli, here: Path) -> None:
    result = search("dss", "--trials", 10, "--json")
    assert result.code == 0, result.err
    document = result.json
    assert document["objectives"] == ["dss", "macs"]
    assert document["trials"] == {"complete": 10, "pruned": 0, "failed": 0}
    assert document["saved_by_rungs"] is None and document["fidelity"] == []
    assert document["seconds"]["training"] > 0
    for member in document["front"]:
        assert member["metrics"]["dss"] > 0 and "val_loss" not in member["metrics"]
    repeated = [m["confirmation"] for m in document["front"] if m["confirmation"]]
    assert repeated and all(1 < one["seeds"] <= 3 and one["dss_std"] > 0 for one in repeated)
    assert (
        "judged  by dss: DSS indicator (more is better), up to 3 seeds for the front" in result.err
    )
    assert "epoch" not in result.err and "proxy" not in result.err

    again = search("dss", "--trials", 12, "--json")
    assert again.code == 0 and again.json["trials"]["complete"] == 12
    names = (here / "run" / "pareto.csv").read_text().splitlines()[0].split(",")
    assert {"dss", "confirmed_dss", "confirmed_std", "macs"} <= set(names)
    shown = cli("pareto", "run", "--plot")
    assert "DSS, mean of " in shown.out and "val loss" not in shown.out + shown.err
    report = cli("report", "run")
    assert report.code == 0
    text = (here / "run" / "report.html").read_text(encoding="utf-8")
    text = text[: text.index('id="plotly"')]
    assert "DSS indicator" in text and "validation" not in text.split("What was done")[0]
    assert "warning" not in result.err  # the dashboard has its notes and plots
    outcome = load(Path("run"))
    note = notes.of_study(outcome) + notes.of_trial(outcome, outcome.complete()[0])
    assert "DSS indicator" in note and "**Evaluated**: DSS indicator" in note
    assert not re.search("epoch|validation|trained to the end", note)
    assert set(plots.of_study(outcome)) == {"front-macs", "cost-by-stage"}
    plan = cli("search", "smoke", "--evaluator", "dss", "--trials", 9, "--dry-run")
    assert plan.code == 0 and " evaluations/s, measured" in plan.out


def test_seeds_that_do_not_matter_are_not_tried(search: Cli) -> None:
    result = search("params", "--trials", 4, "--json")
    assert result.code == 0 and result.json["front"]
    assert all(member["confirmation"] is None for member in result.json["front"])
    assert "no seeds" in result.err and "confirmed with" not in result.err
    table = search("params", "--trials", 4)
    assert "log10 params" in table.out and "seed" not in table.out


def test_ones_own(search: Cli, here: Path) -> None:
    result = search("their_depth:Depth", "--trials", 4, "--objectives", "far,params", "--json")
    assert result.code == 0, result.err
    assert f"code    evaluator 'their_depth:Depth' runs {here / 'their_depth.py'}" in result.err
    assert result.json["objectives"] == ["reach", "params"]
    for member in result.json["front"]:
        arch = sret_nas.Architecture.load(member["architecture"])
        assert member["metrics"]["reach"] == arch.depth


def test_ones_own_in_processes(search: Cli) -> None:
    result = search("their_depth:Depth", "--trials", 6, "--json", workers=2)
    assert result.code == 0 and result.json["trials"]["complete"] >= 6, result.err


def test_another_evaluator_is_another_run(search: Cli) -> None:
    assert search("params", "--trials", 2).code == 0
    other = search("dss", "--trials", 2)
    assert other.code == 2 and "run is another run" in other.err
    assert 'evaluator was "params", now "dss"' in other.err


def test_changed_code_is_another_run(search: Cli) -> None:
    assert search("their_depth:Depth", "--trials", 2).code == 0
    write("seed = 1")
    result = search("their_depth:Depth", "--trials", 4)
    assert result.code == 2 and "evaluator code was" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dsss",), "evaluator: given 'dsss'; did you mean 'dss'?"),
        (("dss", "--objectives", "loss,macs"), "objectives: given 'loss'"),
        (("dss", "--objectives", "macs"), "one of them must be evaluated, dss; given macs"),
        (("absent:Depth",), "evaluator: module 'absent': no such module"),
        (("their_depth:Deep",), "module 'their_depth' has no function or class 'Deep'"),
    ],
)
def test_a_wrong_word_costs_nothing(
    search: Cli, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = search(*arguments, "--trials", 2)
    assert result.code == 2 and message in result.err
    assert not (here / "run").exists()


def test_candidates_that_fail_are_counted_and_the_others_stand(search: Cli) -> None:
    write("if arch.depth % 2: raise ValueError('odd')")
    result = search("their_depth:Depth", "--trials", 8)
    assert result.code == 0
    assert "failed: " in result.err and "× ValueError" in result.err
    assert "ValueError: odd" in result.err


def test_what_was_not_declared_ends_the_search_and_nothing_is_lost(search: Cli) -> None:
    write("if arch.depth > 2: return Evaluation({}, 0.1)")
    result = search("their_depth:Depth", "--trials", 8)
    assert result.code == 2
    assert "error: evaluator 'their_depth:Depth': its result has nothing" in result.err
    assert load(Path("run")).counts()["failed"] == 0


def test_a_worker_runs_it_with_leave_alone(cli: Cli, here: Path, search: Cli) -> None:
    where = ("--storage", f"sqlite:///{here}/shared.db", "--study", "mine")
    assert search("their_depth:Depth", "--trials", 3, *where).code == 0
    refused = cli("worker", *where, "--workers", 1)
    assert refused.code == 2
    assert "evaluator 'their_depth:Depth' would run the code in" in refused.err
    assert "--allow-code" in refused.err
    allowed = cli("worker", *where, "--workers", 1, "--allow-code")
    assert allowed.code == 0 and "code    evaluator 'their_depth:Depth' runs" in allowed.err
    write("raise SystemExit(9)")
    other = cli("worker", *where, "--workers", 1, "--allow-code")
    assert other.code == 2 and "is not the one that the run was begun with" in other.err


def test_from_python(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "their_depth", raising=False)
    import their_depth  # type: ignore[import-not-found]

    found = sret_nas.search(
        "smoke", evaluator=their_depth.Depth, trials=3, workers=1, out="run", published=False
    )
    assert found.best is not None
    assert found.best.metrics["reach"] == found.best.architecture.depth
    assert json.loads(Path("run/pareto.json").read_text())["objectives"] == ["reach", "macs"]


def test_what_other_processes_cannot_import_is_refused(here: Path) -> None:
    class Local(sret_nas.Evaluator):
        pass

    for thing in (Local, lambda *_: None):
        with pytest.raises(UsageError, match="which other processes cannot import") as caught:
            sret_nas.search("smoke", evaluator=thing, out="run")
        assert "module of its own" in str(caught.value.hint)


def test_the_example_of_the_docs_works(cli: Cli, here: Path) -> None:
    text = (Path(sret_nas.__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(from sret_nas .*?)```", text, re.DOTALL)
    Path("my_score.py").write_text(example)
    options = ("--trials", 3, "--workers", 1, "--out", "run", "--json")
    result = cli("search", "smoke", "--evaluator", "my_score:Density", *options)
    assert result.code == 0, result.err
    for member in result.json["front"]:
        metrics = member["metrics"]
        assert metrics["density"] == metrics["macs"] / metrics["params"]


def test_an_evaluator_is_a_file_and_a_line() -> None:
    """Nothing else in the package names one; so many are counted in the docs."""
    root = Path(sret_nas.__file__).parents[1]
    naming = {
        str(path.relative_to(root)): len(re.findall(r"\bdss\b|DSSEvaluator", text))
        for folder in ("sret_nas", "cli")
        for path in (root / folder).rglob("*.py")
        if re.search(r"\bdss\b|DSSEvaluator", text := path.read_text("utf-8"))
    }
    assert set(naming) == {
        "sret_nas/evaluators/registry.py",
        "sret_nas/evaluators/training_free.py",
    }
    registry = root / "sret_nas" / "evaluators" / "registry.py"
    lines = registry.read_text("utf-8").splitlines()
    assert sum(bool(re.search(r"\bdss\b|DSSEvaluator", line)) for line in lines) == 1
    assert "`CHANGELOG.md` for those who use it: 3 files" in " ".join(
        (root / "docs" / "extending.md").read_text("utf-8").split()
    )
