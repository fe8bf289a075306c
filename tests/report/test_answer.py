"""Why a member is recommended, which cannot be told apart, what the run cannot rank: one story."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sret_nas.cli.search import _tell_order

from sret_nas.api import SearchResult
from sret_nas.report import answer, charts, notes
from sret_nas.report.page import page
from sret_nas.runner import RunResult

GOLDEN = Path(__file__).parent.parent / "golden" / "terminal" / "pareto.txt"
SHIFTS = (0.06, -0.06)
"""By which two more seeds differ from the first: the noise is .06."""


def again(made: RunResult, **means: float) -> RunResult:
    """Each member with two more seeds; some are moved to another mean, by ``tN``."""
    for member in made.front:
        own = float(member.metrics["val_loss"] or 0)
        mean = means.get(f"t{member.trial}", own)
        for seed, shift in enumerate(SHIFTS, 1):
            loss = mean + (mean - own) / 2 + shift
            result = {"val_loss": loss, "val_accuracy": 0.5, "test_accuracy": 0.4, "seconds": 2.0}
            made.study.set_user_attr(f"confirmed:{member.trial}:{seed}", result)
    return RunResult(made.run, made.config, made.study)


@pytest.fixture
def close(runs: Any) -> RunResult:
    """Ten candidates, of whose front the dearest two are nearly equal."""
    made = runs.outcome(24, stored=True)
    second, best = made.front[-2:]
    return again(made, **{f"t{second.trial}": float(best.metrics["val_loss"]) + 0.01})


def test_a_cheaper_one_that_is_not_significantly_worse(close: RunResult) -> None:
    found = close.recommendation
    assert found is not None
    second, best = close.front[-2:]
    assert (found.member.trial, found.best.trial) == (second.trial, best.trial)
    told = " ".join(answer.why(close))
    assert f"not significantly worse than the best, trial {best.trial}: validation loss" in told
    assert f"With a probability of {100 * found.probability:.0f} % no other member" in told
    assert f"more than {found.noise.std:.4f}, which is what another seed changes" in told
    assert found.noise.std == pytest.approx(0.06, abs=0.01)
    assert "means over 3 seeds (5% level" in told
    assert told in " ".join(page(close).split())
    for sentence in answer.chosen(close):
        assert sentence.replace("(", "\\(")[:20] in notes.of_study(close)


def test_all_that_show_it_agree(close: RunResult, cli: Callable[..., Any]) -> None:
    found = close.recommendation
    assert found is not None
    close.write()
    trial = found.member.trial
    assert close.recommended() == found.member
    assert SearchResult(close.run, close.config, close.study).best == found.member
    document = json.loads((close.run.path / "pareto.json").read_text())
    assert document["recommended"]["trial"] == trial
    assert document["recommended"]["best"] == found.best.trial
    assert document["recommended"]["probability"] == found.probability
    assert document["noise"]["dof"] == 2 * len(close.front)
    with (close.run.path / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows if row["recommended"] == "True"] == [trial]
    assert [int(row["group"]) for row in rows] == [one["group"] for one in document["front"]]
    assert [int(row["group"]) for row in rows][-2:] == [1, 1]
    assert cli("pareto", close.run.path, "--json").json == document
    assert f'<tr class="best"><td data-name="trial">{trial} ★' in page(close)


def test_groups_are_framed_in_the_chart_and_a_column_of_the_table(close: RunResult) -> None:
    groups = close.recommendation.groups  # type: ignore[union-attr]
    (figure,) = charts.front(close, [])
    several = [n for n in set(groups.values()) if list(groups.values()).count(n) > 1]
    shapes = figure["layout"]["shapes"]
    assert len(shapes) == len(several) == len(figure["layout"]["annotations"]) >= 1
    costs = [m.metrics["macs"] for m in close.front if groups.get(m.trial) == 1]
    top = max(shapes, key=lambda shape: shape["x1"])
    assert top["x0"] <= min(costs) < max(costs) <= top["x1"]
    text = page(close)
    assert "Members of one group cannot be told apart" in text
    assert text.count('<td data-name="group">1</td>') == len(costs)


def test_golden_table(close: RunResult, cli: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cli("pareto", close.run.path, "--no-plot").out
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == GOLDEN.read_text()


def test_nothing_is_claimed_where_nothing_was_repeated(runs: Any) -> None:
    made = runs.outcome(12)
    told = " ".join(answer.why(made))
    assert "not confirmed with other seeds yet. How much another seed changes is not known" in told
    assert "probability" not in told
    assert answer.groups(made) == ""
    assert 'data-name="group"' not in page(made)
    assert made.to_dict()["noise"] is None
    assert charts.front(made, [])[0]["layout"]["shapes"] == []


def test_the_run_says_that_it_cannot_rank_designs_of_one_size(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = again(runs.outcome(12))
    size = made.one_size()
    assert size is not None
    assert size.doubts
    told = answer.one_size(made)
    assert told is not None
    verdict = told["verdict"]
    assert verdict.startswith("This run cannot rank designs of one size (MACs within")
    assert verdict in page(made)
    _tell_order(SearchResult(made.run, made.config, made.study))
    assert verdict in " ".join(capsys.readouterr().err.split())
    assert made.to_dict()["one_size"]["doubts"] == size.doubts


def test_with_many_of_one_size_the_order_within_is_shown(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = again(runs.outcome(120))
    size = made.one_size()
    assert size is not None
    assert [order.by for order in size.orders] == [order.by for order in made.fidelity()]
    assert "ordered by, of one size" in page(made)
    _tell_order(SearchResult(made.run, made.config, made.study))
    assert f"; of one size {size.orders[0].tau:.2f} [" in capsys.readouterr().err


def test_too_few_have_no_order_of_either_kind(runs: Any) -> None:
    made = runs.outcome(3)
    assert answer.one_size(made) is None
    assert made.to_dict()["one_size"] is None
