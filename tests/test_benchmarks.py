"""The table of trained architectures holds what it says, and the scripts around it start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.proxy import Proxy
from sret_nas.space import SearchSpace

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TABLE = BENCHMARKS / "tables" / "smoke-fashion.json"
CURVE = {"train_loss", "val_loss", "val_accuracy", "seconds", "images"}


@pytest.fixture(scope="module")
def table():
    return json.loads(TABLE.read_text())


@pytest.fixture(scope="module")
def space():
    return SearchSpace.load(BENCHMARKS / "tables" / "space.yaml")


def test_every_architecture_of_the_space_is_there_once(table, space):
    codes = space.coding.all_codes(0, space.size)
    ids = [row["id"] for row in table["architectures"]]
    assert len(ids) == len(set(ids)) >= 60
    assert set(ids) == {arch.id for arch in space.decode_many(codes)}


def test_ids_and_costs_are_those_of_the_architectures(table):
    for row in table["architectures"]:
        arch = Architecture.load(row["architecture"])
        assert arch.id == row["id"]
        assert (cost(arch).macs, cost(arch).params) == (row["macs"], row["params"])


def test_costs_span_a_decade(table):
    macs = [row["macs"] for row in table["architectures"]]
    assert max(macs) >= 10 * min(macs)


def test_curves_are_complete(table):
    proxy = Proxy.load(table["made"]["proxy"])
    for row in table["architectures"]:
        assert "0" in row["curves"]
        for curve in row["curves"].values():
            assert set(curve) == CURVE
            assert {len(column) for column in curve.values()} == {proxy.epochs}
            assert all(0 <= accuracy <= 1 for accuracy in curve["val_accuracy"])
            assert all(loss > 0 for loss in curve["val_loss"])
        assert row["work_macs"] == sum(row["curves"]["0"]["images"]) * row["macs"]
        assert row["images_per_second"]


def test_a_third_has_a_second_seed_that_differs(table):
    twice = [row["curves"] for row in table["architectures"] if "1" in row["curves"]]
    assert len(twice) * 3 >= len(table["architectures"])
    assert all(curves["0"]["val_loss"] != curves["1"]["val_loss"] for curves in twice)


def test_how_it_was_made_is_told(table):
    made = table["made"]
    assert {"space", "proxy", "data", "seeds", "device", "versions", "seconds", "speed"} <= set(
        made
    )
    assert made["data"]["fingerprint"]


@pytest.mark.parametrize("name", ["table", "search", "fidelity"])
def test_scripts_explain_themselves(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
