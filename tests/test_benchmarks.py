"""The table of trained architectures holds what it says, and the scripts around it start."""

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy.stats import kendalltau

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.proxy import PRESETS, Proxy
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


@pytest.fixture
def script(monkeypatch):
    """Run a script as its own program would be, in this process: torch is loaded once."""

    def call(name, *arguments):
        file = str(BENCHMARKS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [file, *map(str, arguments)])
        monkeypatch.syspath_prepend(BENCHMARKS)
        runpy.run_path(file, run_name="__main__")

    before, verbosity = set(sys.modules), optuna.logging.get_verbosity()
    yield call
    optuna.logging.set_verbosity(verbosity)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


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


@pytest.mark.parametrize(
    "name",
    [
        "table",
        "search",
        "fidelity",
        "proxy_table",
        "proxies",
        "scale",
        "operations",
        "listing",
        "recommendation",
    ],
)
def test_scripts_explain_themselves(name, script, capsys):
    with pytest.raises(SystemExit) as end:
        script(name, "--help")
    assert not end.value.code
    assert "usage:" in capsys.readouterr().out


@pytest.fixture(scope="module")
def proxies():
    return json.loads((BENCHMARKS / "tables" / "proxies-fashion.json").read_text())


def test_the_reference_of_the_proxies_is_longer_and_has_seeds_of_its_own(proxies):
    plans = proxies["made"]["plans"]
    reference, default = plans["reference"], plans["fast"]
    assert reference["proxy"]["epochs"] * reference["train"] >= 4 * (
        default["proxy"]["epochs"] * default["train"]
    )
    shared = [name for name, plan in plans.items() if set(plan["seeds"]) & {1, 2}]
    assert shared == ["reference"]
    assert {plan["val"] for plan in plans.values()} <= {reference["val"], reference["val"] // 2}


def test_proxies_were_tried_on_enough_architectures(proxies):
    rows = proxies["architectures"]
    assert len({row["id"] for row in rows}) == len(rows) >= 60
    assert all("1" in row["trainings"]["reference"] for row in rows)
    assert sum("2" in row["trainings"]["reference"] for row in rows) * 3 >= len(rows)
    for row in rows:
        arch = Architecture.load(row["architecture"])
        assert (arch.id, cost(arch).macs) == (row["id"], row["macs"])
        for plan, curves in row["trainings"].items():
            for curve in curves.values():
                epochs = proxies["made"]["plans"][plan]["proxy"]["epochs"]
                assert {len(column) for column in curve.values()} == {epochs}


def test_what_is_said_of_proxies_comes_from_the_table(script, tmp_path):
    script("proxies", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    kept = json.loads((BENCHMARKS / "results" / "proxies-cpu.json").read_text())
    assert [row["by"] for row in found["orders"]] == [row["by"] for row in kept["orders"]]
    for now, then in zip(found["orders"], kept["orders"], strict=True):
        for pairs in ("all", "similar_cost"):
            assert now[pairs] == pytest.approx(then[pairs], abs=1e-9)
            assert now["minus_fast"][pairs] == pytest.approx(then["minus_fast"][pairs], abs=1e-9)


def test_kendall_is_that_of_scipy_and_leaves_out_what_is_unknown(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    kendall = importlib.import_module("kendall")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40).astype(float)
    x[:5] = np.nan
    pairs = kendall.Pairs(kendall.by_cost([1_000] * 20 + [2_000] * 20))
    assert pairs.tau(x, y)["all"].value == pytest.approx(kendalltau(x[5:], y[5:]).statistic)
    near = kendall.Pairs(kendall.by_cost([1_000] * 20 + [9_000] * 20)).tau(x, y)["similar_cost"]
    together = [
        (np.sign(x[i] - x[j]), np.sign(y[i] - y[j]))
        for i in range(5, 40)
        for j in range(5, 40)
        if (i < 20) == (j < 20)
    ]
    a, b = np.array(together).T
    assert near.value == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert near.to_dict()["low"] < near.value < near.to_dict()["high"]


def scale(*arguments):  # in a process of its own: its workers are its children
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "scale.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_asks_are_timed_beside_plain_optuna(script, capsys, tmp_path):
    out = tmp_path / "ask.json"
    options = ("--samplers", "random", "--sizes", 30, "--rounds", 2, "--out", out)
    script("scale", "ask", *options)
    said = capsys.readouterr().out
    rows = json.loads(out.read_text())["asks"]
    assert [(row["storage"], row["arm"]) for row in rows] == [
        (storage, arm) for storage in ("memory", "sqlite") for arm in ("ask", "plain", "turn")
    ]
    assert all(0 < row["least_s"] <= row["median_s"] <= row["most_s"] for row in rows)
    assert said.count("random") == 6


def test_throughput_counts_every_training_once_and_goes_on(tmp_path):
    out = tmp_path / "throughput.json"
    options = ("--storages", "sqlite", "--seconds", 0.6, "--rounds", 2, "--out", out)
    scale("throughput", *options, "--workers", 1)
    scale("throughput", *options, "--workers", 1, 2, "--resume")
    first, second = json.loads(out.read_text())["throughput"]
    assert (first["trials"], second["trials"]) == (2, 4)
    for row in (first, second):
        assert 0 < row["efficiency"] < 1 and row["cpu_s_a_trial"]["worker"] > 0
        assert row["trials_per_s"] < row["workers"] / 0.6


def test_the_page_on_scale_says_what_was_measured(script, capsys):
    page = (BENCHMARKS.parent / "docs" / "scale.md").read_text()
    script("scale", "tables")
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in page


def test_an_epoch_is_compared_with_that_of_another_commit(tmp_path):
    known = subprocess.run(["git", "rev-parse", "HEAD"], cwd=BENCHMARKS, capture_output=True)
    if known.returncode:
        pytest.skip("no git checkout")
    out = tmp_path / "fast.json"
    size = ("--rounds", 6, "--images", 64, "--val-images", 10, "--out", out)
    command = [sys.executable, BENCHMARKS / "fast_proxy.py", "--against", "HEAD", *size]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    (row,) = document["rows"]
    assert row["low"] <= row["ratio"] <= row["high"] and len(row["ratios"]) == 6
    assert min(row["ratios"]) > 0 and row["now_images_per_s"] > 0
    assert document["device"]["device"] == "cpu" and document["commit"]
    assert "goal 1.3" in done.stdout
    command[3] = "nothing"
    refused = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert refused.returncode == 1
    assert "\nerror: --against nothing" in "\n" + refused.stderr


def test_a_training_step_is_few_operations(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    operations = importlib.import_module("operations")
    counts = operations.count_step(Architecture.load("sret_t"), PRESETS["standard"])
    assert counts.total() <= 1300, counts


def test_the_recommendation_is_simulated_on_searches_whose_truth_is_known(script, tmp_path):
    out = tmp_path / "found.json"
    script("recommendation", "--searches", 4, "--out", out)
    worlds = json.loads(out.read_text())["worlds"]
    assert len({(one["slope"], one["scatter"], one["seeds"]) for one in worlds}) == len(worlds)
    for one in worlds:
        assert one["best"]["cheaper"] == 0 <= one["rule"]["cheaper"]
        assert one["rule"]["cheaper"] <= one["significance alone"]["cheaper"]
        assert one["rule"]["stated"] >= 0.5 or one["rule"]["cheaper"] < 1
