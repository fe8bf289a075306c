"""The same images at another size: ``DataSet.at``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sret_nas.data import DataError, Resident, Stream, load_data
from sret_nas.data import dataset as dataset_module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten images, each of its own noise."""
    random = np.random.default_rng(0)
    for name in ("night", "day"):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def images(split: object) -> torch.Tensor:
    assert isinstance(split, Resident)
    return split.images


@pytest.mark.parametrize("source", ["demo", "photos"])
def test_it_is_what_would_be_loaded_at_that_size(source: str, photos: Path) -> None:
    where = photos if source == "photos" else source
    data = load_data(where, image_size=16, subset=12, val_images=4)
    small, plain = data.at(12), load_data(where, image_size=12, subset=12, val_images=4)
    assert data.at(16) is data and data.at(12) is small
    for name in ("train", "val"):
        mine, theirs = getattr(small, name), getattr(plain, name)
        assert torch.equal(images(mine), images(theirs))
        assert torch.equal(mine.labels, theirs.labels)
        assert len(getattr(data, name)) == len(mine)
    assert small.image_size == 12
    assert small.fingerprint == data.fingerprint == plain.fingerprint
    assert (small.mean, small.std) == (data.mean, data.std)  # the same scale at all sizes


def test_test_images_come_at_that_size_too() -> None:
    test = load_data(image_size=16, subset=10, val_images=10).at(12).test()
    assert images(test).shape[-2:] == (12, 12)


def test_what_is_streamed_stays_so(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 100)
    small = load_data(photos, image_size=16).at(12)
    assert isinstance(small.train, Stream) and small.train.side == 12
    (first, *_) = small.train.batches(5, torch.device("cpu"))
    assert first[0].shape == (5, 3, 12, 12)


def test_what_was_resident_and_is_too_large_now_is_streamed(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(photos, image_size=8)
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 8 * 8 * 3 * 20)
    assert isinstance(data.train, Resident) and isinstance(data.at(64).train, Stream)


def test_images_that_cannot_be_decoded_stay_out(photos: Path) -> None:
    for i in range(10, 30):
        Image.new("RGB", (24, 24), (i, i, i)).save(photos / "day" / f"{i}.png")
    (photos / "day" / "5.png").write_bytes(b"no image")
    data = load_data(photos, image_size=16)
    small = data.at(12)
    assert len(small.train) + len(small.val) == len(data.train) + len(data.val) == 39
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"gone bad")
    with pytest.raises(DataError, match="cannot be decoded"):
        data.at(8)


def test_images_in_memory_alone_are_resized() -> None:
    data = load_data(image_size=16, subset=12, val_images=10)
    few = replace(data, train=data.train.first(5))
    assert images(few.at(12).train).shape == (5, 1, 12, 12)
    assert len(data.at(12).train) == 12  # nothing is mixed up between the two


def test_no_more_sizes_are_kept_than_there_is_room_for() -> None:
    data = load_data(image_size=16, subset=10, val_images=10)
    sizes = range(5, 6 + dataset_module.SIZES_KEPT)
    first, *_ = [data.at(size) for size in sizes]
    assert data.at(sizes[-1]) is data.at(sizes[-1])
    assert data.at(sizes[0]) is not first
