"""What the ways to a trained model are worth at equal time, on real images.

    python benchmarks/cifar.py package cifar --train 4000 --val 1000 --test 2000
    python benchmarks/take_away.py --data cifar --minutes 2.5

SReT-T at 32 px (stem stride 4: 74.1 MMACs) is trained alone, distilled, and grown from a
relative with half of its blocks; timm's resnet34, which has the same MACs there (74.8 M), by
the same command with the same recipe; it is also the teacher. Each may train for ``--minutes`` of
processor time on one thread, which other programs on the machine do not count in: how many epochs
that is follows from speeds that are measured beforehand, the arms taking turns. What it takes to
ask the teacher, and to train the relative, is part of the time. The teacher's own training is
not. Then the model trained alone is exported to ONNX and to int8: size, accuracy on the
validation images, latency on this device, by ``sret-nas export``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from sret_nas import Architecture, cost
from sret_nas.deploy.full_training import Watch
from sret_nas.deploy.train import Training
from sret_nas.device import fingerprint
from sret_nas.study.config import commit

RECIPE: dict[str, Any] = {
    "epochs": 1, "batch": 128, "lr": 1e-3, "lr_batch": 128, "warmup": 0.1, "final_lr": 0.01,
    "weight_decay": 0.05, "label_smoothing": 0.1, "drop_path": 0.0, "pad": 4, "ema": 0.98,
    "image_size": 32,
}  # fmt: skip
"""Alike for all arms: none has one tuned for it."""
TEACHER = "resnet34"
CROPS = 4


def architecture(blocks_share: float = 1.0) -> Architecture:
    """SReT-T for the images; with a share of its blocks, rounded up."""
    data = Architecture.load("sret_t").at(image_size=32, stem_stride=4, num_classes=10).to_dict()
    for stage in data["stages"]:
        stage["blocks"] = -(-stage["blocks"] * blocks_share // 1)
    data["stages"] = [{**stage, "blocks": int(stage["blocks"])} for stage in data["stages"]]
    return Architecture.load(data)


class Arm:
    """One way to a trained model.

    Args:
        name: What it is called.
        network: What is trained.
        asked: Options of the training.
    """

    def __init__(self, name: str, network: str, **asked: Any) -> None:
        self.name, self.network, self.asked = name, network, asked

    def training(self, args: argparse.Namespace, out: Path, epochs: int, **more: Any) -> Training:
        options: dict[str, Any] = {
            "data": str(args.data), "recipe": RECIPE | {"epochs": epochs}, "device": "cpu",
            "workers": 0, "out": out, "seed": args.seed,
        }  # fmt: skip
        return Training(self.network, **options | self.asked | more)


def speed(arm: Arm, args: argparse.Namespace, place: Path) -> Any:
    """A training whose steps can be timed, one at a time."""
    trainer = arm.training(args, place / f"speed-{arm.name}", 1)._trainer()
    trainer.model.train()
    trainer.rates_T.fill_(1e-6)
    steps = (None for number in itertools.count(1) for _ in trainer.feed.epoch(number))

    def step() -> float:
        next(steps)
        start = time.process_time()
        with trainer._running():
            trainer.training(trainer._train_step, trainer._train_step_as_memory_allows)
            trainer._after_step()
        trainer.at.zero_()
        return trainer.feed.batch / (time.process_time() - start)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, default=2.5, help="Of processor time, for each arm."
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="Steps of each arm that are timed.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/take-away-cpu.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        document = measure(args, Path(folder))
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


def measure(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    files = {"sret_t": architecture(), "half": architecture(0.5)}
    for name, arch in files.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump(arch.to_dict()))
    student, half = (str(place / f"{name}.yaml") for name in files)
    plain = [Arm("timm", TEACHER), Arm("alone", student), Arm("relative", half)]
    speeds = _interleaved(plain, args, place)
    budget = 60 * args.minutes
    images = len(plain[0].training(args, place / "count", 1).data.train)

    def epochs(name: str, seconds: float) -> int:
        return max(1, round(seconds * speeds[name] / images))

    rows = []

    def train(arm: Arm, count: int, before: float = 0.0, **more: Any) -> float:
        said: list[str] = []
        start = time.process_time()
        training = arm.training(args, place / arm.name, count, watch=Watch(say=said.append), **more)
        found = training.run()
        seconds = time.process_time() - start + before  # with validation, test and the card
        test, val = found.metrics["test"], found.metrics["validation"]
        rows.append(
            {
                "arm": arm.name,
                "epochs": count,
                "seconds": seconds,
                **{key: found.metrics["cost"][key] for key in ("params", "macs")},
                "val_top1": val["top1"],
                "test_top1": test["top1"],
                "test_low": test["top1_low"],
                "test_high": test["top1_high"],
                "calibration_error": test["calibration_error"],
                "said": [line for line in said if "parameters taken over" in line],
            }
        )
        print(f"{arm.name}: {count} epochs, {seconds:.0f} s, test {test['top1']:.1%}", flush=True)
        return time.process_time() - start

    train(Arm("timm", TEACHER), epochs("timm", budget))
    train(Arm("alone", student), epochs("alone", budget))
    teacher = {"teachers": [str(place / "timm")], "soft_labels": CROPS}
    start = time.process_time()
    Arm("asking", student, **teacher).training(args, place / "asking", 1)._trainer()
    asking = time.process_time() - start
    distilled = Arm("distilled", student, **teacher)
    train(distilled, epochs("alone", budget - asking), before=asking)
    spent = train(Arm("relative", half), epochs("relative", budget / 2))
    grown = Arm("grown", student, init=str(place / "relative"))
    train(grown, epochs("alone", budget - spent), before=spent)
    document: dict[str, Any] = {
        "device": asdict(fingerprint(torch.device("cpu"))),
        "threads": args.threads,
        "commit": commit(),
        "data": f"{args.data.name}: {images} training images",
        "recipe": RECIPE,
        "minutes": args.minutes,
        "images_per_second": speeds,
        "seconds_asking": asking,
        "macs": cost(files["sret_t"]).macs,
        "rows": rows,
    }
    if not args.no_export:
        document["int8"] = export(place / "alone", args)
    return document


def _interleaved(arms: list[Arm], args: argparse.Namespace, place: Path) -> dict[str, float]:
    """Images a second of each, steps taking turns."""
    steps = {arm.name: speed(arm, args, place) for arm in arms}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds + 2):
        for name, step in steps.items():
            found[name].append(step())
    return {name: statistics.median(values[2:]) for name, values in found.items()}


def export(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What ``sret-nas export --to onnx --int8`` says of a model."""
    command = [
        str(Path(sys.executable).parent / "sret-nas"), "export", str(model), "--to", "onnx",
        "--int8", "--data", str(args.data), "--format", "json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return {key: value for key, value in found.items() if key not in ("model", "file")}


def table(document: dict[str, Any]) -> str:
    lines = [
        "| arm | epochs | seconds of one core | params | MMACs | validation | test (95%) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['arm']} | {row['epochs']} | {row['seconds']:.0f} | {row['params'] / 1e6:.2f}M | "
        f"{row['macs'] / 1e6:.1f} | {row['val_top1']:.1%} | {row['test_top1']:.1%} "
        f"({row['test_low']:.1%} to {row['test_high']:.1%}) |"
        for row in document["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
