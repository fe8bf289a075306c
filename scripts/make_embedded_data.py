"""Make the embedded demonstration set from the public Fashion-MNIST files.

    python scripts/make_embedded_data.py FOLDER

FOLDER holds the four ``*-ubyte.gz`` files of Fashion-MNIST (Zalando SE, MIT).
The first 1,000 training and 200 test images of each class are kept, in the order
of the files, so the result depends on nothing else. It is one xz-compressed NumPy
array, (12000, 785) uint8: the training rows, then the test rows; in a row the
label, then 28 × 28 pixels.
"""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "sret_nas" / "assets" / "fashion_mnist_12k.npy.xz"
PIXELS = 28 * 28
CLASSES = 10
IMAGES_HEADER, LABELS_HEADER = 16, 8
MAX_BYTES = 6_000_000


def read(folder: Path, part: str) -> np.ndarray:
    """Rows of one part of the original: the label, then the pixels."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read()[IMAGES_HEADER:], np.uint8).reshape(-1, PIXELS)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[LABELS_HEADER:], np.uint8)
    return np.column_stack([labels, pixels])


def first_of_each_class(rows: np.ndarray, per_class: int) -> np.ndarray:
    """The first rows of each class, in the order of the file."""
    kept = [np.flatnonzero(rows[:, 0] == label)[:per_class] for label in range(CLASSES)]
    return rows[np.sort(np.concatenate(kept))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded demonstration set.")
    parser.add_argument("folder", type=Path, help="folder with the four *-ubyte.gz files")
    folder = parser.parse_args().folder
    rows = np.concatenate(
        [first_of_each_class(read(folder, part), n) for part, n in (("train", 1000), ("t10k", 200))]
    )
    buffer = io.BytesIO()
    np.save(buffer, rows)
    packed = lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    if len(packed) > MAX_BYTES:
        raise SystemExit(f"{len(packed):,} bytes; allowed: {MAX_BYTES:,}")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(packed)
    print(f"{TARGET.name}: {rows.shape[0]:,} images, {len(packed):,} bytes")


if __name__ == "__main__":
    main()
