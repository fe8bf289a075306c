"""What a short training is."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from sret_nas.data import load_data
from sret_nas.errors import ConfigError
from sret_nas.proxy import PRESETS, Proxy, choose
from sret_nas.zoo import PUBLISHED


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_yaml(name: str, tmp_path: Path):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PRESETS[name].model_dump(mode="json")))
    assert Proxy.load(path) == PRESETS[name] == Proxy.load(name)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_try_every_published_design_with_its_slices(name: str):
    data = load_data(image_size=PRESETS[name].image_size, subset=10, val_images=10)
    for arch in PUBLISHED.values():
        small = PRESETS[name].apply(arch, data)
        assert (small.in_chans, small.num_classes) == (1, 10)
        assert small.depth == arch.depth
        sliced = [[g > 1 for g in stage.groups] for stage in arch.stages]
        assert [[g > 1 for g in stage.groups] for stage in small.stages] == sliced


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (27, (7, 14, 27))]
)
def test_rungs_left_out_are_geometric(epochs: int, rungs: tuple[int, ...]):
    assert Proxy.load({"image_size": 32, "epochs": epochs}).rungs == rungs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rungs": [2, 1, 4]}, r"rungs: given \[2, 1, 4\]; allowed: ascending"),
        ({"rungs": [1, 2]}, "the last being epochs = 4"),
        ({"stem_stride": 3}, "stem stride|stem_stride"),
        ({"epochs": 0}, "epochs: given 0; allowed: at least 1"),
        ({"lr": float("nan")}, "lr: .*finite"),
        ({"epoch": 4}, "did you mean 'epochs'"),
        ({"subset": 1.5}, "subset"),
        ({"mixup": 2}, "mixup: given 2; allowed: at most 1"),
    ],
)
def test_impossible_proxies_are_refused(wrong: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Proxy.load({"image_size": 32, "epochs": 4} | wrong)


def test_file_errors_name_the_line(tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text("image_size: 32\nepochs: 4\nbatch: 1\n")
    with pytest.raises(ConfigError, match=r"p\.yaml:3: batch: given 1; allowed: at least 2"):
        Proxy.load(path)
    with pytest.raises(ConfigError, match="did you mean 'fast'"):
        Proxy.load("fats")


def test_auto_is_by_device_and_says_so():
    assert choose("auto", "cpu") == (PRESETS["fast"], "fast (auto: for a CPU)")
    assert choose("auto", "cuda:0") == (PRESETS["standard"], "standard (auto: for cuda:0)")
    assert choose("thorough", "cpu") == (PRESETS["thorough"], "thorough")


def test_work_of_a_search_by_hand():
    data = load_data(image_size=8, subset=4_000, val_images=300)
    proxy = PRESETS["fast"]
    per_epoch = 4_000 + 100
    assert proxy.images(2, data) == 2 * per_epoch
    # 20 candidates: all do one epoch, half a second one, a quarter two more;
    # then 3 members of the front twice again.
    epochs = 20 * 1 + 10 * 1 + 5 * 2 + 3 * 2 * 4
    assert proxy.search_images(20, data, kept=0.5, front=3) == epochs * per_epoch


def test_needs_no_torch():
    code = "import sys, sret_nas.proxy; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
