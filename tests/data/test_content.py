"""Data are what they hold, wherever they lie; and what cannot be read is said."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sret_nas.data import DataError, digests, folder, items, load_data, pictures

HOUR_NS = 3_600_000_000_000


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", -HOUR_NS)  # what was made just now may be kept
    return tmp_path / "cache" / "digests.sqlite"


def paint(path: Path, seed: int, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(path, compress_level=0)


def make(root: Path, images: int = 4) -> Path:
    for c, name in enumerate(("cat", "dog")):
        for i in range(images):
            paint(root / name / f"{i}.png", 100 * c + i)
    return root


def pack(root: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for image in sorted(root.rglob("*.*")):
            tar.add(image, image.relative_to(root))
    return path


def print_of(source: Path | str, **options: Any) -> str:
    return load_data(source, image_size=8, **options).fingerprint


def repaint(path: Path) -> None:
    """Other pixels; the same name, size and time of change."""
    before = path.stat()
    paint(path, 12345)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_folder_is_its_content(tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    first = print_of(here)
    shutil.copytree(here, tmp_path / "there")
    assert print_of(tmp_path / "there") == first
    repaint(here / "dog" / "3.png")
    assert print_of(here) != first


def test_a_tar_is_its_content(tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    tar = pack(here, tmp_path / "a.tar")
    first = print_of(tar)
    assert print_of(shutil.copy(tar, tmp_path / "b.tar")) == first
    repaint(here / "cat" / "0.png")
    assert print_of(pack(here, tmp_path / "a.tar")) != first


@pytest.mark.parametrize("layout", ["classes", "train", "train and val", "all three"])
def test_a_tar_is_the_folder_that_was_packed(tmp_path: Path, layout: str) -> None:
    here = tmp_path / "here"
    splits = {"classes": [""], "train": ["train"], "train and val": ["train", "val"]}
    for split in splits.get(layout, ["train", "validation", "test"]):
        make(here / split)
        repaint(here / split / "cat" / "0.png")
    for name in ("._0.png", "notes.pdf"):
        (here / split / "cat" / name).write_bytes(b"%PDF")
    found, packed = (load_data(s, image_size=8) for s in (here, pack(here, tmp_path / "a.tar")))
    assert packed.fingerprint == found.fingerprint
    assert (len(packed.train), len(packed.val)) == (len(found.train), len(found.val))
    assert packed.classes == found.classes and packed.has_test == found.has_test
    if packed.has_test:
        assert len(packed.test()) == len(found.test())
    assert any("1 .pdf" in note for note in packed.notes)
    assert any("no test images" in note for note in packed.notes) != packed.has_test


def test_a_link_in_a_tar_is_said_to_be_left_out(tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    (here / "cow").symlink_to(here / "cat")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(here, "here")
    data = load_data(tmp_path / "a.tar", image_size=8)
    assert data.classes == ("cat", "dog")
    assert any("1 link" in note for note in data.notes)


def test_an_image_in_a_tar_that_is_none_is_named(tmp_path: Path) -> None:
    here = make(tmp_path / "here", images=30)
    (here / "cat" / "0.png").write_bytes(b"no image")
    data = load_data(pack(here, tmp_path / "a.tar"), image_size=8)
    (note,) = [note for note in data.notes if "cannot be decoded" in note]
    assert note.endswith("a.tar: cat/0.png: cannot identify image file")  # and no address


def test_a_tar_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        load_data(tmp_path / "a.tar", image_size=8)
    here = make(tmp_path / "here" / "val").parent
    (here / "train" / "cat").mkdir(parents=True)
    (here / "train" / "cat" / "0.png").write_bytes((here / "val" / "cat" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"1 class folder\(s\) of images \(cat\)"):
        load_data(pack(here, tmp_path / "c.tar"), image_size=8)


@pytest.mark.parametrize("packed", [False, True])
def test_large_data_are_sampled_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    here = make(tmp_path / "here")

    def source() -> Path:
        return pack(here, tmp_path / "a.tar") if packed else here

    whole = load_data(source(), image_size=8)
    assert not any("sample of the content" in note for note in whole.notes)
    monkeypatch.setattr(digests, "WHOLE_BYTES", 100)
    monkeypatch.setattr(digests, "PART_BYTES", 50)
    sampled = load_data(source(), image_size=8)
    assert any("identified by a sample of the content" in note for note in sampled.notes)
    assert sampled.fingerprint != whole.fingerprint
    repaint(here / "cat" / "0.png")
    assert print_of(source()) != sampled.fingerprint


class _Listed:
    """A map-style data set of timm's that says nothing of its files."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.pixels = random.integers(0, 256, (12, 8, 8, 3), np.uint8)
        self.targets = [i % 2 for i in range(12)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.targets[index]


def test_a_streamed_set_is_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    prints = []
    for seed, name in ((0, "hfds/a"), (0, "hfds/b"), (1, "hfds/a")):
        monkeypatch.setattr("timm.data.create_dataset", lambda *_, s=seed, **__: _Listed(s))
        prints.append(print_of(name))
    assert prints[0] == prints[1] != prints[2]
    monkeypatch.setattr(items, "PIXELS_SAMPLED", 5)
    data = load_data("hfds/a", image_size=8)
    assert any("sample of the content" in note for note in data.notes)


def test_runs_of_before_are_still_of_these_data(tmp_path: Path) -> None:
    data = load_data(make(tmp_path / "here"), image_size=8)
    before = data.former_fingerprint()
    assert before != data.fingerprint
    assert data.known_as(before) == before
    assert data.known_as("another") == data.known_as(data.fingerprint)
    demo = load_data(image_size=28, subset=100)
    assert demo.former_fingerprint() == demo.fingerprint


# -- what it costs ---------------------------------------------------------------------------


class _Counted:
    """Counts calls of operating-system functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        real = digests.content

        def content(*arguments: Any) -> bytes:
            self.read += 1
            return real(*arguments)

        monkeypatch.setattr(digests, "content", content)
        self.stats = 0
        stat = os.stat
        monkeypatch.setattr(digests.os, "stat", lambda *a, **k: (self._stat(), stat(*a, **k))[1])

    def _stat(self) -> None:
        self.stats += 1


def scan(root: Path) -> Any:
    return folder.folder(root).train


def test_a_file_is_looked_at_once_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = []
    for images in (10, 40):
        root = make(tmp_path / str(images), images)
        counted = _Counted(monkeypatch)
        scan(root)
        assert counted.read == 2 * images
        work.append(counted.stats)
        scan(root)
        assert counted.read == 2 * images  # all remembered
        monkeypatch.undo()
        monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(digests, "SETTLED_NS", -HOUR_NS)
    # What does not grow with the images is the same in both.
    assert work[1] - work[0] <= 3 * 60


def test_one_changed_file_is_read_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "here")
    before = scan(root).fingerprint()
    repaint(root / "cat" / "1.png")
    counted = _Counted(monkeypatch)
    assert scan(root).fingerprint() != before
    assert counted.read == 1


def test_what_changed_just_now_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", HOUR_NS)
    root = make(tmp_path / "here")
    scan(root)
    counted = _Counted(monkeypatch)
    scan(root)
    assert counted.read == 8


def test_a_broken_memory_is_done_without(tmp_path: Path, memory: Path) -> None:
    root = make(tmp_path / "here")
    expected = print_of(root)
    memory.write_bytes(b"no database" * 1000)
    assert print_of(root) == expected
    memory.unlink()
    memory.mkdir()
    assert print_of(root) == expected


def test_the_memory_is_bounded(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MOST", 6)
    scan(make(tmp_path / "here"))
    (count,) = sqlite3.connect(memory).execute("SELECT COUNT(*) FROM digests").fetchone()
    assert count == 3


def test_several_at_once(tmp_path: Path) -> None:
    root = make(tmp_path / "here", 20)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: scan(root).fingerprint(), range(8)))
    assert len(found) == 1


def test_names_are_compact_and_pickle(tmp_path: Path) -> None:
    found = scan(make(tmp_path / "here", 12))
    again = pickle.loads(pickle.dumps(found))
    assert again.fingerprint() == found.fingerprint()
    names = [Path(again.path(i)).name for i in range(12)]
    assert names == sorted(f"{i}.png" for i in range(12))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    folder.folder(make(tmp_path / "here"), told.append)
    assert any("looking for images" in line for line in told)
    assert any("reading images" in line for line in told)


# -- odd folders -----------------------------------------------------------------------------


def test_one_image_in_a_class_will_do_beside_val(tmp_path: Path) -> None:
    make(tmp_path / "train", 1)
    make(tmp_path / "val", 2)
    data = load_data(tmp_path, image_size=8)
    assert (len(data.train), len(data.val)) == (2, 4)


def test_a_subset_grows_with_the_classes(tmp_path: Path) -> None:
    for c in range(12):
        for i in range(3):
            paint(tmp_path / f"{c:02d}" / f"{i}.png", 10 * c + i)
    data = load_data(tmp_path, image_size=8, subset=5)
    assert sorted(label for _, labels in _batches(data.train) for label in labels) == [*range(12)]
    assert any(
        "12 training images, one a class, rather than a subset of 5" in n for n in data.notes
    )


def _batches(split: Any) -> list[tuple[Any, list[int]]]:
    import torch

    return [(images, labels.tolist()) for images, labels in split.batches(5, torch.device("cpu"))]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    root = make(tmp_path / "here")
    for i in range(3):
        paint(tmp_path / "elsewhere" / f"{i}.png", i)
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "up").symlink_to(root)
    paint(root / "catalogue" / "0.png", 7)
    paint(root / "catalogue" / "1.png", 8)
    (root / "catalogue" / "a").symlink_to(root / "cat")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(root / "dog" / "pipe.png")
    source = folder.folder(root)
    assert source.classes == ("bird", "cat", "catalogue", "dog")
    # catalogue/a leads to cat, whose name its own begins with, and within it to elsewhere
    assert np.bincount(source.train.labels).tolist() == [3, 7, 9, 4]
    (note, *_) = source.notes
    for reason in ("link to a folder that was read already", "broken link", "no regular file"):
        assert f"1 {reason}" in note


def test_what_pillow_only_writes_is_no_image(tmp_path: Path) -> None:
    root = make(tmp_path / "here")
    for name in ("a.pdf", "b.PDF", "c.eps", "notes"):
        (root / "cat" / name).write_bytes(b"%PDF-1.4")
    source = folder.folder(root)
    assert len(source.train) == 8
    assert "2 .pdf" in source.notes[0] and "1 .eps" in source.notes[0]
    assert "1 without a suffix" in source.notes[0]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = make(tmp_path / "here")
    odd = (root / "cat").rename(root / os.fsdecode(b"cat\xff\x1b"))
    (odd / "0.png").rename(odd / os.fsdecode(b"\xfe.png"))
    data = load_data(root, image_size=8)
    assert data.classes == (r"cat\xff\x1b", "dog")
    assert data.former_fingerprint()
    source = folder.folder(root)
    assert source.train.name(3).endswith(r"cat\xff\x1b/\xfe.png")


def test_what_is_no_folder_of_images_ends_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_OTHERS", 20)
    for c in ("a", "b"):
        (tmp_path / c).mkdir()
        for i in range(30):
            (tmp_path / c / f"{i}.txt").touch()
    with pytest.raises(DataError, match="more than 20 files that are no images"):
        load_data(tmp_path, image_size=8)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(DataError):
        load_data(name, image_size=8)


# -- large images ----------------------------------------------------------------------------


def header(width: int, height: int) -> bytes:
    """A PNG that is said to be large and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        rest = kind + content
        return struct.pack(">I", len(content)) + rest + struct.pack(">I", zlib.crc32(rest))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
    return start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_000, 14_500])
def test_too_large_images_are_refused_undecoded(tmp_path: Path, side: int) -> None:
    root = make(tmp_path / "here")
    for i in range(8):
        (root / "cat" / f"large{i}.png").write_bytes(header(side, side))
    with pytest.raises(DataError, match=rf"{side**2 / 1e6:.0f} megapixels; allowed: up to 100"):
        load_data(root, image_size=8)


def test_a_large_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "here")
    Image.new("RGB", (800, 800), (200, 10, 10)).save(root / "cat" / "0.jpg")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 20_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # Pillow refuses twice as many
    found = scan(root)
    decoded, bad = found.decode(np.arange(1), 8)
    assert not bad and decoded[0, 0].float().mean() > 190
    Image.new("RGB", (800, 800)).save(root / "cat" / "0.png")
    found = scan(root)
    _, bad = found.decode(np.arange(3), 8)
    assert bad == [1] and "megapixels" in found.why(1)


def test_few_pixels_are_decoded_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 300)
    most: list[int] = []
    real = pictures.Room.taken

    def taken(self: Any, image: Any, side: int) -> Any:
        most.append(self.used)
        return real(self, image, side)

    monkeypatch.setattr(pictures.Room, "taken", taken)
    found = scan(make(tmp_path / "here", 20))
    _, bad = found.decode(np.arange(40), 8)
    assert not bad and max(most) <= 300
