"""Soft labels: of the very view that a student sees, computed once, whole after any kill."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import InterpolationMode, hflip, pil_to_tensor, resized_crop

from sret_nas.data import DataError, DataSet, Split, Stream, load_data
from sret_nas.errors import SretNasError, UsageError
from sret_nas.training import labelling
from sret_nas.training.crops import draw
from sret_nas.training.labelling import soft_labels
from sret_nas.training.soft_labels import LabelRecipe, SoftLabels, StoredViews, record_of, spread
from sret_nas.training.teacher_models import Member
from sret_nas.training.teachers import Teacher

SIDE, CLASSES, CROPS = 12, 7, 3
RECIPE = LabelRecipe(side=SIDE, crops=CROPS, k=2)
A_BLOCK = 2
"""Images, in these tests."""


class Oracle(nn.Module):
    """Remembers what it was shown, in pixel values; says something that hangs on all of it."""

    num_classes = CLASSES

    def __init__(self, channels: int = 3, seed: int = 0, most: int = 10**9) -> None:
        super().__init__()
        weight = torch.randn(
            CLASSES, channels * SIDE * SIDE, generator=torch.Generator().manual_seed(seed)
        )
        self.weight = nn.Parameter(weight / 600)
        self.seen: list[Tensor] = []
        self.left = most

    def forward(self, x_BCSS: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.seen += x_BCSS.round().byte().unbind()
        return x_BCSS.round().flatten(1) @ self.weight.T


def teacher(oracle: nn.Module, channels: int = 3) -> Teacher:
    """Of images that are not normalised at all: it sees 0 to 255."""
    none = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels}
    member = Member("oracle", oracle, CLASSES, none["mean"], none["std"], "oracle")
    return Teacher([member], device=torch.device("cpu"), dtype=torch.float32, **none)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "BLOCK_CROPS", A_BLOCK * CROPS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Coloured pictures of all shapes, one of them a strip from which no usual crop can be cut."""
    random = np.random.default_rng(0)
    for at in range(12):
        place = tmp_path / "pictures" / "ab"[at % 2]
        place.mkdir(parents=True, exist_ok=True)
        size = (3, 60) if at == 4 else (*random.integers(16, 50, 2),)
        Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(place / f"{at}.png")
    return tmp_path / "pictures"


@pytest.fixture
def data(folder: Path) -> DataSet:
    return load_data(folder, image_size=SIDE)


def test_the_student_sees_what_its_teacher_saw_bit_by_bit(data: DataSet, tmp_path: Path) -> None:
    """And the label is the teacher's answer to that very view."""
    oracle = Oracle()
    labels = soft_labels(data.train, teacher(oracle), RECIPE, folder=tmp_path, batch=4)
    views = StoredViews(data.train, labels, pil_to_tensor)
    assert len(oracle.seen) == len(data.train) * CROPS == labels.computed == len(views)
    for position in range(len(data.train)):
        for crop in range(CROPS):
            number = int(views.numbers(torch.tensor([position]), crop))
            view, label, targets = views[number]
            seen = oracle.seen[position * CROPS + crop]
            assert view.equal(seen)
            assert label == data.train.labels[position]
            answer = (seen.flatten().float() @ oracle.weight.T).softmax(0)
            classes, probabilities = labels.top(torch.tensor([position]), torch.tensor([crop]))
            assert classes[0].equal(answer.topk(2).indices)
            torch.testing.assert_close(probabilities[0], answer.topk(2).values, rtol=1e-3, atol=0)
            rest = (1 - answer.topk(2).values.sum()) / (CLASSES - 2)
            expected = torch.full((CLASSES,), float(rest)).scatter(0, *answer.topk(2)[::-1])
            torch.testing.assert_close(targets, expected, rtol=1e-3, atol=1e-3)
            assert targets.equal(labels.targets(torch.tensor([position]), torch.tensor([crop]))[0])


def test_crops_are_the_same_however_many_a_thread_cuts_at_once(
    data: DataSet, tmp_path: Path, uninterrupted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "PIECE_BYTES", 2 * 3 * SIDE**2)  # of three, two and one
    labels, _ = finished(data.train, tmp_path / "pieces")
    assert content(labels) == uninterrupted


def test_each_image_has_crops_of_its_own_wherever_it_stands(tmp_path: Path) -> None:
    data = load_data("demo", image_size=SIDE, subset=10, val_images=10)
    recipe = other(crops=50)
    items = data.train.items
    assert items is not None
    ways = [data.train.indices, data.train.indices[::-1].copy()]
    one, backwards = (
        soft_labels(Stream(items, way, SIDE), teacher(Oracle(1), 1), recipe, folder=tmp_path)
        for way in ways
    )
    assert len({tuple(row["box"].flatten()) for row in one.records}) == 10
    assert np.array_equal(one.records["box"], backwards.records["box"][::-1])


def test_a_view_is_a_resized_crop_as_torchvision_cuts_it(data: DataSet, tmp_path: Path) -> None:
    labels = soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path)
    views = StoredViews(data.train, labels, pil_to_tensor)
    flips = []
    for position in range(len(data.train)):
        for epoch in range(CROPS):
            box, flip = labels.crop(position, epoch)
            picture = views.views.picture(position)
            expected = resized_crop(picture, *box, [SIDE, SIDE], InterpolationMode.BILINEAR)  # type: ignore[arg-type]
            expected = hflip(expected) if flip else expected
            assert pil_to_tensor(views.view(position, epoch)).equal(pil_to_tensor(expected))
            flips.append(flip)
    assert {True, False} == set(flips)


def test_grey_pictures(tmp_path: Path) -> None:
    data = load_data("demo", image_size=SIDE, subset=10, val_images=10)
    oracle = Oracle(1)
    labels = soft_labels(data.train, teacher(oracle, 1), RECIPE, folder=tmp_path)
    view, _, _ = StoredViews(data.train, labels, pil_to_tensor)[0]
    assert view.shape == (1, SIDE, SIDE)
    assert view.equal(oracle.seen[0])


@pytest.mark.parametrize("size", [(50, 40), (3, 200), (200, 3), (1, 1), (70_000, 9)])
def test_crops_are_within_the_image_and_the_recipe(size: tuple[int, int]) -> None:
    boxes, flips = draw(size, 500, np.random.default_rng(0), scale=(0.3, 0.9), ratio=(0.5, 2.0))
    top, left, height, width = boxes.T
    assert (boxes >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= size[1]).all() and (left + width <= size[0]).all()
    assert boxes.max() <= 65_535
    if size == (50, 40):
        share, ratio = height * width / 2000, width / height
        assert 0.28 < share.min() < 0.32 and 0.86 < share.max() < 0.92
        assert 0.47 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.1
        assert top.min() == left.min() == 0
        less = (height < 40) & (width < 50)
        assert (top + height)[less].max() == 40 and (left + width)[less].max() == 50
        assert 200 < flips.sum() < 300
    if size == (200, 3):  # nothing fits: the middle, at the most allowed width over height
        assert np.unique(boxes, axis=0).tolist() == [[0, 97, 3, 6]]
    assert not draw(size, 50, np.random.default_rng(0), flip=False)[1].any()


def test_the_rest_is_spread_evenly_and_all_sums_to_one() -> None:
    classes, probabilities = torch.tensor([[3, 0]]), torch.tensor([[0.5, 0.2]])
    expected = torch.tensor([[0.2, 0.1, 0.1, 0.5, 0.1]])
    torch.testing.assert_close(spread(classes, probabilities, 5), expected)
    torch.testing.assert_close(
        spread(classes[:, [1, 0]] // 3, torch.tensor([[0.7503, 0.2502]]), 2).sum(1), torch.ones(1)
    )
    over = spread(classes, torch.tensor([[0.9, 0.2]]), 5)  # more than 1, as by rounding
    assert over.min() == 0
    torch.testing.assert_close(over.sum(1), torch.ones(1))


def test_all_classes_may_be_stored(data: DataSet, tmp_path: Path) -> None:
    oracle = Oracle()
    recipe = LabelRecipe(side=SIDE, crops=CROPS, k=50, temperature=2.0)
    labels = soft_labels(data.train, teacher(oracle), recipe, folder=tmp_path)
    assert labels.recipe.k == CLASSES
    answer = (oracle.seen[0].flatten().float() @ oracle.weight.T / 2).softmax(0)
    found = labels.targets(torch.tensor([0]), torch.tensor([0]))[0]
    torch.testing.assert_close(found, answer, rtol=2e-3, atol=1e-6)


def test_labels_are_made_once(data: DataSet, tmp_path: Path) -> None:
    first = soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path)
    told: list[tuple[int, int]] = []
    again = soft_labels(
        data.train,
        teacher(Oracle(most=0)),  # asked once, it interrupts
        RECIPE,
        folder=tmp_path,
        progress=lambda *numbers: told.append(numbers),
    )
    assert (again.computed, again.damaged, told) == (0, 0, [])
    assert again.file.path == first.file.path
    assert again.describe()["bytes"] == first.bytes


def content(labels: SoftLabels) -> bytes:
    return labels.file.path.read_bytes()


@pytest.fixture
def uninterrupted(data: DataSet, tmp_path: Path) -> bytes:
    made = soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path / "whole", batch=4)
    return content(made)


def killed(split: Split, place: Path, after: int) -> Path:
    """The folder that is left by one killed while its teacher answers for the next time."""
    with pytest.raises(KeyboardInterrupt):
        soft_labels(split, teacher(Oracle(most=after)), RECIPE, folder=place, batch=4)
    (found,) = place.iterdir()
    return found


def finished(split: Split, place: Path) -> tuple[SoftLabels, int]:
    """What the same call makes of it, and how many crops the teacher was asked about."""
    oracle = Oracle()
    labels = soft_labels(split, teacher(oracle), RECIPE, folder=place, batch=4)
    assert labels.computed == len(oracle.seen)
    return labels, labels.computed


def test_a_killed_call_goes_on(data: DataSet, tmp_path: Path, uninterrupted: bytes) -> None:
    """Two blocks of two batches each are kept; the third, half done, is computed again."""
    left = killed(data.train, tmp_path / "killed", 5)
    assert not (left / "labels.bin").exists()
    labels, asked = finished(data.train, tmp_path / "killed")
    assert asked == len(data.train) * CROPS - 2 * A_BLOCK * CROPS
    assert content(labels) == uninterrupted
    assert labels.file.path == left / "labels.bin"
    assert labels.damaged == 0


def test_progress_goes_on_where_it_was(data: DataSet, tmp_path: Path) -> None:
    killed(data.train, tmp_path / "killed", 5)
    told: list[tuple[int, int]] = []
    soft_labels(
        data.train,
        teacher(Oracle()),
        RECIPE,
        folder=tmp_path / "killed",
        progress=lambda *numbers: told.append(numbers),
    )
    total = len(data.train) * CROPS
    assert told[0] == (2 * A_BLOCK * CROPS, total)
    assert told[-1] == (total, total)
    assert sorted(told) == told


def torn_list(left: Path) -> None:
    lines = (left / "blocks.txt").read_text()
    (left / "blocks.txt").write_text(lines.rstrip()[:-5])


def lost_end(left: Path) -> None:
    with (left / "labels.bin.part").open("r+b") as file:
        file.truncate(A_BLOCK * CROPS * record_of(2, CLASSES).itemsize + 5)


def lost_list(left: Path) -> None:
    (left / "blocks.txt").unlink()


def lost_file(left: Path) -> None:
    (left / "labels.bin.part").unlink()


def no_text(left: Path) -> None:
    (left / "blocks.txt").write_bytes(b"\xff\x00 0123456789abcdef\n999 " + b"0" * 32 + b"\n")


@pytest.mark.parametrize(
    ("harm", "kept"),
    [(torn_list, 1), (lost_end, 1), (lost_list, 0), (lost_file, 0), (no_text, 0)],
)
def test_what_was_half_written_is_computed_again(
    data: DataSet, tmp_path: Path, uninterrupted: bytes, harm: Callable[[Path], None], kept: int
) -> None:
    harm(killed(data.train, tmp_path / "killed", 5))
    labels, asked = finished(data.train, tmp_path / "killed")
    assert asked == (len(data.train) - kept * A_BLOCK) * CROPS
    assert content(labels) == uninterrupted


def test_a_damaged_block_alone_is_computed_again(
    data: DataSet, tmp_path: Path, uninterrupted: bytes
) -> None:
    labels, _ = finished(data.train, tmp_path / "made")
    with labels.file.path.open("r+b") as file:
        file.seek(A_BLOCK * CROPS * labels.file.record.itemsize + 3)
        file.write(b"\x55")
    again, asked = finished(data.train, tmp_path / "made")
    assert (asked, again.damaged) == (A_BLOCK * CROPS, 1)
    assert content(again) == uninterrupted


def test_labels_of_others_are_not_taken_for_its_own(
    data: DataSet, tmp_path: Path, uninterrupted: bytes
) -> None:
    """Another teacher's file with its checksums, put in its place: every checksum is of a key."""
    labels, _ = finished(data.train, tmp_path / "made")
    other = soft_labels(data.train, teacher(Oracle(seed=1)), RECIPE, folder=tmp_path / "other")
    assert content(other) != uninterrupted
    for name in ("labels.bin", "blocks.txt"):
        shutil.copy(other.file.folder / name, labels.file.folder / name)
    again, asked = finished(data.train, tmp_path / "made")
    assert asked == len(data.train) * CROPS
    assert content(again) == uninterrupted


def test_blocks_are_of_their_place(data: DataSet, tmp_path: Path) -> None:
    labels, _ = finished(data.train, tmp_path)
    size = A_BLOCK * CROPS * labels.file.record.itemsize
    whole = content(labels)
    labels.file.path.write_bytes(whole[size : 2 * size] + whole[:size] + whole[2 * size :])
    lines = [line for line in (labels.file.folder / "blocks.txt").read_text().split("\n") if line]
    first, second = (line.split()[1] for line in lines[:2])
    swapped = [f"0 {second}", f"1 {first}", *lines[2:]]
    (labels.file.folder / "blocks.txt").write_text("\n".join(swapped))
    again, asked = finished(data.train, tmp_path)
    assert asked == 2 * A_BLOCK * CROPS
    assert content(again) == whole


def other(**change: Any) -> LabelRecipe:
    return LabelRecipe(**{"side": SIDE, "crops": CROPS, "k": 2, **change})


def test_what_differs_is_labelled_apart(data: DataSet, tmp_path: Path) -> None:
    """Another teacher, other images, another recipe: no labels are taken for others."""
    recipes = [
        RECIPE, other(crops=4), other(k=3), other(scale=(0.2, 1.0)), other(ratio=(1.0, 1.0)),
        other(flip=False), other(temperature=2.0), other(seed=1),
    ]  # fmt: skip
    for recipe in recipes:
        soft_labels(data.train, teacher(Oracle()), recipe, folder=tmp_path)
    soft_labels(data.train, teacher(Oracle(seed=1)), RECIPE, folder=tmp_path)
    soft_labels(data.val, teacher(Oracle()), RECIPE, folder=tmp_path)
    assert len(list(tmp_path.glob("12px-*"))) == len(recipes) + 2


def test_a_changed_picture_is_labelled_anew(data: DataSet, folder: Path, tmp_path: Path) -> None:
    first = soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path / "labels")
    items = data.train.items
    assert items is not None
    Image.new("RGB", (20, 20)).save(items.name(int(data.train.indices[0])))
    again = load_data(folder, image_size=SIDE)
    second = soft_labels(again.train, teacher(Oracle()), RECIPE, folder=tmp_path / "labels")
    assert second.file.folder != first.file.folder


def test_a_label_takes_29_bytes_a_crop_of_five_classes(data: DataSet, tmp_path: Path) -> None:
    labels = soft_labels(data.train, teacher(Oracle()), other(k=5), folder=tmp_path)
    assert labels.bytes == len(data.train) * CROPS * 29
    assert labels.file.path.stat().st_size == labels.bytes
    assert record_of(5, 65_536).itemsize == 29
    assert record_of(5, 65_537).itemsize == 39


def test_they_lie_beside_the_pictures(data: DataSet, folder: Path, cache: Path) -> None:
    """And are found there again; the pictures stay what they were, to others too."""
    labels = soft_labels(data.train, teacher(Oracle()), RECIPE)
    assert labels.file.folder.parent == folder.with_name("pictures.soft-labels")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert soft_labels(data.train, teacher(Oracle(most=0)), RECIPE).computed == 0
    written = json.loads((labels.file.folder / "recipe.json").read_text())
    assert written["teachers"] == ["oracle"]
    record = [tuple(field) for field in written["record"]]
    stored = np.fromfile(labels.file.path, [(n, t, *map(tuple, s)) for n, t, *s in record])
    assert stored.reshape(labels.records.shape).tobytes() == labels.records.tobytes()


def test_where_nothing_can_be_written_they_lie_in_the_cache(
    data: DataSet, folder: Path, cache: Path
) -> None:
    folder.with_name("pictures.soft-labels").write_text("a file: no folder can be made there")
    labels = soft_labels(data.train, teacher(Oracle()), RECIPE)
    assert labels.file.folder.parent == cache / "soft-labels"


def test_without_files_they_lie_in_the_cache(cache: Path) -> None:
    data = load_data("demo", image_size=SIDE, subset=10, val_images=10)
    labels = soft_labels(data.train, teacher(Oracle(1), 1), RECIPE)
    assert labels.file.folder.parent == cache / "soft-labels"


def test_every_crop_has_its_turn(data: DataSet, tmp_path: Path) -> None:
    labels = soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path)
    views = StoredViews(data.train, labels, pil_to_tensor)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    epochs = [views.numbers(order, epoch) for epoch in range(2 * CROPS)]
    assert sorted(torch.cat(epochs[:CROPS]).tolist()) == list(range(len(views)))
    assert torch.cat(epochs[:CROPS]).equal(torch.cat(epochs[CROPS:]))
    assert labels.crop(1, 2) == labels.crop(1, 2 + CROPS) != labels.crop(1, 0)


def test_workers_map_the_file_themselves(data: DataSet, tmp_path: Path) -> None:
    labels = soft_labels(data.train, teacher(Oracle()), other(crops=50), folder=tmp_path)
    views = StoredViews(data.train, labels, pil_to_tensor)
    expected = views[3]
    assert labels.bytes > 5_000
    assert len(pickle.dumps(labels)) < 2_000
    again = pickle.loads(pickle.dumps(views))[3]
    assert again[0].equal(expected[0]) and again[2].equal(expected[2])
    loader = DataLoader(views, batch_size=4, sampler=views.numbers(torch.arange(8), 1).tolist())
    images, classes, targets = next(iter(loader))
    assert images.shape == (4, 3, SIDE, SIDE)
    assert classes.tolist() == data.train.labels[:4].tolist()
    assert targets.equal(labels.targets(torch.arange(4), torch.ones(4, dtype=torch.long)))


def test_a_teacher_that_draws_is_the_same_after_a_kill(data: DataSet, tmp_path: Path) -> None:
    class Drawing(Oracle):
        def forward(self, x_BCSS: Tensor) -> Tensor:
            return super().forward(x_BCSS) + torch.randn(len(x_BCSS), CLASSES)

    before = torch.get_rng_state()
    whole = soft_labels(data.train, teacher(Drawing()), RECIPE, folder=tmp_path / "a", batch=4)
    with pytest.raises(KeyboardInterrupt):
        soft_labels(data.train, teacher(Drawing(most=5)), RECIPE, folder=tmp_path / "b", batch=4)
    again = soft_labels(data.train, teacher(Drawing()), RECIPE, folder=tmp_path / "b", batch=4)
    assert content(whole) == content(again)
    assert torch.get_rng_state().equal(before)


def test_where_memory_is_short_fewer_are_asked_about(data: DataSet, tmp_path: Path) -> None:
    class Large(Oracle):
        def forward(self, x_BCSS: Tensor) -> Tensor:
            if len(x_BCSS) > 2:
                raise torch.OutOfMemoryError
            return super().forward(x_BCSS)

    large = Large()
    labels = soft_labels(data.train, teacher(large), RECIPE, folder=tmp_path / "short")
    plain, _ = finished(data.train, tmp_path / "plain")
    assert len(large.seen) == labels.computed
    positions, crops = torch.arange(len(data.train)), torch.zeros(len(data.train), dtype=torch.long)
    torch.testing.assert_close(labels.targets(positions, crops), plain.targets(positions, crops))


def test_a_full_disk_is_said_before_anything_is_computed(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SretNasError, match="there is room for 100 B") as found:
        soft_labels(data.train, teacher(Oracle(most=0)), RECIPE, folder=tmp_path)
    assert found.value.exit_code == 1


def test_what_cannot_be_written_is_one_line(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SretNasError, match="soft labels cannot be written: Not a directory"):
        soft_labels(data.train, teacher(Oracle()), RECIPE, folder=tmp_path / "file")


def test_a_picture_that_cannot_be_decoded_is_named(data: DataSet, tmp_path: Path) -> None:
    items = data.train.items
    assert items is not None
    broken = Path(items.name(int(data.train.indices[2])))
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=broken.name):
        soft_labels(
            Stream(items, data.train.indices, SIDE), teacher(Oracle()), RECIPE, folder=tmp_path
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crops": 0}, "crops: given 0"),
        ({"k": 0}, "k: given 0"),
        ({"scale": (0.0, 1.0)}, "scale: given"),
        ({"scale": (0.5, 1.1)}, "scale: given"),
        ({"ratio": (2.0, 1.0)}, "ratio: given"),
        ({"temperature": 0.0}, "temperature: given 0"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        other(**change)
