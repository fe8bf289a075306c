"""Evaluation: the number that a plain script of timm gets, whatever the images are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_model_data_config
from torch.utils.data import DataLoader

from sret_nas.data import DataError, choose_images
from sret_nas.data.embedded import CLASSES
from sret_nas.deploy.evaluation import Evaluation, evaluate, matched
from sret_nas.deploy.opening import Opened, open_model
from sret_nas.deploy.predicting import predict, predict_all
from sret_nas.errors import SretNasError, UsageError

LETTERS = "abcdefghij"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images of ten classes, of many sizes: grey and colour, JPEG and PNG."""
    place, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, number in (("train", 2), ("test", 4)):
        for label in LETTERS:
            for i in range(number):
                height, width = random.integers(20, 90, 2)
                pixels = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
                image = Image.fromarray(pixels).resize((int(width), int(height)))
                path = place / part / label / f"{i}.{'png' if i % 2 else 'jpg'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                (image.convert("L") if i == 2 else image).save(path)
    return place


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm's reader
@pytest.mark.parametrize("which", ["folder", "timm_folder"])
def test_it_is_what_a_user_of_timm_gets(
    which: str, photos: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(which)
    model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    config = resolve_model_data_config(model)
    dataset = create_dataset(
        "", root=str(photos / "test"), transform=create_transform(**config, is_training=False),
        input_img_mode="L" if config["input_size"][0] == 1 else "RGB",
    )  # fmt: skip
    with torch.no_grad():
        theirs = torch.cat([model(images) for images, _ in DataLoader(dataset, 16)])
    labels = torch.tensor([label for _, label in dataset.reader.samples])
    opened = dataclasses.replace(open_model(place), classes=None)
    chosen = choose_images(photos, "test", image_size=opened.side)
    found = evaluate(opened, chosen.splits, chosen.classes, batch=16, keep=True)
    known = {
        str(Path(path).relative_to(photos / "test")): row
        for (path, _), row in zip(dataset.reader.samples, theirs, strict=True)
    }
    assert len(found.predictions) == len(known) == 40
    for one in found.predictions:
        row = known[str(Path(one.image).relative_to(photos / "test"))]
        assert one.prediction == LETTERS[int(row.argmax())]
        assert one.top5 == tuple(LETTERS[at] for at in row.topk(5).indices)
        assert one.probability == pytest.approx(row.softmax(0).max().item(), rel=1e-4)
    assert found.scores.top1 == (theirs.argmax(1) == labels).double().mean().item()


def run(opened: Opened, **options: object) -> Evaluation:
    chosen = choose_images("demo", "val", image_size=28, val_images=100)
    return evaluate(opened, chosen.splits, chosen.classes, **options)  # type: ignore[arg-type]


def test_the_batch_changes_nothing(folder: Path) -> None:
    opened = open_model(folder)
    told: list[str] = []
    found = run(opened, batch=50, tell=told.append)
    other = run(opened, batch=7)
    assert found.scores.counts == other.scores.counts
    assert found.scores.loss == pytest.approx(other.scores.loss)
    assert found.scores.images == 100
    assert 0.4 < found.scores.top1 < 0.9
    assert found.images_per_second > 0
    assert not found.predictions
    assert told[-1].startswith("100 of 100 images")


def test_predictions_are_in_the_order_of_the_images(folder: Path) -> None:
    opened = open_model(folder)
    found = run(opened, batch=32, keep=True)
    chosen = choose_images("demo", "val", image_size=28, val_images=100)
    (split,) = chosen.splits
    assert [one.image for one in found.predictions] == [f"image {at}" for at in split.indices]
    right = sum(one.label == one.prediction for one in found.predictions)
    assert right / 100 == found.scores.top1
    assert all(one.top5[0] == one.prediction for one in found.predictions)


def test_classes_in_another_order_are_matched_by_name(folder: Path) -> None:
    opened = open_model(folder)
    turned = dataclasses.replace(
        opened,
        classes=tuple(reversed(CLASSES)),
        run=lambda x: opened.run(x).flip(1),
    )
    known = run(opened).scores.counts
    assert run(turned).scores.counts == known
    described = dataclasses.replace(
        turned, classes=tuple(f"n{i}" for i in range(10)), descriptions=turned.classes
    )
    assert run(described).scores.counts == known


def test_other_classes_are_refused_with_the_next_step(folder: Path) -> None:
    opened = open_model(folder)
    with pytest.raises(UsageError, match="knows 10 classes, the data have 3") as refused:
        matched(opened, "abc")
    assert "--data names the images" in str(refused.value.hint)
    assert "sret-nas train" in str(refused.value.hint)
    with pytest.raises(UsageError, match="does not know the class 'hat'"):
        matched(opened, ("hat", *CLASSES[1:]))
    assert matched(opened, tuple(map(str, range(10)))) is None
    assert matched(dataclasses.replace(opened, classes=None), LETTERS) is None


def test_names_that_occur_twice_match_nothing(folder: Path) -> None:
    opened = dataclasses.replace(open_model(folder), classes=("x",) * 10)
    with pytest.raises(UsageError, match="does not know"):
        matched(opened, ("x",) * 9 + ("y",))


def test_unreadable_images_are_counted_and_named(photos: Path, folder: Path) -> None:
    opened = dataclasses.replace(open_model(folder), classes=None)
    broken = photos / "test" / "c" / "1.png"
    whole = broken.read_bytes()
    try:
        broken.write_bytes(whole[: len(whole) // 2])
        chosen = choose_images(photos, "test", image_size=28)
        found = evaluate(opened, chosen.splits, chosen.classes, batch=4)
        assert found.scores.images == 39
        (name,) = found.unreadable
        assert "1.png" in name
        more = [photos / "test" / "d" / f"{i}.{'png' if i % 2 else 'jpg'}" for i in range(4)]
        kept = [path.read_bytes() for path in more]
        try:
            for path in more:
                path.write_bytes(b"no image")
            with pytest.raises(DataError, match="5 of 40 images cannot be decoded"):
                evaluate(opened, chosen.splits, chosen.classes, batch=4)
        finally:
            for path, content in zip(more, kept, strict=True):
                path.write_bytes(content)
    finally:
        broken.write_bytes(whole)


def test_no_images_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        evaluate(open_model(folder), (), CLASSES)


def test_out_of_memory_is_one_line(folder: Path) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried …")

    with pytest.raises(SretNasError, match="out of memory at a batch of 64") as refused:
        run(dataclasses.replace(open_model(folder), run=full))
    assert refused.value.hint == "a smaller --batch"


def test_an_image_alone_is_predicted_as_in_the_data(folder: Path, tmp_path: Path) -> None:
    opened = open_model(folder)
    (split,) = choose_images("demo", "test", image_size=28).splits
    assert split.items is not None
    split.items.picture(3).save(tmp_path / "3.png")
    found = predict(opened, str(tmp_path / "3.png"), 3)
    pixels = torch.from_numpy(np.asarray(split.items.picture(3), np.float32))[None, None] / 255
    known = opened((pixels - 0.3) / 0.4)[0].softmax(0)
    assert [one.index for one in found] == known.topk(3).indices.tolist()
    assert [one.probability for one in found] == pytest.approx(known.topk(3).values.tolist())
    assert found[0].label == CLASSES[found[0].index]


def test_one_broken_image_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        Image.new("RGB", (50, 40), (200, 0, 0)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png", "a.png")]
    found, failures = predict_all(open_model(folder), [*paths, str(tmp_path)])
    assert [*found] == [paths[0], paths[2]]
    assert ["b.png: cannot identify" in str(failures[0]), "d.png: no such file" in str(failures[1])]
    assert len(failures) == 3
    assert all(failure.exit_code == 2 for failure in failures)
