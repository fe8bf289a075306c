"""Batches of whole images: timm's transforms, each from a seed of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from sret_nas.data import DataError, DataSet, Views, load_data
from sret_nas.recipe import FullRecipe
from sret_nas.training.pictures import PictureFeed, drawing_from, transform
from sret_nas.training.policies import posterise

CPU = torch.device("cpu")
BASE: dict[str, Any] = {"epochs": 1, "batch": 8, "scale": [0.5, 1.0]}


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(image_size=16, subset=32, val_images=10)


def feed(data: DataSet, changes: dict[str, Any] | None = None, **options: Any) -> PictureFeed:
    return PictureFeed(data, FullRecipe.load({**BASE, **(changes or {})}), CPU, 5, **options)


def epoch(made: PictureFeed, number: int = 1, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    at = torch.zeros(1, dtype=torch.long)
    return [
        tuple(one.clone() for one in made.read(at))  # type: ignore[misc]
        for _ in made.epoch(number, start)
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_a_view_is_timms_drawn_from_its_place(data: DataSet) -> None:
    recipe = {"auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.5, "jitter": 0.3}
    made = feed(data, recipe)
    transform = create_transform(
        (1, 16, 16), is_training=True, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5,
        color_jitter=0.3, auto_augment="rand-m9-mstd0.5-inc1", interpolation="random",
        mean=data.mean, std=data.std, re_prob=0.5, re_mode="pixel",
    )  # fmt: skip
    views = Views(data.train, transform)
    order = made.order(2)
    for step, (x_BCSS, _) in enumerate(epoch(made, 2)):
        for i, x in enumerate(x_BCSS):
            with drawing_from(5, 2, step * 8 + i):
                assert torch.equal(x, views[int(order[step, i])][0])


def test_views_do_not_hang_on_the_workers_nor_on_where_an_epoch_is_gone_on_with(
    data: DataSet,
) -> None:
    changes = {"auto_augment": "rand-m9-mstd0.5-inc1", "cutmix": 1.0}
    expected = epoch(feed(data, changes))
    assert same(epoch(feed(data, changes, workers=2)), expected)
    assert same(epoch(feed(data, changes), start=3), expected[3:])
    assert not same(epoch(feed(data, changes), 2), expected)


def test_the_global_generators_are_left_alone(data: DataSet) -> None:
    made = feed(data, {"auto_augment": "rand-m9-mstd0.5-inc1", "cutmix": 1.0})

    def states() -> list[Any]:
        return [
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(),
        ]

    before = states()
    epoch(made)
    assert states() == before


def test_repeats_are_views_of_fewer_images(data: DataSet) -> None:
    whole, repeated = feed(data), feed(data, {"repeats": 4})
    assert sorted(whole.order(1).flatten().tolist()) == list(range(32))
    order = repeated.order(1).flatten().tolist()
    assert len(order) == 32 and len(set(order)) == 8
    assert all(order.count(at) == 4 for at in order)


def test_targets_are_those_of_the_labels_smoothed_and_blended(data: DataSet) -> None:
    for changes in ({"label_smoothing": 0.0}, {"label_smoothing": 0.2}):
        made = feed(data, changes)
        for (_, weights_BK), row in zip(epoch(made), made.order(1), strict=True):
            smoothing = changes["label_smoothing"]
            labels = torch.nn.functional.one_hot(data.train.labels[row], 10)
            torch.testing.assert_close(-8 * weights_BK, labels * (1 - smoothing) + smoothing / 10)
    blended = feed(data, {"cutmix": 1.0, "label_smoothing": 0.0})
    for _, weights_BK in epoch(blended):
        torch.testing.assert_close(-8 * weights_BK.sum(1), torch.ones(8))
        assert (weights_BK != 0).sum(1).max() == 2


def test_processes_share_a_batch(data: DataSet) -> None:
    alone = epoch(feed(data))
    parts = [epoch(feed(data, share=(rank, 2))) for rank in range(2)]
    for (whole, _), (first, _), (second, _) in zip(alone, *parts, strict=True):
        assert torch.equal(whole[0::2], first) and torch.equal(whole[1::2], second)


def test_pairs_are_blended_so_a_batch_is_even(data: DataSet) -> None:
    assert feed(data, {"batch": 7}).batch == 7
    assert feed(data, {"batch": 7, "mixup": 0.5}).batch == 6


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "rand-m0", "v0", "augmix-m10-mstd0"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_no_policy_fails_where_it_posterises_to_nothing(
    data: DataSet, policy: str, mode: str
) -> None:
    """Pillow 13 refuses what the published recipe asks for once in six hundred images."""
    chans = {"L": 1, "RGB": 3}[mode]
    some = replace(data, in_chans=chans, mean=data.mean[:1] * chans, std=data.std[:1] * chans)
    made = transform(some, FullRecipe.load({**BASE, "auto_augment": policy}))
    image = Image.new(mode, (16, 16), 255 if mode == "L" else (255, 9, 77))
    with drawing_from(1):
        for _ in range(300):
            made(image)


def test_a_posterised_image_keeps_its_highest_bits() -> None:
    image = Image.new("L", (1, 1), 0b1011_0111)
    found = {bits: posterise(image, bits).getpixel((0, 0)) for bits in (-1, 0, 1, 3, 8)}
    assert found == {-1: 0, 0: 0, 1: 0b1000_0000, 3: 0b1010_0000, 8: 0b1011_0111}


def test_an_image_that_is_gone_is_named_without_the_workers_traceback(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(6):
            Image.new("RGB", (8, 8), 20 * i).save(tmp_path / label / f"{i}.png")
    made = feed(load_data(tmp_path, image_size=8), {"batch": 4}, workers=1)
    for path in tmp_path.glob("b/*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"b/\d\.png") as caught:
        epoch(made)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert "the same command goes on" in str(caught.value.hint)
