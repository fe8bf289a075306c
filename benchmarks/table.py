"""Train every architecture of a small space: a fixed table for benchmarks.

    python benchmarks/table.py train     goes on where it stopped
    python benchmarks/table.py speed     on a quiet machine, when all are trained

The space is ``tables/space.yaml``, written at the scale at which it is trained, so that
the architecture of a row is the very one whose costs and curve the row has. Seed 0
for all, seed 1 for every third in the order of ids. The data are split once, by seed 0:
a seed decides weights, order and augmentation alone.

Wall times of the trainings depend on what else the machine did, so they are kept but not
to be compared between rows. ``speed`` measures training images per second of every
architecture in interleaved rounds; seconds for benchmarks are work over that
(``Row.epoch_seconds``), work being training images plus a third of validation images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet, load_data
from sret_nas.device import fingerprint
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.proxy import VALIDATION_COST, Proxy
from sret_nas.space import SearchSpace
from sret_nas.study.config import versions
from sret_nas.study.records import step_of
from sret_nas.training import EpochResult

TABLES = Path(__file__).parent / "tables"
SPACE = TABLES / "space.yaml"
FILE = TABLES / "smoke-fashion.json"
SOURCE = "demo"
PROXY = Proxy(
    image_size=32,
    stem_stride=4,
    subset=2_000,
    val_images=1_000,
    epochs=4,
    rungs=(1, 2, 4),
    batch=32,
    lr=2e-3,
    pad=2,
    seeds=2,
)
SECOND_SEED_EVERY = 3
CURVE = ("train_loss", "val_loss", "val_accuracy", "seconds", "images")


@dataclass
class Row:
    """One architecture of the table.

    Attributes:
        architecture: The architecture.
        macs: Multiply-adds of one image.
        params: Parameters.
        curves: By seed, the columns of ``CURVE``, one value an epoch.
        images_per_second: Training speed in every round of ``speed``; one thread.
    """

    architecture: Architecture
    macs: int
    params: int
    curves: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    images_per_second: list[float] = field(default_factory=list)

    @property
    def epoch_seconds(self) -> float:
        """Seconds of one epoch for benchmarks: work over median speed."""
        images = self.curves[0]["images"][0] + VALIDATION_COST * (PROXY.val_images or 0)
        return images / statistics.median(self.images_per_second)

    def loss(self, epoch: int, seed: int = 0) -> float:
        """Validation loss after an epoch, counted from 1."""
        return self.curves[seed]["val_loss"][epoch - 1]

    def results(self, seed: int = 0) -> list[EpochResult]:
        """The curve as a training reports it, with the seconds for benchmarks."""
        curve = self.curves[seed]
        columns = [curve[name] for name in ("train_loss", "val_loss", "val_accuracy", "images")]
        return [
            EpochResult(epoch, train_loss, val_loss, accuracy, self.epoch_seconds, int(images))
            for epoch, (train_loss, val_loss, accuracy, images) in enumerate(
                zip(*columns, strict=True), 1
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``work_macs`` is that of one whole training, forward passes alone."""
        images = sum(self.curves[0]["images"]) if 0 in self.curves else 0
        return {
            "id": self.architecture.id,
            "macs": self.macs,
            "params": self.params,
            "work_macs": int(images * self.macs),
            "images_per_second": self.images_per_second,
            "curves": {str(seed): curve for seed, curve in sorted(self.curves.items())},
            "architecture": self.architecture.to_dict(),
        }


class Table:
    """The table, as far as it is made.

    Args:
        path: Its file; where there is none, the table is empty.

    Attributes:
        rows: By id; all architectures of the space, in the order of ids.
        made: How it was made.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.space = SearchSpace.load(SPACE)
        self.rows = {
            arch.id: Row(arch, cost(arch).macs, cost(arch).params) for arch in small_space()
        }
        self.made: dict[str, Any] = {}
        if path.exists():
            document = json.loads(path.read_text())
            self.made = document["made"]
            for found in document["architectures"]:
                row = self.rows[found["id"]]
                row.curves = {int(seed): curve for seed, curve in found["curves"].items()}
                row.images_per_second = found["images_per_second"]

    def missing(self) -> list[tuple[str, int]]:
        """Ids and seeds still to be trained, seed 0 first, each in a mixed order."""
        ids = list(self.rows)
        seeds = {0: ids, 1: ids[::SECOND_SEED_EVERY]}
        found: list[tuple[str, int]] = []
        for seed, some in seeds.items():
            todo = [(arch_id, seed) for arch_id in some if seed not in self.rows[arch_id].curves]
            random.Random(seed).shuffle(todo)
            found += todo
        return found

    def save(self) -> None:
        """Write it, one architecture a line."""
        rows = ",\n".join(json.dumps(row.to_dict()) for row in self.rows.values())
        made = json.dumps(self.made, indent=1, ensure_ascii=False)
        files.write(self.path, f'{{"made": {made},\n"architectures": [\n{rows}\n]}}\n')


def small_space() -> list[Architecture]:
    """Every architecture of ``SPACE`` once, in the order of ids."""
    space = SearchSpace.load(SPACE)
    codes = space.coding.all_codes(0, space.size)
    distinct = {arch.id: arch for arch in space.decode_many(codes)}
    return [arch for _, arch in sorted(distinct.items())]


def data() -> DataSet:
    return load_data(SOURCE, seed=0, **PROXY.load_options())


def describe(found: DataSet) -> dict[str, Any]:
    """How a table is made; a table is continued only where all this is the same."""
    return {
        "script": "benchmarks/table.py",
        "space": SPACE.name,
        "proxy": PROXY.model_dump(mode="json"),
        "data": {
            "source": SOURCE,
            "fingerprint": found.fingerprint,
            "train": len(found.train),
            "val": len(found.val),
            "split_seed": 0,
        },
        "seeds": f"0 for all, 1 for every {SECOND_SEED_EVERY}rd in the order of ids",
        **machine(),
    }


def machine() -> dict[str, Any]:
    """What trains, for files that are kept."""
    device = fingerprint(torch.device("cpu"), 1).to_dict()
    return {
        "device": {key: device[key] for key in ("device", "name", "cores", "threads", "torch")},
        "versions": versions(),
    }


_work: dict[str, ProxyEvaluator] = {}


def _start() -> None:
    torch.set_num_threads(1)
    _work["evaluator"] = ProxyEvaluator(PROXY, data())


def _train(task: tuple[Architecture, int]) -> tuple[str, int, dict[str, list[float]]]:
    arch, seed = task
    assert PROXY.apply(arch, _work["evaluator"].data).id == arch.id
    curve = _work["evaluator"].evaluate(arch, seed=seed).curve
    epochs = [step_of(PROXY.declaration, epoch) for epoch in curve]
    return arch.id, seed, {name: [epoch[name] for epoch in epochs] for name in CURVE}


def train(table: Table, processes: int) -> None:
    made = describe(data())
    earlier = {key: value for key, value in table.made.items() if key in made}
    if earlier and earlier != made:
        raise SystemExit(f"{table.path} was made otherwise: {earlier}; now {made}")
    table.made = made | {
        "seconds": "curves have wall times of two trainings side by side, one thread each, on a "
        "machine busy with other work: not comparable between rows. Benchmarks divide work by "
        "images_per_second.",
        **{key: value for key, value in table.made.items() if key not in made},
    }
    todo = table.missing()
    tasks = [(table.rows[arch_id].architecture, seed) for arch_id, seed in todo]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes, _start) as pool:
        for done, (arch_id, seed, curve) in enumerate(pool.imap_unordered(_train, tasks), 1):
            table.rows[arch_id].curves[seed] = curve
            table.save()
            left = (time.perf_counter() - start) / done * (len(todo) - done)
            print(
                f"{done}/{len(todo)} {arch_id} seed {seed}: val_loss {curve['val_loss'][-1]:.3f}, "
                f"{sum(curve['seconds']):.1f} s; {left:.0f} s left",
                flush=True,
            )


def speed(table: Table, rounds: int, seconds: float) -> None:
    """Measure every architecture once a round, in a new order each round."""
    torch.set_num_threads(1)
    evaluator = ProxyEvaluator(PROXY, data())
    ids = list(table.rows)
    evaluator.images_per_second(table.rows[ids[0]].architecture)  # warm-up
    start = time.perf_counter()
    loads: list[float] = []
    found: dict[str, list[float]] = {arch_id: [] for arch_id in ids}
    for turn in turns(rounds, start, seconds):
        loads.append(round(os.getloadavg()[0], 2))
        for arch_id in random.Random(turn).sample(ids, len(ids)):
            row = table.rows[arch_id]
            found[arch_id].append(round(evaluator.images_per_second(row.architecture), 1))
    for arch_id, speeds in found.items():
        table.rows[arch_id].images_per_second = speeds
    spread = statistics.median(max(s) / min(s) for s in found.values())
    table.made["speed"] = {
        "how": "ProxyEvaluator.images_per_second, one process, one thread, interleaved rounds",
        "rounds": len(loads),
        "load_average_before_each_round": loads,
        "median_of_fastest_over_slowest_round": round(spread, 3),
    }
    table.save()
    print(f"{len(loads)} rounds in {time.perf_counter() - start:.0f} s; spread {spread:.2f}")


def turns(rounds: int, start: float, seconds: float) -> Iterator[int]:
    """Round numbers while time lasts for another one as long as the last."""
    before = start
    for turn in range(rounds):
        now = time.perf_counter()
        if turn and now + (now - before) > start + seconds:
            return
        before = now
        yield turn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("train", "speed"))
    parser.add_argument("--processes", type=int, default=2, help="of train, one thread each")
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument("--seconds", type=float, default=230, help="most for speed")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    table = Table(options.out)
    if options.what == "train":
        train(table, options.processes)
        return
    if table.missing():
        parser.error(f"{len(table.missing())} trainings are missing; first: train")
    speed(table, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
