"""How long it takes to open a folder of many images, beside torchvision's ``ImageFolder``.

    python benchmarks/listing.py --images 1000000

Ours lists the files and reads every one to know the content; the second time only those that
have changed; and a worker gets the list from the search. torchvision lists names alone. The
files are small ones that this script writes and removes, so that they lie in memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image

from sret_nas.data import load_data
from sret_nas.device import cores, processor
from sret_nas.study.config import commit, versions

CLASSES = 1000
OPTIONS = {"image_size": 28, "subset": 4000, "val_images": 2000}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "listing-cpu.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, cache = Path(name) / "images", Path(name) / "cache"
        paint(root, options.images)
        os.environ["XDG_CACHE_HOME"] = str(cache)
        listing = pickle.dumps(load_data(root, **OPTIONS).listing)
        arms: dict[str, Callable[[], object]] = {
            "first": lambda: (forget(cache), load_data(root, **OPTIONS)),
            "again": lambda: load_data(root, **OPTIONS),
            "worker": lambda: load_data(pickle.loads(listing), **OPTIONS),
            "torchvision": lambda: torchvision.datasets.ImageFolder(str(root)),
        }
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(options.rounds):
            for arm, step in arms.items():
                start = time.perf_counter()
                step()
                seconds[arm].append(time.perf_counter() - start)
    medians = {arm: statistics.median(found) for arm, found in seconds.items()}
    for arm, median in medians.items():
        print(f"{arm:12} {median:6.1f} s, {median / medians['torchvision']:.2f}× torchvision's")
    document = {
        "device": {"processor": processor(), "cores": cores()},
        "versions": versions() | {"torchvision": torchvision.__version__},
        "commit": commit(),
        "images": options.images,
        "classes": CLASSES,
        "listing_bytes": len(listing),
        "seconds": seconds,
        "ratio": {arm: median / medians["torchvision"] for arm, median in medians.items()},
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def paint(root: Path, images: int) -> None:
    """Write so many images, no two with the same bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    for label in range(CLASSES):
        folder = root / f"n{label:08d}"
        folder.mkdir(parents=True)
        for number in range(images // CLASSES):
            # What follows the end of a JPEG is no part of its image.
            (folder / f"{number}.jpeg").write_bytes(file.getvalue() + f"{label}/{number}".encode())


def forget(cache: Path) -> None:
    """What was kept of the contents."""
    for path in cache.rglob("digests.sqlite*"):
        path.unlink()


if __name__ == "__main__":
    main()
