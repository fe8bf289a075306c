"""The door to data: what it names, how it is split, what it refuses."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from sret_nas.data import DataError, DownloadError, Resident, Stream, load_data, loading
from sret_nas.data import dataset as dataset_module
from sret_nas.errors import SretNasError

CPU = torch.device("cpu")
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def paint(path: Path, colour: Any = (9, 9, 9), mode: str = "RGB", size: tuple[int, int] = (12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    (image.quantize(2) if mode == "P" else image.convert(mode)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of ten images each."""
    for name, colour in COLOURS.items():
        for i in range(10):
            paint(tmp_path / "photos" / name / f"{i}.png", colour)
    return tmp_path / "photos"


def test_demo_is_balanced_and_says_what_it_is():
    data = load_data(image_size=28)
    assert (data.num_classes, data.in_chans, data.image_size) == (10, 1, 28)
    assert (len(data.train), len(data.val), len(data.test())) == (8_000, 2_000, 2_000)
    for split, each in ((data.train, 800), (data.val, 200), (data.test(), 200)):
        assert isinstance(split, Resident)
        assert split.labels.bincount().tolist() == [each] * 10
    assert "demo" in data.notes[0] and "--data" in data.notes[0]


def test_demo_comes_from_public_images_unchanged():
    """A trouser is a trouser: two legs, dark between them and at the sides."""
    data = load_data(image_size=28, subset=1000)
    assert isinstance(data.train, Resident)
    trousers = data.train.images[data.train.labels == 1].float().mean(0)[0]
    assert trousers[14, 9:19].mean() > 5 * trousers[14, :5].mean()
    assert data.train.images.float().mean() / 255 == pytest.approx(0.286, abs=0.005)


def test_asset_is_small_and_licensed():
    assets = Path(dataset_module.__file__).parent.parent / "assets"
    assert (assets / "fashion_mnist_12k.npy.xz").stat().st_size <= 6_000_000
    assert "MIT License" in (assets / "fashion_mnist_LICENSE.txt").read_text()


def test_splits_are_disjoint_seeded_and_never_hold_test_images():
    data = load_data(image_size=28)

    def rows(split: Any) -> set[bytes]:
        return {image.numpy().tobytes() for image in split.images}

    train, val = rows(data.train), rows(data.val)
    assert not train & val
    again, other = load_data(image_size=28), load_data(image_size=28, seed=1)
    assert torch.equal(again.val.images, data.val.images)
    assert again.fingerprint == data.fingerprint
    assert rows(other.val) != val and other.fingerprint != data.fingerprint
    assert not rows(data.test()) & (train | val)


def test_test_images_stay_closed_until_asked_for(monkeypatch: pytest.MonkeyPatch):
    opened = []
    embedded = loading.embedded
    monkeypatch.setattr(
        embedded, "_test", lambda real=embedded._test: opened.append("test") or real()
    )
    data = load_data(image_size=28, subset=100)
    list(data.val.batches(50, CPU))
    assert data.has_test and not opened
    data.test()
    assert opened == ["test"]


def test_subset_and_validation_keep_the_class_shares():
    data = load_data(image_size=8, subset=105, val_images=30)
    assert isinstance(data.train, Resident) and isinstance(data.val, Resident)
    assert len(data.train) == 105 and data.train.labels.bincount().min() >= 10
    assert data.val.labels.bincount().tolist() == [3] * 10


def test_fingerprint_is_of_the_images_not_of_their_size(photos: Path):
    small, large = (load_data(photos, image_size=side) for side in (8, 16))
    assert small.fingerprint == large.fingerprint
    paint(photos / "red" / "3.png", (251, 10, 10))
    assert load_data(photos, image_size=8).fingerprint != small.fingerprint


def test_folder_by_class(photos: Path):
    data = load_data(photos, image_size=8, val_fraction=0.3)
    assert data.classes == ("blue", "green", "red")
    assert (len(data.train), len(data.val), data.in_chans) == (21, 9, 3)
    images, labels = next(data.val.batches(9, CPU))
    assert images.shape == (9, 3, 8, 8) and images.dtype == torch.uint8
    for image, label in zip(images, labels, strict=True):
        expected = torch.tensor(COLOURS[data.classes[label]], dtype=torch.uint8)
        assert torch.equal(image, expected[:, None, None].expand(3, 8, 8))
    assert not data.has_test and any("no test images" in note for note in data.notes)
    with pytest.raises(DataError, match="no test images"):
        data.test()


def test_folder_with_its_own_splits(photos: Path):
    for name in COLOURS:
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        paint(photos / "val" / name / "v.png", COLOURS[name])
        paint(photos / "test" / name / "t.png", COLOURS[name])
    data = load_data(photos, image_size=8)
    assert (len(data.train), len(data.val), len(data.test())) == (30, 3, 3)
    (photos / "test" / "red").rename(photos / "test" / "purple")
    with pytest.raises(DataError, match="'purple' is not among the training classes"):
        data.test()
    with pytest.raises(DataError, match="'purple' is not among the training classes"):
        load_data(photos, image_size=8)  # not after days of training


def test_a_test_folder_without_images_is_refused_beforehand(photos: Path):
    for name in COLOURS:
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir(parents=True)
    (photos / "test" / "red" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="test: no images; allowed: images by class, or no such"):
        load_data(photos, image_size=8)
    paint(photos / "test" / "red" / "inside" / "t.png", COLOURS["red"])
    assert len(load_data(photos, image_size=8).test()) == 1


def test_corrupt_images_are_skipped_and_counted(photos: Path):
    for i in range(10, 50):
        paint(photos / "red" / f"{i}.png")
    (photos / "red" / "20.png").write_bytes(b"no image")
    whole = (photos / "red" / "30.png").read_bytes()
    (photos / "red" / "30.png").write_bytes(whole[: len(whole) // 2])
    data = load_data(photos, image_size=8)
    assert len(data.train) + len(data.val) == 68
    assert len(data.train.unreadable + data.val.unreadable) == 2
    assert any("cannot be decoded and were skipped" in note for note in data.notes)


def test_too_many_corrupt_images_are_an_error(photos: Path):
    for i in range(5):
        (photos / "red" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"images cannot be decoded, the first: .*red"):
        load_data(photos, image_size=8)


@pytest.mark.parametrize(
    ("modes", "channels", "mixed"),
    [
        (["L", "L"], 1, False),
        (["L", "LA"], 1, False),
        (["L", "I;16"], 1, False),
        (["RGB", "RGB"], 3, False),
        (["L", "RGB"], 3, True),
        (["RGB", "RGBA"], 3, True),
        (["RGB", "P"], 3, True),
    ],
)
def test_mixed_channels_become_one(
    tmp_path: Path, modes: list[str], channels: int, mixed: bool
) -> None:
    for name, grey in (("dark", 50), ("light", 200)):
        for i, mode in enumerate(modes * 3):
            path = tmp_path / name / f"{i}.png"
            if mode == "I;16":
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(np.full((9, 9), grey * 257, np.uint16)).save(path)
            else:
                paint(path, (grey, grey, grey), mode)
    data = load_data(tmp_path, image_size=8)
    assert data.in_chans == channels
    assert any("mixed channels" in note for note in data.notes) == mixed
    images, labels = next(data.train.batches(100, CPU))
    assert images.shape[1] == channels
    assert set(images[labels == 0].unique().tolist()) == {50}
    assert set(images[labels == 1].unique().tolist()) == {200}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "0 class folder"),
        ({"cats/a.png": 1, "cats/b.png": 1}, "1 class folder"),
        ({"cats/a.png": 1, "cats/b.png": 1, "dogs/": 0}, "dogs: no images"),
        ({"cats/a.png": 1, "cats/b.png": 1, "dogs/a.png": 1}, "dogs: 1 image;"),
        ({"cats/a.png": 1, "cats/b.png": 1, "dogs/notes.txt": 1}, "dogs: no images"),
        ({"test/cats/a.png": 1}, "no train/"),
    ],
)
def test_impossible_folders_are_refused_in_one_line(
    tmp_path: Path, files: dict[str, int], message: str
):
    for name in files:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            paint(tmp_path / name) if name.endswith("png") else _touch(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path, image_size=8)
    assert "\n" not in str(caught.value) and caught.value.hint


def _touch(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()


def test_other_files_are_ignored_and_counted(photos: Path):
    (photos / "red" / "notes.txt").touch()
    (photos / "red" / ".hidden.png").touch()
    data = load_data(photos, image_size=8)
    assert any("1 file in " in note and "that is no image was left" in note for note in data.notes)


def test_unknown_names_and_files():
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        load_data("cifar11", image_size=8)
    with pytest.raises(DataError, match="allowed: a folder"):
        load_data(__file__, image_size=8)
    with pytest.raises(DataError, match="val_fraction"):
        load_data(image_size=8, val_fraction=1.0)


def test_large_data_stream_with_the_same_batches(photos: Path, monkeypatch: pytest.MonkeyPatch):
    resident = load_data(photos, image_size=8)
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 100)
    stream = load_data(photos, image_size=8)
    assert isinstance(resident.train, Resident) and isinstance(stream.train, Stream)
    assert (stream.fingerprint, stream.mean) == (resident.fingerprint, resident.mean)
    assert len(stream.train.first(7)) == 7
    for seed in (None, 3):
        pairs = zip(
            *(
                data.train.batches(5, CPU, seed and torch.Generator().manual_seed(seed))
                for data in (resident, stream)
            ),
            strict=True,
        )
        for (a, b), (c, d) in pairs:
            assert torch.equal(a, c) and torch.equal(b, d)


def test_corrupt_image_in_a_stream_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 100)
    data = load_data(photos, image_size=8)
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"gone bad")
    with pytest.raises(DataError, match=r"\.png: cannot be decoded"):
        list(data.train.batches(5, CPU))


def test_shuffled_batches_are_full_and_every_image_comes_at_most_once():
    data = load_data(image_size=8, subset=105)
    g = torch.Generator().manual_seed(0)
    sizes = [len(labels) for _, labels in data.train.batches(50, CPU, g)]
    assert sizes == [50, 50]
    assert [len(labels) for _, labels in data.train.batches(50, CPU)] == [50, 50, 5]
    assert [len(labels) for _, labels in data.train.batches(200, CPU, g)] == [105]


def test_pickles_for_worker_processes(photos: Path):
    data = pickle.loads(pickle.dumps(load_data(photos, image_size=8)))
    assert len(data.train) == 24


def test_what_was_found_of_a_folder_spares_another_process_the_look(
    photos: Path, monkeypatch: pytest.MonkeyPatch
):
    for split in ("train", "val", "test"):
        paint(photos.parent / "split" / split / "a" / "1.png")
        paint(photos.parent / "split" / split / "b" / "2.png", (200, 0, 0))
    for root in (photos, photos.parent / "split"):
        data = load_data(root, image_size=8)
        listing = pickle.loads(pickle.dumps(data.listing))
        with monkeypatch.context() as patch:
            for name in ("scandir", "stat", "listdir"):
                patch.setattr(os, name, lambda *_: pytest.fail("looked"))
            again = load_data(listing, image_size=8)
        assert again.fingerprint == data.fingerprint
        assert again.classes == data.classes and again.notes == data.notes
        for one, other in ((again.train, data.train), (again.val, data.val)):
            assert isinstance(one, Resident) and isinstance(other, Resident)
            assert torch.equal(one.images, other.images)
        assert again.has_test == data.has_test
    assert len(again.test()) == 2
    assert load_data(image_size=28).listing is None  # a few MB that every process has


def test_torchvision_set_in_the_cache_needs_no_network(tmp_path: Path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = random.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    data = load_data("kmnist", image_size=14, root=tmp_path)
    assert (len(data.train), len(data.val), len(data.test())) == (30, 10, 20)
    assert (data.in_chans, data.num_classes, data.mirror) == (1, 10, False)


def test_torchvision_set_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fetch(*_: Any, download: bool, **__: Any) -> None:
        raise RuntimeError("Dataset not found" if not download else "no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    monkeypatch.setenv("SRET_NAS_DATA", str(tmp_path))
    with pytest.raises(DownloadError, match="it cannot be downloaded: no route to host") as caught:
        load_data("cifar10", image_size=32)
    assert str(tmp_path) in (caught.value.hint or "") and caught.value.exit_code == 1


def test_tar_through_timm(photos: Path, tmp_path: Path):
    (photos / "red" / "5.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "photos")
    data = load_data(tmp_path / "photos.tar", image_size=8)
    assert len(data.train.unreadable + data.val.unreadable) == 1
    paint(photos / "red" / "5.png", COLOURS["red"])
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "photos")
    data = load_data(tmp_path / "photos.tar", image_size=8)
    assert (len(data.train), len(data.val), data.in_chans) == (24, 6, 3)
    images, labels = next(data.train.batches(24, CPU))
    for image, label in zip(images, labels, strict=True):
        colour = COLOURS[data.classes[label].rsplit("/")[-1].rsplit("_")[-1]]
        assert image[:, 0, 0].tolist() == list(colour)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every package that timm reads with were there."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="needs the package 'webdataset'") as caught:
        load_data("wds/shards", image_size=8)
    assert caught.value.hint == "pip install webdataset"


@pytest.mark.usefixtures("installed")
def test_ordered_data_through_timm(monkeypatch: pytest.MonkeyPatch):
    def create(_: str, split: str, **__: Any) -> Any:
        count = {"train": 40, "test": 20}[split]
        pictures = ((Image.new("L", (9, 9), i % 4 * 60), i % 4) for i in range(count))
        return _Iterable(pictures)

    monkeypatch.setattr("timm.data.create_dataset", create)
    data = load_data("wds/shards", image_size=8)
    assert (len(data.train), len(data.val), data.in_chans, data.num_classes) == (32, 8, 1, 4)
    assert len(data.test()) == 20
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 3 * 8 * 8 * 10)
    with pytest.raises(DataError, match="more than 10 images"):
        load_data("wds/shards", image_size=8)


class _Iterable:
    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures

    def __iter__(self) -> Any:
        return iter(self.pictures)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ConnectionError("offline"), DownloadError, "cannot be downloaded: offline"),
        (ValueError("bad split"), DataError, "cannot read split 'train': bad split"),
    ],
)
def test_timm_failures_are_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[SretNasError], message: str
):
    def create(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("timm.data.create_dataset", create)
    with pytest.raises(kind, match=message):
        load_data("hfds/some/set", image_size=8)
