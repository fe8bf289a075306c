"""Train some architectures by one long and many short trainings: a table to choose proxies by.

    nice -n 19 python benchmarks/proxy_table.py train     goes on where it stopped
    python benchmarks/proxy_table.py speed                on a quiet machine

Half of the architectures of ``tables/space.yaml``: one of every two neighbours in MACs, drawn
by a fixed seed. The reference is a long training on all embedded training images with two
seeds, the second of them not for all. A fidelity is ``BASE`` with one or two fields changed, or
the proxy of ``table.py``, trained with a third seed, so that it shares no luck with the
reference. All validate on the same split, cut from the training images.

``speed`` measures training images per second of every third architecture at every scale, and
of a few of the space ``sret``, whose sizes are those of real searches. ``proxies.py`` reads
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from table import CURVE, PROXY, SOURCE, SPACE, TABLES, Table, machine, small_space, turns

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import load_data
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.proxy import Proxy
from sret_nas.space import SearchSpace
from sret_nas.study.records import step_of

FILE = TABLES / "proxies-fashion.json"
STRATUM = 2
THIRD = 3
REAL_SPACE = "sret"
REAL_ARCHITECTURES = 3
REFERENCE = "reference"
SEEDS = {REFERENCE: (1, 2)}
"""Seeds of a plan; (0,) where it is not named."""
ADOPTED = "2,000 images, width 1, batch 32"
"""The plan of ``table.py``: trained there, with half of the validation images."""
SCALE = ("image_size", "stem_stride", "width", "batch")
"""What decides the speed; plans that differ in other fields alone are measured once."""
BASE = Proxy(
    image_size=32,
    stem_stride=4,
    width=0.5,
    subset=4_000,
    val_images=2_000,
    epochs=4,
    batch=64,
    lr=2e-3,
    pad=2,
)
"""The preset ``fast`` when the table was made."""


def changed(**fields: Any) -> Proxy:
    """``BASE`` with some fields changed."""
    return Proxy.model_validate(BASE.model_dump() | {"rungs": ()} | fields)


PLANS = {
    "fast": BASE,
    REFERENCE: changed(width=1.0, subset=None, epochs=8),
    "width 1": changed(width=1.0),
    "2,000 images": changed(subset=2_000),
    "2 epochs": changed(epochs=2),
    "1 epoch": changed(epochs=1),
    "16 px, width 1": changed(image_size=16, width=1.0),
    "16 px, stem stride 2": changed(image_size=16, stem_stride=2),
    ADOPTED: PROXY,
}
"""By name, in the order in which they are trained; names say what differs from ``fast``."""


@dataclass
class Row:
    """One architecture.

    Attributes:
        architecture: As the space has it, at the scale of the reference.
        trainings: By plan and seed, the columns of ``table.CURVE``, one value an epoch.
        images_per_second: By the first plan of a scale, training speed in every round of
            ``speed``; one thread.
    """

    architecture: Architecture
    trainings: dict[str, dict[int, dict[str, list[float]]]] = field(default_factory=dict)
    images_per_second: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, costs included."""
        costs = cost(self.architecture)
        return {
            "id": self.architecture.id,
            "macs": costs.macs,
            "params": costs.params,
            "images_per_second": self.images_per_second,
            "trainings": {
                plan: {str(seed): curve for seed, curve in sorted(curves.items())}
                for plan, curves in self.trainings.items()
            },
            "architecture": self.architecture.to_dict(),
        }


def first_alike(name: str) -> str:
    """The first plan of the same scale, by which its speed is kept."""
    scale = PLANS[name].model_dump(include=set(SCALE))
    return next(
        other for other, plan in PLANS.items() if plan.model_dump(include=set(SCALE)) == scale
    )


def chosen() -> list[Architecture]:
    """One of every ``STRATUM`` neighbours in MACs."""
    ordered = sorted(small_space(), key=lambda arch: (cost(arch).macs, arch.id))
    rng = random.Random(0)
    return [rng.choice(ordered[i : i + STRATUM]) for i in range(0, len(ordered), STRATUM)]


class ProxyTable:
    """The table, as far as it is made.

    Args:
        path: Its file; where there is none, the table is empty.

    Attributes:
        rows: By id, in the order of MACs.
        made: How it was made.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.rows = {arch.id: Row(arch) for arch in chosen()}
        self.made: dict[str, Any] = {}
        if path.exists():
            document = json.loads(path.read_text())
            self.made = document["made"]
            for found in document["architectures"]:
                row = self.rows[found["id"]]
                row.images_per_second = found["images_per_second"]
                row.trainings = {
                    plan: {int(seed): curve for seed, curve in curves.items()}
                    for plan, curves in found["trainings"].items()
                }

    def missing(self) -> list[tuple[str, int, Row]]:
        """Plans, seeds and rows still to be trained, in the order to do it in.

        The second seed of the reference comes early for a third of the architectures, and
        last for the others: it can be left out there.
        """
        rows = list(self.rows.values())
        third = rows[THIRD // 2 :: THIRD]
        others = [row for row in rows if row not in third]
        first, second = SEEDS[REFERENCE]
        queue = [("fast", 0, rows), (REFERENCE, first, rows), (REFERENCE, second, third)]
        queue += [(plan, 0, rows) for plan in PLANS if plan not in ("fast", REFERENCE)]
        queue += [(REFERENCE, second, others)]
        return [
            (plan, seed, row)
            for plan, seed, some in queue
            for row in random.Random(seed).sample(some, len(some))
            if seed not in row.trainings.get(plan, {})
        ]

    def save(self) -> None:
        """Write it, one architecture a line."""
        rows = ",\n".join(json.dumps(row.to_dict()) for row in self.rows.values())
        made = json.dumps(self.made, indent=1, ensure_ascii=False)
        files.write(self.path, f'{{"made": {made},\n"architectures": [\n{rows}\n]}}\n')


def evaluators() -> dict[str, ProxyEvaluator]:
    """By plan; all of one split."""
    return {
        name: ProxyEvaluator(plan, load_data(SOURCE, seed=0, **plan.load_options()))
        for name, plan in PLANS.items()
    }


def describe(ready: dict[str, ProxyEvaluator]) -> dict[str, Any]:
    """How a table is made; a table is continued only where all this is the same."""
    return {
        "script": "benchmarks/proxy_table.py",
        "space": SPACE.name,
        "architectures": f"one of every {STRATUM} neighbours in MACs, drawn by seed 0",
        "data": {"source": SOURCE, "split_seed": 0},
        **machine(),
    } | {
        "plans": {
            name: {
                "proxy": evaluator.proxy.model_dump(mode="json"),
                "seeds": list(SEEDS.get(name, (0,))),
                "fingerprint": evaluator.data.fingerprint,
                "train": len(evaluator.data.train),
                "val": len(evaluator.data.val),
            }
            for name, evaluator in ready.items()
        }
    }


def adopt(table: ProxyTable, fingerprint: str) -> None:
    """Take over what ``table.py`` has trained on the same data."""
    other = Table()
    if other.made["data"]["fingerprint"] != fingerprint:
        raise SystemExit(f"{other.path} was trained on other data")
    for arch_id, row in table.rows.items():
        row.trainings[ADOPTED] = {0: other.rows[arch_id].curves[0]}


def train(table: ProxyTable) -> None:
    """Train what is missing, one after another; saved after each."""
    torch.set_num_threads(1)
    ready = evaluators()
    made = describe(ready)
    earlier = {key: value for key, value in table.made.items() if key in made}
    if earlier and earlier != made:
        raise SystemExit(f"{table.path} was made otherwise: {earlier}; now {made}")
    table.made |= made
    adopt(table, made["plans"][ADOPTED]["fingerprint"])
    for plan, seed, row in table.missing():
        cpu = time.process_time()
        found = ready[plan].evaluate(row.architecture, seed=seed)
        curve = [step_of(ready[plan].declaration, epoch) for epoch in found.curve]
        row.trainings.setdefault(plan, {})[seed] = {
            name: [epoch[name] for epoch in curve] for name in CURVE
        }
        table.save()
        print(
            f"{plan}, seed {seed}, {row.architecture.id}: val_loss {curve[-1]['val_loss']:.3f}, "
            f"{time.process_time() - cpu:.1f} s of CPU",
            flush=True,
        )


def speed(table: ProxyTable, rounds: int, seconds: float) -> None:
    """Measure some architectures at every scale once a round, in a new order each round."""
    torch.set_num_threads(1)
    ready = evaluators()
    real = SearchSpace.load(REAL_SPACE).sample(REAL_ARCHITECTURES, seed=0)
    archs = [row.architecture for row in table.rows.values()][THIRD // 2 :: THIRD] + real
    scales = sorted({first_alike(name) for name in PLANS})
    tasks = [(arch, scale) for arch in archs for scale in scales]
    found: dict[str, dict[str, list[float]]] = {
        arch.id: {scale: [] for scale in scales} for arch in archs
    }
    for scale in scales:
        ready[scale].images_per_second(archs[0])  # warm-up
    loads: list[float] = []
    start = time.perf_counter()
    for turn in turns(rounds, start, seconds):
        loads.append(round(os.getloadavg()[0], 2))
        for arch, scale in random.Random(turn).sample(tasks, len(tasks)):
            found[arch.id][scale].append(round(ready[scale].images_per_second(arch), 1))
    for row in table.rows.values():
        row.images_per_second = found.get(row.architecture.id, {})
    table.made["speed"] = {
        "how": "ProxyEvaluator.images_per_second, one process, one thread, interleaved rounds",
        "rounds": len(loads),
        "load_average_before_each_round": loads,
        REAL_SPACE: [
            {"id": arch.id, "macs": cost(arch).macs, "images_per_second": found[arch.id]}
            for arch in real
        ],
    }
    table.save()
    print(f"{len(loads)} rounds in {time.perf_counter() - start:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("train", "speed"))
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument("--seconds", type=float, default=400, help="most for speed")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    table = ProxyTable(options.out)
    if options.what == "train":
        train(table)
    else:
        speed(table, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
