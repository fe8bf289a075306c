"""Images to evaluate on: those of a training's validation, and none that it saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sret_nas.data import DataError, Stream, choose_images, load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images of two classes, and three test images of each; one is broken."""
    for part, number in (("train", 20), ("test", 3)):
        for label in "ab":
            for i in range(number):
                path = tmp_path / part / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 9), (i, 0, 9 * (label == "a"))).save(path)
    return tmp_path


def names(chosen: tuple[Stream, ...]) -> list[str]:
    return [one.items.name(int(at)) for one in chosen for at in one.indices]


@pytest.mark.parametrize(
    "options", [{}, {"seed": 3}, {"val_images": 5, "subset": 7}, {"val_fraction": 0.5}]
)
def test_validation_is_that_of_a_training(options: dict[str, int], folder: Path) -> None:
    data = load_data(folder, image_size=8, **options)
    chosen = choose_images(folder, "val", image_size=8, **options)
    (split,) = chosen.splits
    assert np.array_equal(split.indices, data.val.indices)
    assert chosen.fingerprint == data.fingerprint
    assert chosen.classes == data.classes


def test_test_images_unless_there_are_none(folder: Path) -> None:
    chosen = choose_images(folder, image_size=8)
    assert (chosen.which, len(chosen)) == ("test", 6)
    assert all("/test/" in name for name in names(chosen.splits))
    alone = choose_images(folder / "train", image_size=8)
    assert (alone.which, len(alone)) == ("val", 8)
    assert any("no test images" in said for said in alone.notes)
    with pytest.raises(DataError, match="no test images"):
        choose_images(folder / "train", "test", image_size=8)


def test_all_is_every_image_once(folder: Path) -> None:
    chosen = choose_images(folder, "all", image_size=8)
    assert len(chosen) == 46 == len(set(names(chosen.splits)))
    assert len(choose_images(folder / "test", "all", image_size=8)) == 6


def test_all_with_validation_of_its_own(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    chosen = choose_images(folder, "all", image_size=8)
    assert len(chosen) == 46 == len(set(names(chosen.splits)))
    assert len(choose_images(folder, "val", image_size=8)) == 6


def test_another_word_is_refused() -> None:
    with pytest.raises(DataError, match="given 'tset'; allowed: test, val, all"):
        choose_images("demo", "tset", image_size=8)
