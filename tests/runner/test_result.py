"""The front, its confirmation, the account: arithmetic on studies made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from optuna.trial import TrialState, create_trial
from rich.console import Console
from rich.live import Live
from sret_nas.cli.view import Lines, View

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.runner import RunResult
from sret_nas.runner.order import kendall
from sret_nas.space import SearchSpace
from sret_nas.study.rundir import RunDir
from sret_nas.units import format_quantity

Lab = Any
ARCHS = sorted(SearchSpace.load("smoke").sample(12, 3), key=lambda arch: cost(arch).macs)


class Made:
    """A study by hand: architectures by ascending MACs."""

    def __init__(self, lab: Lab, **changes: Any) -> None:
        self.config = lab.config(**changes)
        self.study = lab.study(self.config)
        self.run = RunDir(lab.folder)
        self.run.architectures.mkdir()

    def add(
        self,
        k: int,
        losses: list[float],
        state: TrialState = TrialState.COMPLETE,
        **attributes: Any,
    ) -> None:
        arch = ARCHS[k]
        metrics = {
            "macs": cost(arch).macs,
            "params": cost(arch).params,
            "peak_bytes": cost(arch).peak_bytes,
        }
        if losses:
            metrics |= {"val_loss": losses[-1], "val_accuracy": 1 / (1 + losses[-1])}
        curve = [
            {"epoch": e, "val_loss": loss, "val_accuracy": 0.5, "seconds": 2.0, "images": 10}
            for e, loss in enumerate(losses, 1)
        ]
        self.study.add_trial(
            create_trial(
                state=state,
                values=[metrics[g.name] for g in self.config.goals]
                if state == TrialState.COMPLETE
                else None,
                user_attrs={
                    "id": arch.id,
                    "architecture": arch.to_dict(),
                    "metrics": metrics,
                    "curve": curve,
                    "seconds": {"sampling": 0.25, "latency": 0.5},
                    "rejected": {"over budget": k},
                }
                | attributes,
            )
        )

    def confirm(self, number: int, seed: int, loss: float, test: float | None = 0.5) -> None:
        found = {"val_loss": loss, "val_accuracy": 0.5, "test_accuracy": test, "seconds": 4.0}
        self.study.set_user_attr(f"confirmed:{number}:{seed}", found)

    @property
    def outcome(self) -> RunResult:
        return RunResult(self.run, self.config, self.study)


@pytest.fixture
def made(lab: Lab) -> Made:
    made = Made(lab)
    made.add(0, [4, 4, 4, 3.0])
    made.add(5, [4, 4, 4, 2.0])
    made.add(3, [4, 4, 4, 3.5])  # dominated by the first
    made.add(9, [4, 4, 4, 1.0])
    made.add(7, [5.0], TrialState.PRUNED)
    made.add(8, [4.0], TrialState.FAIL, reason="NaN", error="nan")
    made.add(11, [4.0], TrialState.FAIL, interrupted="lost")
    return made


def test_the_front_is_cheapest_first_and_complete_alone(made: Made) -> None:
    front = made.outcome.front
    assert [member.trial for member in front] == [0, 1, 3]
    assert [member.id for member in front] == [ARCHS[k].id for k in (0, 5, 9)]
    assert front[0].architecture == ARCHS[0]
    assert not any(member.dethroned or member.confirmation for member in front)
    assert made.outcome.recommended().trial == 3


def test_counts_failures_and_what_was_turned_down(made: Made) -> None:
    found = made.outcome
    assert found.counts() == {"complete": 4, "pruned": 1, "failed": 1}
    assert found.failures() == {"NaN": 1}
    assert found.rejected() == {"over budget": 0 + 5 + 3 + 9 + 7 + 8 + 11}
    assert found.to_dict()["interrupted"] == 1


def test_seconds_add_up(made: Made) -> None:
    for start, seconds, workers, latency in ((0.0, 30.0, 2, 1.0), (30.0, 10.0, 1, 0.0)):
        session = {"from": start, "seconds": seconds, "workers": workers, "latency": latency}
        made.study.set_user_attr(f"session:{start}", session)
    made.confirm(0, 1, 3.0)
    seconds = made.outcome.seconds()
    epochs = 4 * 4 + 1 + 1 + 1
    assert seconds == {
        "total": 40.0,
        "training": 2.0 * epochs + 4.0,
        "latency": 7 * 0.5 + 1.0,
        "sampling": 7 * 0.25,
        "workers": 70.0,
        "overhead": 70.0 - 42.0 - 4.5 - 1.75,
    }


def test_the_saving_is_measured_against_training_all_to_the_end(made: Made) -> None:
    assert made.outcome.saving() == pytest.approx(1 - (4 * 4 + 1) / (5 * 4))


def test_nothing_trained_saves_nothing(lab: Lab) -> None:
    found = Made(lab).outcome
    assert found.saving() is None
    assert found.front == []
    assert found.recommended() is None
    assert found.fidelity() == []
    assert found.hypervolumes() == []
    found.write()
    assert json.loads((found.run.path / "pareto.json").read_text())["front"] == []


def test_confirmation_is_mean_and_spread_over_all_seeds(made: Made) -> None:
    made.confirm(0, 1, 3.3, test=0.6)
    made.confirm(0, 2, 2.7, test=0.4)
    made.study.set_user_attr("confirmed:0:3", {"reason": "diverged"})
    (first, *others) = made.outcome.front
    assert first.confirmation is not None
    assert first.confirmation.seeds == 3
    assert first.confirmation.mean["val_loss"] == pytest.approx(3.0)
    assert first.confirmation.std["val_loss"] == pytest.approx(0.3)
    assert first.confirmation.mean["val_accuracy"] == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    assert first.confirmation.mean["test_accuracy"] == pytest.approx(0.5)
    assert first.confirmation.std["test_accuracy"] == pytest.approx(math.sqrt(0.02))
    assert first.confirmation.failed == ("diverged",)
    assert not any(member.confirmation for member in others)
    assert first.metrics["val_loss"] == 3.0  # its own trial's


def test_confirmation_dethrones_only_once_all_are_confirmed(made: Made) -> None:
    made.confirm(0, 1, 1.0)  # mean 2.0
    made.confirm(1, 1, 4.0)  # mean 3.0: worse and dearer than trial 0
    assert not any(member.dethroned for member in made.outcome.front)
    made.confirm(3, 1, 1.4)  # mean 1.2
    assert [member.dethroned for member in made.outcome.front] == [False, True, False]
    found = made.outcome.recommendation
    assert (found.best.trial, found.member.trial) == (3, 0)  # seeds differ by more than they do
    made.confirm(3, 2, 9.0)
    assert [member.dethroned for member in made.outcome.front] == [False, True, True]
    assert made.outcome.recommended().trial == 0


def test_no_test_images_no_test_accuracy(made: Made) -> None:
    made.confirm(0, 1, 3.0, test=None)
    confirmation = made.outcome.front[0].confirmation
    assert confirmation is not None
    assert confirmation.mean["test_accuracy"] is None
    assert made.outcome.to_dict()["front"][0]["confirmation"]["test_accuracy"] is None


def test_a_maximised_objective(lab: Lab) -> None:
    made = Made(lab, objectives=("val_accuracy", "macs"))
    made.add(0, [4, 4, 4, 3.0])
    made.add(5, [4, 4, 4, 2.0])
    made.add(9, [4, 4, 4, 2.5])
    assert [member.trial for member in made.outcome.front] == [0, 1]
    assert made.outcome.recommended().trial == 1


@pytest.mark.parametrize(("sign", "tau"), [(1, 1.0), (-1, -1.0)])
def test_fidelity_of_a_perfect_and_of_a_reversedkendall(sign: int, tau: float, lab: Lab) -> None:
    made = Made(lab)
    for k in range(8):
        made.add(k, [10 + sign * k, 4, 4, 1.0 + k])
    first, params, macs = made.outcome.fidelity()
    assert first.by == "val_loss at epoch 1"
    assert (first.tau, first.low, first.high) == pytest.approx((tau, tau, tau))
    assert macs.tau == pytest.approx(-1)  # larger is worse here, as nobody would order
    assert params.candidates == first.candidates == 8


def test_fidelity_of_a_knownkendall(lab: Lab) -> None:
    made = Made(lab)
    for k, first in enumerate([1, 3, 2, 4, 5, 6, 7, 8]):  # one pair of 28 is swapped
        made.add(k, [first, 4, 4, 1.0 + k])
    order = made.outcome.fidelity()[0]
    assert order.tau == pytest.approx(26 / 28)
    assert -1 <= order.low < order.tau < order.high <= 1
    assert made.outcome.fidelity()[0] == order  # the bootstrap has its seed


def test_kendalls_tau_is_what_scipy_says() -> None:
    rng = np.random.default_rng(0)
    for n in (6, 12, 60):
        x, y = rng.integers(0, n // 2 + 2, (2, n)).astype(float)
        order = kendall("params", x.tolist(), y.tolist(), seed=0)
        assert order.tau == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
    resampled = []
    for _ in range(500):
        at = rng.integers(n, size=n)
        resampled.append(scipy.stats.kendalltau(x[at], y[at]).statistic)
    assert [order.low, order.high] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.05)


def test_fidelity_where_all_are_equal_is_a_number(lab: Lab) -> None:
    made = Made(lab)
    for k in range(7):
        made.add(k, [3.0, 3.0, 3.0, 3.0])
    assert made.outcome.fidelity() == []  # too few to judge an order by
    made.add(7, [3.0, 3.0, 3.0, 3.0])
    order = made.outcome.fidelity()[0]
    assert (order.tau, order.low, order.high) == (0, -1, 1)
    made.outcome.write()


def test_hypervolume_grows_to_the_whole(made: Made) -> None:
    shares = [share for _, share in made.outcome.hypervolumes()]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


CONTRACT = {
    "schema": int,
    "run": str,
    "space": str,
    "budget": dict,
    "trials": {"complete": int, "pruned": int, "failed": int},
    "seconds": {"total": float, "training": float, "latency": float, "sampling": float},
    "front": list,
}
MEMBER = {
    "trial": int,
    "id": str,
    "metrics": {
        "val_loss": float,
        "val_accuracy": float,
        "macs": int,
        "params": int,
        "latency_ms": type(None),
    },
    "architecture": dict,
}


def holds(document: Any, shape: Any) -> None:
    for key, kind in shape.items():
        if isinstance(kind, dict):
            holds(document[key], kind)
        else:
            assert type(document[key]) is kind or (kind is float and document[key] == 0), key


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_files_are_what_the_contract_says(lab: Lab) -> None:
    made = Made(lab, budget=("4GFLOPs", "2ms"))
    made.add(0, [4, 4, 4, 3.0])
    made.add(5, [4, 4, 4, 2.0])
    made.outcome.write()
    path = made.run.path
    document = strict((path / "pareto.json").read_text())
    holds(document, CONTRACT)
    assert document["budget"]["macs"] == 4_000_000_000
    assert document["schema"] == 1
    for member in document["front"]:
        holds(member, MEMBER)
        assert Architecture.load(member["architecture"]).id == member["id"]
    with (path / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["macs"]) for row in rows] == [cost(ARCHS[k]).macs for k in (0, 5)]
    assert sorted(p.name for p in made.run.architectures.iterdir()) == ["000.yaml", "001.yaml"]
    assert Architecture.load(made.run.architectures / "001.yaml").id == ARCHS[5].id


def test_who_leaves_the_front_leaves_the_folder(made: Made) -> None:
    made.outcome.write()
    names = {path.name for path in made.run.architectures.iterdir()}
    made.add(1, [4, 4, 4, 0.5])  # better than all but the cheapest
    made.outcome.write()
    after = {path.name for path in made.run.architectures.iterdir()}
    assert names == {"000.yaml", "001.yaml", "003.yaml"}
    assert after == {"000.yaml", "007.yaml"}


def test_a_member_has_the_latency_of_its_trial(made: Made) -> None:
    """Runs of earlier versions hold second values; nothing shows them."""
    made.study.set_user_attr("latency:1", {"median_ms": 1.5})
    assert [m.metrics["latency_ms"] for m in made.outcome.front] == [None, None, None]


def test_a_terminal_shows_the_run_while_it_goes_on(made: Made) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        View(made.run, made.config, live)(made.study)
        shown = screen.getvalue()  # before the end
    assert "front so far" in shown
    assert "4 complete" in shown


def test_the_view_follows_the_objectives(lab: Lab) -> None:
    """Whatever is sought is in the front, beside the sparkline, and in each trial's line."""
    made = Made(lab, objectives=("val_accuracy", "peak_bytes", "params"), trials=8)
    for k, losses in enumerate(([9.0, 3.0], [9.0, 2.0], [9.0, 1.0])):
        made.add(k, losses)
    (best,) = [m for m in made.outcome.front if m.trial == 2]
    for width in (80, 40):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=width, height=60)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            View(made.run, made.config, live)(made.study)
            shown = screen.getvalue()
        for words in (
            "memory",
            "params",
            "50.00%",
            format_quantity("peak_bytes", best.metrics["peak_bytes"]),
        ):
            assert words in shown, words


def test_lines_of_a_pipe_follow_the_objectives(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(lab, objectives=("val_accuracy", "peak_bytes"))
    lines = Lines(made.outcome.config)
    lines(made.study)
    made.add(2, [4, 1])
    made.confirm(0, 1, 0.5)
    lines(made.study)
    told = capsys.readouterr().err
    assert format_quantity("peak_bytes", cost(ARCHS[2]).peak_bytes) in told
    assert "confirmed with seed 1: val_accuracy 50.00%" in told


def test_members_that_are_not_confirmed_yet_are_not_said_to_stand(made: Made) -> None:
    assert [row["dethroned"] for row in made.outcome.rows()] == [None] * 3


def test_the_recommendation_keeps_a_latency_bound_with_its_margin(lab: Lab) -> None:
    made = Made(lab, budget=("2ms", "3ms@8"))
    timing = {"source": "measured", "warning": None}
    for k, loss, ms, margin in ((0, 3.0, 0.5, 0.1), (5, 2.0, 1.8, 0.1), (9, 1.0, 1.95, 0.1)):
        made.add(k, [4, 4, 4, loss], latency=timing | {"ms": ms, "margin_ms": margin})
    assert [member.trial for member in made.outcome.front] == [0, 1, 2]
    assert made.outcome.recommended().trial == 1
    assert made.outcome.to_dict()["front"][1]["latency"] == timing | {"ms": 1.8, "margin_ms": 0.1}
    made.outcome.write()
    text = (made.run.path / "pareto.csv").read_text()
    (_, row, _) = csv.DictReader(io.StringIO(text))
    assert (row["latency_margin_ms"], row["latency_source"]) == ("0.1", "measured")


def test_where_none_keeps_the_bound_surely_the_best_is_recommended(lab: Lab) -> None:
    made = Made(lab, budget=("2ms",))
    for k, loss in ((0, 3.0), (5, 2.0)):
        made.add(k, [4, 4, 4, loss], latency={"ms": 1.95, "margin_ms": 0.1, "source": "measured"})
    assert made.outcome.recommended().trial == 1
