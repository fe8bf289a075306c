"""What an evaluator may declare, and what it means."""

from __future__ import annotations

from typing import Any

import pytest

from sret_nas.errors import ConfigError
from sret_nas.metrics import COSTS, Declaration, Metric, training

SCORE = Metric(name="score", title="score", unit="kg", format=".1f", direction="maximize")


@pytest.mark.parametrize(
    "name",
    ["macs", "loss_std", "confirmed_x", "curve", "metrics", "seconds", "id", "latency", "memory"],
)
def test_names_that_records_and_files_have_are_taken(name: str) -> None:
    if name in {cost.alias for cost in COSTS}:
        with pytest.raises(ConfigError, match="is taken"):
            Declaration(metrics=(Metric(name="score", title="x", alias=name),))
    with pytest.raises(ConfigError, match=r"metric 1 name: '.*' is (taken|made of another's)"):
        Declaration(metrics=(Metric(name=name, title="x"),))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ()}, "metrics"),
        ({"metrics": (SCORE, SCORE)}, "metric 2 name: 'score' is taken"),
        ({"tests": (SCORE,)}, "test 1 name: 'score' is taken"),
        ({"progress": (SCORE,)}, "progress 1 name: 'score' is taken"),
        ({"metrics": (COSTS[0],)}, "known"),
        ({"step": "round"}, "fidelities: none given with the step 'round'"),
        ({"fidelities": (1, 2)}, "step: none given with fidelities"),
        ({"step": "round", "fidelities": (2, 1)}, "fidelities: given [2, 1]; allowed: ascending"),
        ({"step": "round", "fidelities": (0, 1)}, "fidelity 1: given 0; allowed: at least 1"),
        ({"step": "seconds", "fidelities": (1,)}, "step: given 'seconds'; allowed: another word"),
        ({"step": "a b", "fidelities": (1,)}, "step: given 'a b'"),
        ({"seeds": 0}, "seeds: given 0; allowed: at least 1"),
    ],
)
def test_what_cannot_be_declared_is_said_in_a_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Declaration(**({"metrics": (SCORE,)} | given))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "Bad-Name"}, "name: given 'Bad-Name'; allowed: small letters"),
        ({"title": ""}, "title"),
        ({"format": "zz"}, "format: given 'zz'"),
        ({"direction": "up"}, "direction: given 'up'; allowed: 'minimize' or 'maximize'"),
    ],
)
def test_a_metric_that_cannot_be_is_said_in_a_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Metric(**({"name": "score", "title": "score"} | given))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_values_have_their_form_and_their_unit() -> None:
    assert SCORE.show(2.0) == SCORE.below_heading(2.0) == SCORE.beside_name(2.0) == "2.0 kg"
    assert SCORE.label == "score (kg)" and SCORE.heading == "score"
    assert SCORE.loss(2.0) == -2.0


@pytest.mark.parametrize("rungs", [(4,), (1, 4), (1, 2, 4)])
def test_work_is_counted_in_evaluations_to_the_end(rungs: tuple[int, ...]) -> None:
    shares = [1.0, 0.5, 0.25]
    steps = sum(
        8 * share * (rung - before)
        for share, rung, before in zip(shares, rungs, (0, *rungs), strict=False)
    )
    assert training(rungs, seeds=3).evaluations(8, front=2) == steps / 4 + 4
    assert Declaration(metrics=(SCORE,)).evaluations(8, front=2) == 8
