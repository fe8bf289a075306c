"""How much faster an epoch of the ``fast`` proxy is on a CPU than it was at another commit.

    python benchmarks/fast_proxy.py                  # against fb4f922
    python benchmarks/fast_proxy.py --archs sret_t sret_s --rounds 30

Both codes train and validate the same architecture on the same images, by the recipe of the
baseline, each in a process of its own with one thread; they take turns, an epoch each, every
second round in the other order. A ratio above 1 says that this checkout is faster.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

from sret_nas import zoo
from sret_nas.device import fingerprint
from sret_nas.latency import timing
from sret_nas.study.config import commit

ROOT = Path(__file__).parent.parent
GOAL = 1.3
CHILD = """
import json, sys, time
import torch
torch.set_num_threads(1)
import sret_nas
from sret_nas.arch import Architecture
from sret_nas.data import load_data
from sret_nas.proxy import PRESETS, Proxy
from sret_nas.training import Trainer
asked = json.loads(sys.argv[1])
recipe = asked["recipe"] or PRESETS["fast"].model_dump(mode="json")
proxy = Proxy.model_validate(recipe)
size = {"subset": asked["images"], "val_images": asked["val_images"]}
data = load_data("demo", **(proxy.load_options() | size))
arch = proxy.apply(Architecture.load(asked["arch"]), data)
trainer = Trainer(arch, data, proxy, device=torch.device("cpu"))
def epoch():
    start = time.perf_counter()
    _, images = trainer.train_epoch()
    trainer.validate(data.val)
    return images / (time.perf_counter() - start)
epoch()
print(json.dumps({"code": sret_nas.__file__, "recipe": recipe}), flush=True)
for _ in sys.stdin:
    print(json.dumps(epoch()), flush=True)
"""
"""Runs on the code of either commit: it uses nothing that one of them has alone."""


class Side:
    """One of the two codes, in a process that trains an epoch whenever it is asked.

    Args:
        root: The folder that has its package.
        asked: What it trains.
    """

    def __init__(self, root: Path, asked: dict[str, Any]) -> None:
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=root,
        )
        ready = self._answer()
        self.recipe: dict[str, Any] = ready["recipe"]
        if not Path(ready["code"]).is_relative_to(root):
            raise RuntimeError(f"{ready['code']} was imported, not the code in {root}")

    def images_per_s(self) -> float:
        """Of one epoch, its validation included."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """End its process."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", default="fb4f922", help="commit of the baseline")
    parser.add_argument("--archs", nargs="+", default=["sret_t"], choices=zoo.PRESETS)
    parser.add_argument("--rounds", type=int, default=20, help="epochs of each")
    parser.add_argument("--images", type=int, default=640, help="training images of an epoch")
    parser.add_argument("--val-images", type=int, default=320)
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    if options.rounds < timing.MIN_ROUNDS:
        parser.error(f"--rounds: at least {timing.MIN_ROUNDS}, for an interval")
    with tempfile.TemporaryDirectory() as folder:
        baseline = Path(folder).resolve()
        unpack(options.against, baseline)
        rows = [compare(name, baseline, options) for name in options.archs]
    for row in rows:
        print(
            f"{row['arch']}: {row['ratio']:.2f} times as fast (95%: {row['low']:.2f} to "
            f"{row['high']:.2f}; rounds {min(row['ratios']):.2f} to {max(row['ratios']):.2f}), "
            f"{row['before_images_per_s']:.0f} before, {row['now_images_per_s']:.0f} images/s now"
        )
    least = min(row["low"] for row in rows)
    print(f"goal {GOAL:g}: {'reached' if least >= GOAL else 'not reached'} (by the interval's end)")
    document = {
        "device": fingerprint(torch.device("cpu"), 1).to_dict(),
        "against": options.against,
        "commit": commit(),
        "images": options.images,
        "val_images": options.val_images,
        "rows": rows,
    }
    out = options.out or ROOT / "benchmarks" / "results" / "fast-proxy-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def unpack(revision: str, folder: Path) -> None:
    """The package as it was at a commit."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "sret_nas"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        sys.exit(f"error: --against {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def compare(name: str, baseline: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of one architecture, round by round."""
    asked = {
        "arch": name,
        "images": options.images,
        "val_images": options.val_images,
        "recipe": None,
    }
    sides: list[Side] = []
    try:
        sides.append(Side(baseline, asked))
        sides.append(Side(ROOT.resolve(), asked | {"recipe": sides[0].recipe}))
        speeds: tuple[list[float], list[float]] = ([], [])
        for number in range(options.rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                speeds[which].append(sides[which].images_per_s())
    finally:
        for side in sides:
            side.end()
    ratios = [now / before for before, now in zip(*speeds, strict=True)]
    found, before, now = (
        timing.summarise([[one] for one in values]) for values in (ratios, *speeds)
    )
    return {
        "arch": name,
        "ratio": found.median_s,
        "low": found.low_s,
        "high": found.high_s,
        "before_images_per_s": before.median_s,
        "now_images_per_s": now.median_s,
        "ratios": ratios,
    }


if __name__ == "__main__":
    main()
