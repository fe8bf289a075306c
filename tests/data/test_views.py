"""Whole images, one by one, through a transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from sret_nas.data import DataError, Stream, Views, load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of coloured JPEG and PNG files, 40 × 24 px, one of them turned by its camera."""
    random = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(30):
            image = Image.fromarray(random.integers(0, 255, (24, 40, 3), np.uint8))
            image.save(tmp_path / label / f"{i}.png")
    turned = Image.fromarray(np.zeros((24, 40, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a" / "turned.jpg", exif=exif)
    return tmp_path


def test_a_view_is_the_whole_image_in_the_order_of_the_split(folder: Path) -> None:
    data = load_data(folder, image_size=8)
    views = Views(data.train, pil_to_tensor)
    assert len(views) == len(data.train)
    for at in range(len(views)):
        image, label = views[at]
        assert image.shape in ((3, 24, 40), (3, 40, 24))
        assert label == data.train.labels[at]


def test_the_orientation_of_the_camera_is_applied(folder: Path) -> None:
    data = load_data(folder, image_size=8, val_images=2)
    items = data.train.items
    assert items is not None
    (turned,) = [i for i in range(len(items)) if items.name(i).endswith("turned.jpg")]
    assert items.picture(turned).size == (24, 40)


def test_arrays_are_pictures_too() -> None:
    data = load_data("demo", image_size=28, subset=20)
    image, label = Views(data.train, pil_to_tensor)[3]
    assert image.equal(data.train.images[3])
    assert label == data.train.labels[3]


def test_an_image_that_cannot_be_decoded_is_left_out_or_named(folder: Path) -> None:
    broken = folder / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = load_data(folder, image_size=8, val_images=1)
    assert [path for path in data.train.unreadable if "3.png" in path]
    for at in range(len(data.train)):
        Views(data.train, pil_to_tensor)[at]
    items = data.train.items
    assert items is not None
    everything = Stream(items, np.arange(len(items)), 8)
    with pytest.raises(DataError, match=r"3\.png"):
        [Views(everything, pil_to_tensor)[at] for at in range(len(everything))]
