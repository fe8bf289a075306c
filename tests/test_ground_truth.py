"""The table of really trained architectures: what is in it, how it grows, how it is judged."""

from __future__ import annotations

import importlib
import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.recipe import FullRecipe
from sret_nas.space import SearchSpace

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHORT = FullRecipe.load({"epochs": 2, "batch": 16, "drop_path": 0.0})


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The scripts by name, loaded for one test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def truth(scripts: Any) -> ModuleType:
    module: ModuleType = scripts("ground_truth")
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise around a colour each, 8 px."""
    place = tmp_path_factory.mktemp("data") / "noise"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for number, name in enumerate("abc"):
            folder = place / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 128, (8, 8, 3)).astype(np.uint8)
                noise[..., number] += 100
                Image.fromarray(noise).save(folder / f"{i}.png")
    return place


def test_the_architectures_of_a_band_cost_alike_and_are_of_the_space(truth: ModuleType) -> None:
    space = SearchSpace.load("sret").fitted(num_classes=10, in_chans=3)
    centre = cost(Architecture.load("sret_t").at(num_classes=10))
    for band, times in truth.BANDS.items():
        assert len({arch.id for arch in truth.chosen()[band]}) == truth.IN_BAND
        for arch in truth.chosen()[band]:
            found = cost(arch)
            assert 1 / 1.07 <= found.macs / (centre.macs * times) <= 1.07
            assert 1 / 1.1 <= found.params / (centre.params * times) <= 1.1
            assert arch in space
    sizes = [cost(arch).macs for arch in truth.chosen()[truth.SPREAD]]
    assert len(set(sizes)) == truth.OF_ALL_SIZES
    assert max(sizes) / min(sizes) > 10


def test_plans_share_no_seed_with_a_truth_and_are_cheap(truth: ModuleType) -> None:
    def work(plan: Any, arch: Architecture) -> float:
        return float(plan.recipe.epochs * (plan.images or 10_000) * cost(plan.arch(arch)).macs)

    arch = truth.chosen()["once"][0]
    for name, plan in truth.PLANS.items():
        if name in truth.TRUTHS:
            assert plan.seeds == (1, 2)
            continue
        assert not {1, 2} & set(plan.seeds)
        assert work(plan, arch) < work(truth.PLANS["truth"], arch) / 4


def planted(truth: ModuleType, path: Path, seed: int, between: float, luck: float) -> Any:
    """A table of which every training is drawn: quality of the architecture, and luck."""
    rng = np.random.default_rng(seed)
    table = truth.Table(path)
    table.made["machines"] = [{"name": "none"}]
    for row in table.rows.values():
        quality = 1 + between * rng.normal()
        for name, plan in truth.PLANS.items():
            for one in plan.seeds:
                losses = [quality + luck * rng.normal() for _ in range(plan.recipe.epochs)]
                row.trainings.setdefault(name, {})[one] = {
                    "train_loss": losses,
                    "val_loss": losses,
                    "val_accuracy": [1 - loss / 10 for loss in losses],
                    "seconds": float(plan.recipe.epochs),
                    "machine": 0,
                }
    return table


def test_a_table_is_read_as_it_was_written_and_names_what_is_missing(
    truth: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    empty = truth.Table(path)
    todo = [(plan, seed, row.architecture.id) for plan, seed, row in empty.missing()]
    assert len(todo) == len(set(todo))
    first = truth.chosen()["once"]
    assert todo[: len(first)] == [("truth", 1, arch.id) for arch in first]
    assert todo[len(first) :][: len(first) // 2] == [("truth", 2, arch.id) for arch in first[::2]]

    full = planted(truth, path, 0, 0.1, 0.1)
    for plan, seed, arch in todo[5:]:
        del full.rows[arch].trainings[plan][seed]
    full.save()
    again = truth.Table(path)
    assert [(p, s, r.architecture.id) for p, s, r in again.missing()] == todo[5:]
    assert [row.to_dict() for row in again.rows.values()] == [
        row.to_dict() for row in full.rows.values()
    ]


def test_a_table_that_was_made_otherwise_is_not_gone_on_with(
    truth: ModuleType, tmp_path: Path
) -> None:
    table = truth.Table(tmp_path / "table.json").made_as({"data": "these"})
    table.save()
    assert truth.Table(table.path).made_as({"data": "these"}).made["machines"] == []
    with pytest.raises(SystemExit, match="made otherwise"):
        truth.Table(table.path).made_as({"data": "others"})


def test_sittings_train_what_is_missing_and_share_the_work(
    truth: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = {"width": 0.25, "image_size": 8, "stem_stride": 2}
    plans = {
        "truth": truth.Plan(SHORT, seeds=(1, 2), **scale),
        "cheap": truth.Plan(SHORT, images=20, val=12, **scale),
        "truth, distilled": truth.Plan(SHORT, distilled=True, seeds=(1, 2), **scale),
    }
    small = {
        name: tuple(arch.at(num_classes=3) for arch in truth.chosen()["half"][k : k + 2])
        for k, name in ((0, "half"), (2, truth.SPREAD))
    }
    monkeypatch.setattr(truth, "PLANS", plans)
    monkeypatch.setattr(truth, "BANDS", {"half": 0.5})
    monkeypatch.setattr(truth, "chosen", lambda: small)
    monkeypatch.setattr(truth, "TEACHER", "test_resnet")
    monkeypatch.setattr(truth, "TEACHER_RECIPE", {"epochs": 1, "batch": 16, "image_size": 8})
    path = tmp_path / "table.json"

    def sit(*more: str) -> list[tuple[str, int, str]]:
        arguments = ["ground_truth", "--data", str(images), "--out", str(path), *more]
        teacher = ["--teacher", str(tmp_path / "teacher")]
        monkeypatch.setattr(sys, "argv", [*arguments, *teacher])
        truth.main()
        table = truth.Table(path)
        return [(p, s, r.architecture.id) for p, s, r in table.missing()]

    every = [(p, s, r.architecture.id) for p, s, r in truth.Table(path).missing()]
    assert len(every) == 2 * (3 + 2 + 3)
    assert sit("--plans", "truth", "--share", "1/2") == [
        one for one in every if one not in [o for o in every if o[0] == "truth"][::2]
    ]
    assert sit("--plans", "truth", "cheap") == [one for one in every if "distilled" in one[0]]
    assert sit() == []
    table = truth.Table(path)
    assert len(table.made["machines"]) == 1
    row = table.rows[small["half"][0].id]
    assert sorted(row.trainings["truth"]) == [1, 2]
    for one in (row.trainings["truth"][1], row.trainings["truth, distilled"][1]):
        assert len(one["val_loss"]) == 2
        assert all(0 < loss < 5 for loss in one["val_loss"])
        assert one["seconds"] > 0
    assert row.trainings["truth"][1]["val_loss"] != row.trainings["truth"][2]["val_loss"]


def test_signal_and_noise_are_found_where_they_were_planted(
    scripts: Any, truth: ModuleType, tmp_path: Path
) -> None:
    ranking = scripts("ranking")
    found = []
    for seed in range(40):
        table = planted(truth, tmp_path / "none.json", seed, 0.2, 0.1)
        rows = [row for row in table.rows.values() if row.band == "once"]
        found.append(ranking.noise(rows, "truth"))
    between = np.mean([one["std_between_architectures"] ** 2 for one in found])
    seeds = np.mean([one["std_between_seeds"] ** 2 for one in found])
    assert math.sqrt(between) == pytest.approx(0.2, rel=0.15)
    assert math.sqrt(seeds) == pytest.approx(0.1, rel=0.15)


def test_scores_are_judged_within_bands_alone(
    scripts: Any, truth: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scripts("ranking")
    table = planted(truth, tmp_path / "table.json", 0, 0.2, 0.02)
    shift = dict(zip(truth.BANDS, (0, 100, -100), strict=True))
    for row in table.rows.values():  # bands differ by far, and one cheap plan sees that alone
        for name, seeds in row.trainings.items():
            for one in seeds.values():
                off = shift.get(row.band, 0)
                luck = np.random.default_rng(row.architecture.stages[0].heads).normal()
                one["val_loss"] = [
                    off + (luck if name == "width .25" else loss) for loss in one["val_loss"]
                ]
    table.save()
    out = tmp_path / "ranking.json"
    monkeypatch.setattr(
        sys, "argv", ["ranking", "--table", str(table.path), "--out", str(out)]
    )  # fmt: skip
    scripts("ranking").main()
    document = json.loads(out.read_text())
    scores = {one["by"]: one for one in document["truth"]["scores"]}
    assert scores["fast"]["within"]["tau"] > 0.7
    assert abs(scores["width .25"]["within"]["tau"]) < 0.4
    assert scores["fast"]["minus_params"]["low"] > 0
    assert document["truth"]["ceiling"]["within"]["tau"] > 0.7
    shown = capsys.readouterr().out
    assert "a second seed" in shown
    assert "not enough" not in shown


def test_published_tables_are_read_from_where_they_lie(scripts: Any, tmp_path: Path) -> None:
    tables = scripts("published_tables")
    rng = np.random.default_rng(0)
    names = [f"{data}_{form}_acc" for data in tables.SETS for form in tables.FORMS]
    pit, former = [], []
    for k in range(12):
        accuracy = {name: float(50 + k + 0.01 * rng.normal()) for name in names}
        arch = {"base_dim": 16 + k, "mlp_ratio": 4, "depth": [2, 6, 4], "num_heads": [2, 4, 8]}
        pit.append({"arch": arch, **accuracy})
        depth = 12 + k % 3
        arch = {"hidden_dim": 192, "mlp_ratio": [4.0] * depth, "depth": depth,
                "num_heads": [3] * depth}  # fmt: skip
        former.append({"arch": arch, **accuracy})
    torch.save(pit, tmp_path / "gt_pit.pth")
    torch.save(former, tmp_path / "gt_autoformer.pth")
    found = {
        (one["family"], one["data"], one["form"], one["by"]): one["all"]["tau"]
        for one in scripts("ranking").published(tmp_path)
    }
    assert found["PiT", "CIFAR-100", "plain", "more parameters"] > 0.95
    assert found["PiT", "Flowers", "distilled", "plain"] > 0.95
    assert len(found) == 2 * 3 * 2 * 4
    (family,) = [one for one in tables.read(tmp_path) if one.name == "AutoFormer"]
    assert family.params[0] == pytest.approx(5.6e6, rel=0.05)  # DeiT-Ti, 100 classes


def test_the_benchmark_of_trained_models_runs_all_its_arms(
    scripts: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts("take_away")
    small = Architecture.load("sret_t").at(image_size=8, stem_stride=2, width=0.25, num_classes=3)
    monkeypatch.setattr(script, "architecture", lambda share=1.0: small)
    monkeypatch.setattr(script, "TEACHER", "test_resnet")
    monkeypatch.setattr(script, "RECIPE", script.RECIPE | {"batch": 16, "image_size": 8})
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path / "cache"))
    args = Namespace(data=images, minutes=1e-6, threads=1, rounds=1, seed=0, no_export=True)
    document = script.measure(args, tmp_path)
    rows = {row["arm"]: row for row in document["rows"]}
    assert list(rows) == ["timm", "alone", "distilled", "relative", "grown"]
    assert rows["grown"]["said"]
    assert all(
        0 <= row["test_low"] <= row["test_top1"] <= row["test_high"] for row in rows.values()
    )
    assert len(script.table(document).splitlines()) == 2 + len(rows)


def test_what_is_said_of_scores_comes_from_the_table(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads((BENCHMARKS / "results" / "ranking-cpu.json").read_text())
    out = tmp_path / "ranking.json"
    monkeypatch.setattr(sys, "argv", ["ranking", "--out", str(out)])
    scripts("ranking").main()
    found = json.loads(out.read_text())
    assert found["truth"]["bands"] == kept["truth"]["bands"]
    assert [one["by"] for one in found["truth"]["scores"]] == [
        one["by"] for one in kept["truth"]["scores"]
    ]
    for now, then in zip(found["truth"]["scores"], kept["truth"]["scores"], strict=True):
        assert now["within"] == pytest.approx(then["within"], abs=1e-9)
