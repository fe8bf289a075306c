"""What the members of a front reached in full training, in the run's page."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sret_nas import report
from sret_nas.deploy.transfer import TRANSFER, TrainedMember, Transfer
from sret_nas.report.commands import line, take_away
from sret_nas.report.transferred import transferred, verdict
from sret_nas.runner import Order


def members(losses: list[float], half: float = 0.01) -> tuple[TrainedMember, ...]:
    return tuple(
        TrainedMember(
            trial=i, model=f"models/run-{i}", beside=f"../models/run-{i}", proxy=1.0 + i,
            params=1000 * (9 - i), macs=10**6 * (9 - i), top1=1 / (1 + loss),
            top1_low=1 / (1 + loss) - half, top1_high=1 / (1 + loss) + half, loss=loss,
        )
        for i, loss in enumerate(losses)
    )  # fmt: skip


def order(tau: float, count: int, by: str = "val_loss") -> Order:
    return Order(by, tau, tau - 0.1, tau + 0.1, count)


@pytest.mark.parametrize(
    ("tau", "count", "share"), [(1, 3, 1 / 6), (1 / 3, 3, 1 / 2), (1, 4, 1 / 24), (-1, 4, 1)]
)
def test_luck_is_the_share_of_all_orders(tau: float, count: int, share: float) -> None:
    """By hand: one of 3! orders agrees fully, two more have one pair wrong."""
    assert order(tau, count).chance == pytest.approx(share)


@pytest.mark.parametrize(
    ("orders", "count", "said"),
    [
        ([], 2, ["2 members have no order to speak of; from 3 on"]),
        ([1.0, -1, -1], 3, ["3 members are too few to tell: ", "by luck in 17% of cases"]),
        ([0.1, -1, -1], 10, ["The agreement may be luck: "]),
        ([1.0, 0.5, 1.0], 6, ["much as full training did: ", "0% of cases", "By more MACs alone"]),
        ([-0.2, -1, -0.1], 4, ["The search did not order them", "and 4 are few."]),
        ([-0.2, -1, 0.1], 8, ["as full training did. By more MACs alone"]),
        ([0.5, 0.6, 0.5], 8, ["By more parameters or more MACs alone they are ordered as well"]),
    ],
)
def test_the_verdict_is_no_more_than_the_numbers_say(
    orders: list[float], count: int, said: list[str]
) -> None:
    found = [
        order(tau, count, by)
        for tau, by in zip(orders, ("val_loss", "params", "macs"), strict=False)
    ]
    told = " ".join(verdict(members([0.1 * (i + 1) for i in range(count)]), found))
    for words in said:
        assert words in told
    assert ("By more" in told) == any("By more" in words for words in said)


def test_accuracies_that_are_not_told_apart_are_said() -> None:
    told = verdict(members([0.1, 0.11, 0.9]), [order(1.0, 3)])
    assert "In 1 of 3 pairs the intervals of the trained accuracy overlap" in told[-1]
    assert len(verdict(members([0.1, 0.5, 0.9]), [order(1.0, 3)])) == len(told) - 1


def test_the_page_shows_the_trained_members_best_first(runs: Any) -> None:
    made = runs.outcome(8)
    text = report.page(made)
    assert 'id="transfer"' not in text
    assert f"sret-nas train {made.run.path} --top 3 --data demo" in text
    orders = tuple(order(1 / 3, 3, by) for by in ("val_loss", "params", "macs"))
    transfer = Transfer(
        proxy="val_loss", data="<i>images</i>", members=members([0.5, 0.3, 0.9]), orders=orders
    )
    transfer.save(made.run.path)
    assert Transfer.load(made.run.path) == transfer
    text = report.page(made)
    section = text[text.index('id="transfer"') : text.index("What was done")]
    assert re.findall(r'<td data-name="trial">(\d)', section) == ["1", "0", "2"]
    assert '<a href="../models/run-1/report.html">models/run-1</a>' in section
    assert "<td>0.33</td><td>0.23 to 0.43</td><td>50 %</td>" in section
    assert "more parameters (baseline)" in section and "validation loss in the search" in section
    assert "trained in full on &lt;i&gt;images" in section
    assert "3 members are too few to tell" in section


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "proxy": "x"}'])
def test_a_broken_file_leaves_the_page_whole(runs: Any, text: str) -> None:
    made = runs.outcome(8)
    (made.run.path / TRANSFER).write_text(text)
    found = transferred(made)
    assert found is not None
    assert TRANSFER in found["problem"] and "\n" not in found["problem"]
    page = report.page(made)
    assert "What was measured cannot be read" in page and "--top 3 --data demo" in page


def test_a_member_of_a_table_that_went_is_no_trouble(runs: Any) -> None:
    """An evaluator of one's own may be called otherwise by now: its values stay."""
    made = runs.outcome(8)
    transfer = Transfer(proxy="old_score", data="demo", members=members([0.5, 0.3]))
    (made.run.path / TRANSFER).write_text(json.dumps(transfer.model_dump(by_alias=True)))
    text = report.page(made)
    assert "old_score in the search" in text and "2 members have no order" in text


def test_commands_are_what_a_shell_takes(runs: Any) -> None:
    import shlex

    words = ["sret-nas", "train", "runs/a b#2", "--data", "it's", "--out", "models/a b-2"]
    assert shlex.split(line(words)) == words
    assert line(["runs/demo#2"]) == "runs/demo#2"
    made = runs.outcome(3)
    made.config.data["source"] = "my images"
    train, evaluate, export = take_away(made, 2)
    assert train.endswith("#2 --data 'my images' --out models/run-2")
    assert evaluate == "sret-nas evaluate models/run-2 --data 'my images'"
    assert export.startswith("sret-nas export models/run-2 --to onnx --int8")
