"""Really trained architectures of ``sret`` at equal cost: the table that scores are judged by.

    python benchmarks/cifar.py package cifar --train 10000 --val 5000 --test 1000
    nice -n 19 python benchmarks/ground_truth.py --data cifar --minutes 60    goes on
    python benchmarks/proxies.py                                              reads it

Three bands of one cost (MACs within 7%, parameters within 10% of half of, once and twice what
SReT-T has), and some of all sizes. The costs are those of the architectures themselves, at 224 px;
trained is what ``arch.at`` makes of them at a plan's scale. ``TRUTHS`` are trainings as long as a
CPU allows: plain, and distilled from a teacher that ``sret-nas train`` has trained on the same
images, each with a second seed for half of the architectures. The other plans are cheap: they are
what a search could afford, with a seed that the truth has not. All validate on the same images,
which none was trained on.

A sitting trains what is missing, in an order that a part is useful of, and keeps every training
with the machine that did it. Losses and accuracies go into the table; seconds are of the
processor, on one thread, and comparable within a machine alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sret_nas import create_model, files
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet, load_data
from sret_nas.deploy.train import Training
from sret_nas.device import fingerprint
from sret_nas.recipe import FullRecipe
from sret_nas.space import SearchSpace
from sret_nas.study.config import versions
from sret_nas.training.feeding import DeviceFeed, Feed
from sret_nas.training.full import FullTrainer
from sret_nas.training.labelling import soft_labels
from sret_nas.training.pictures import PictureFeed
from sret_nas.training.soft_labels import LabelRecipe
from sret_nas.training.teachers import Teacher

FILE = Path(__file__).parent / "tables" / "cifar10.json"
SPACE = "sret"
CLASSES, CHANNELS = 10, 3
CENTRE = "sret_t"
BANDS = {"once": 1.0, "half": 0.5, "twice": 2.0}
"""By name, the costs over those of ``CENTRE``; in the order of training."""
IN_BAND, OF_ALL_SIZES = 12, 12
MACS_WITHIN, PARAMS_WITHIN = 1.07, 1.10
SPREAD = "sizes"
SIZES = (0.2, 6.0)
"""Smallest and largest MACs of ``SPREAD``, over those of ``CENTRE``."""
CURVE = ("train_loss", "val_loss", "val_accuracy")
TEACHER = "resnet34"
TEACHER_RECIPE: dict[str, Any] = {
    "epochs": 16, "batch": 128, "lr": 1e-3, "lr_batch": 128, "pad": 4, "ema": 0.99,
    "image_size": 32,
}  # fmt: skip
CROPS, CROP_SCALE = 4, (0.6, 1.0)


@dataclass(frozen=True)
class Plan:
    """A training of every architecture.

    Attributes:
        recipe: How it is trained.
        images: Of the training images, the first so many of a fixed order; ``None``: all.
        val: Validation images, likewise.
        width: Factor on the widths.
        image_size: Side of the images, px.
        stem_stride: Of the stem.
        distilled: Whether the teacher's stored answers are the targets.
        seeds: Of a truth, the second for every other architecture alone.
    """

    recipe: FullRecipe
    images: int | None = None
    val: int | None = None
    width: float = 0.5
    image_size: int = 32
    stem_stride: int = 4
    distilled: bool = False
    seeds: tuple[int, ...] = (0,)

    def arch(self, arch: Architecture) -> Architecture:
        """What is trained of an architecture."""
        scale = {"image_size": self.image_size, "stem_stride": self.stem_stride}
        return arch.at(**scale, width=self.width)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "recipe": self.recipe.model_dump(mode="json")}


def recipe(**changes: Any) -> FullRecipe:
    """The recipe of the preset ``fast``, with other values."""
    usual = {"epochs": 4, "batch": 64, "lr": 2e-3, "pad": 2, "drop_path": 0.0}
    return FullRecipe.model_validate(usual | changes)


_LONG = recipe(epochs=10, batch=128, pad=4)
_SHORT: dict[str, Any] = {"images": 4_000, "val": 2_000}
PLANS: dict[str, Plan] = {
    "truth": Plan(_LONG, seeds=(1, 2)),
    "fast": Plan(recipe(), **_SHORT),
    "batch 128": Plan(recipe(batch=128, lr=2.8e-3), **_SHORT),
    "averaged weights": Plan(recipe(ema=0.98), **_SHORT),
    "16 px, stem stride 2": Plan(recipe(), **_SHORT, image_size=16, stem_stride=2),
    "width .25": Plan(recipe(), **_SHORT, width=0.25),
    "distilled": Plan(recipe(), **_SHORT, distilled=True),
    "truth, distilled": Plan(_LONG, distilled=True, seeds=(1, 2)),
    "2 epochs": Plan(recipe(epochs=2), **_SHORT, seeds=(0, 3)),
    "8 epochs of 2,000 images": Plan(recipe(epochs=8), images=2_000, val=2_000),
    "width 1, 1,000 images": Plan(recipe(), images=1_000, val=2_000, width=1.0),
    "lr halved": Plan(recipe(lr=1e-3), **_SHORT),
    "lr doubled": Plan(recipe(lr=4e-3), **_SHORT),
    "stem stride 2, 1,000 images": Plan(recipe(), images=1_000, val=2_000, stem_stride=2),
}
"""By name, in the order in which a band is trained; the cheap ones are ``fast`` with a change."""
TRUTHS = ("truth", "truth, distilled")


@dataclass
class Row:
    """One architecture.

    Attributes:
        architecture: As the space has it.
        band: One of ``BANDS``, or ``SPREAD``.
        trainings: By plan and seed: ``CURVE``, one value an epoch; ``seconds`` of processor;
            ``machine``, its number in the table.
    """

    architecture: Architecture
    band: str
    trainings: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, costs included."""
        found = cost(self.architecture)
        return {
            "id": self.architecture.id,
            "band": self.band,
            "macs": found.macs,
            "params": found.params,
            "trainings": {
                plan: {str(seed): one for seed, one in sorted(seeds.items())}
                for plan, seeds in self.trainings.items()
            },
            "architecture": self.architecture.to_dict(),
        }


@cache
def chosen() -> dict[str, tuple[Architecture, ...]]:
    """By band, the architectures: the first of a seeded draw that its bounds let pass."""
    space = SearchSpace.load(SPACE).fitted(num_classes=CLASSES, in_chans=CHANNELS)
    centre = cost(Architecture.load(CENTRE).at(num_classes=CLASSES, in_chans=CHANNELS))
    found: dict[str, tuple[Architecture, ...]] = {}
    for band, times in BANDS.items():
        macs, params = centre.macs * times, centre.params * times
        most = f"{int(macs * MACS_WITHIN)}MACs", f"{int(params * PARAMS_WITHIN)}params"
        passed = (
            arch
            for arch in space.draws(0, most)
            if cost(arch).macs * MACS_WITHIN >= macs and cost(arch).params * PARAMS_WITHIN >= params
        )
        found[band] = tuple(itertools.islice(passed, IN_BAND))
    found[SPREAD] = _of_all_sizes(space, centre.macs)
    return found


def _of_all_sizes(space: SearchSpace, macs: int) -> tuple[Architecture, ...]:
    """For each of some MACs, evenly spread on a logarithmic scale, what comes next to it."""
    drawn = space.sample(2_000, 1)
    logs = np.log([cost(arch).macs for arch in drawn])
    found: dict[str, Architecture] = {}
    for wanted in np.linspace(*np.log(np.multiply(SIZES, macs)), OF_ALL_SIZES):
        near = next(i for i in np.argsort(abs(logs - wanted)) if drawn[i].id not in found)
        found[drawn[near].id] = drawn[near]
    return tuple(found.values())


class Table:
    """The table, as far as it is made.

    Args:
        path: Its file; where there is none, the table is empty.

    Attributes:
        rows: By id, band after band.
        made: How it was made: ``plans``, ``data``, ``teacher``, ``machines``.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.rows = {arch.id: Row(arch, band) for band, some in chosen().items() for arch in some}
        self.made: dict[str, Any] = {"machines": []}
        if path.exists():
            document = json.loads(path.read_text())
            self.made = document["made"]
            for found in document["architectures"]:
                self.rows[found["id"]].trainings = {
                    plan: {int(seed): one for seed, one in seeds.items()}
                    for plan, seeds in found["trainings"].items()
                }

    def made_as(self, made: dict[str, Any]) -> Table:
        """Itself, if it was made so, or not begun."""
        earlier = {key: value for key, value in self.made.items() if key in made}
        if earlier and earlier != made:
            raise SystemExit(f"{self.path} was made otherwise: {earlier}; now {made}")
        self.made = made | {"machines": self.made["machines"]}
        return self

    def missing(self) -> Iterator[tuple[str, int, Row]]:
        """Plans, seeds and rows to be trained, in order.

        Band after band, plan after plan; the second seed of a truth for every other row.
        """
        for band in (*BANDS, SPREAD):
            rows = [row for row in self.rows.values() if row.band == band]
            for plan in PLANS:
                for turn, seed in enumerate(PLANS[plan].seeds):
                    for row in rows[::2] if turn and plan in TRUTHS else rows:
                        if seed not in row.trainings.get(plan, {}):
                            yield plan, seed, row

    def machine(self, device: torch.device, threads: int) -> int:
        """The number of this machine, with the software on it."""
        known = fingerprint(device, threads).to_dict() | {"versions": versions()}
        here = json.loads(json.dumps(known))
        if here not in self.made["machines"]:
            self.made["machines"].append(here)
        found: int = self.made["machines"].index(here)
        return found

    def save(self) -> None:
        """Write it, one architecture a line."""
        rows = ",\n".join(json.dumps(row.to_dict()) for row in self.rows.values())
        made = json.dumps(self.made, indent=1, ensure_ascii=False)
        files.write(self.path, f'{{"made": {made},\n"architectures": [\n{rows}\n]}}\n')


class Maker:
    """Trains what is missing.

    Args:
        data: The folder of images.
        teacher: The teacher's model folder; trained where it is not there.
        device: Where to train.
    """

    def __init__(self, data: Path, teacher: Path, device: torch.device) -> None:
        self.data, self.device = data, device
        self.folder = teacher
        self._loaded: dict[tuple[int, int | None, int | None], DataSet] = {}
        self._teacher: Teacher | None = None

    def images(self, plan: Plan) -> DataSet:
        """The images of a plan."""
        key = plan.image_size, plan.images, plan.val
        if key not in self._loaded:
            self._loaded[key] = load_data(
                str(self.data), image_size=key[0], subset=key[1], val_images=key[2]
            )
        return self._loaded[key]

    def teacher(self) -> Teacher:
        """The teacher, trained if need be by what ``sret-nas train`` does."""
        if self._teacher is None:
            training = Training(
                TEACHER, data=str(self.data), recipe=TEACHER_RECIPE, out=self.folder,
                device=self.device.type, workers=0,
            )  # fmt: skip
            if not training.finished:
                print(f"training the teacher {TEACHER} in {self.folder}", flush=True)
                training.run()
            data = training.data
            self._teacher = Teacher.load(
                [str(self.folder)], num_classes=data.num_classes, image_size=data.image_size,
                in_chans=data.in_chans, mean=data.mean, std=data.std, device=self.device,
                classes=data.classes,
            )  # fmt: skip
        return self._teacher

    def train(self, plan: Plan, row: Row, seed: int) -> dict[str, Any]:
        """One training: its curve, and the seconds of processor that it took."""
        data, arch = self.images(plan), plan.arch(row.architecture)
        feed = self._feed(plan, data, seed)
        start = time.process_time()
        trainer = FullTrainer(
            lambda: create_model(arch, drop_path_rate=plan.recipe.drop_path),
            data, plan.recipe, feed, seed=seed, device=self.device,
        )  # fmt: skip
        curve = list(trainer.epochs())
        found = {name: [round(getattr(epoch, name), 5) for epoch in curve] for name in CURVE}
        return found | {"seconds": round(time.process_time() - start, 2)}

    def _feed(self, plan: Plan, data: DataSet, seed: int) -> Feed:
        order, augment, blend = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        if not plan.distilled:
            return DeviceFeed(data, plan.recipe, self.device, (order, augment))
        wanted = LabelRecipe(data.image_size, CROPS, k=CLASSES, scale=CROP_SCALE)
        answers = soft_labels(data.train, self.teacher(), wanted)
        plain = plan.recipe.model_copy(update={"pad": 0})
        return PictureFeed(data, plain, self.device, blend, answers=answers)


def describe(data: DataSet) -> dict[str, Any]:
    """How a table is made; it is continued only where all this is the same."""
    made = {
        "script": "benchmarks/ground_truth.py",
        "space": SPACE,
        "data": {
            "name": "CIFAR-10: benchmarks/cifar.py --train 10000 --val 5000 --test 1000",
            "fingerprint": data.fingerprint,
            "train": len(data.train),
            "val": len(data.val),
        },
        "teacher": {
            "model": TEACHER, "recipe": TEACHER_RECIPE, "crops": CROPS, "scale": CROP_SCALE
        },
        "plans": {name: plan.to_dict() for name, plan in PLANS.items()},
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="its model folder; default beside the images")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after that")
    parser.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--share", default="1/1", help="of the work, where sittings run side by side"
    )
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    maker = Maker(args.data, args.teacher or args.data.parent / "teacher", device)
    made = describe(maker.images(PLANS["truth"]))
    part, parts = (int(n) for n in args.share.split("/"))
    todo = [one for one in Table(args.out).made_as(made).missing() if one[0] in args.plans]
    start = time.monotonic()
    for plan, seed, row in todo[part - 1 :: parts]:
        if time.monotonic() - start > 60 * args.minutes:
            break
        found = maker.train(PLANS[plan], row, seed)
        with _alone(args.out):  # another sitting may be at work on the same table
            table = Table(args.out).made_as(made)
            found["machine"] = table.machine(device, args.threads)
            table.rows[row.architecture.id].trainings.setdefault(plan, {})[seed] = found
            table.save()
        print(
            f"{row.band} {row.architecture.id} {plan}, seed {seed}: "
            f"loss {found['val_loss'][-1]:.4f}, accuracy {found['val_accuracy'][-1]:.1%}, "
            f"{found['seconds']:.0f} s",
            flush=True,
        )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
