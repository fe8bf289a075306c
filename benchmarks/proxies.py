"""Which short training orders architectures best for its seconds.

    python benchmarks/proxies.py

Reads ``tables/proxies-fashion.json`` (see ``proxy_table.py``), trains nothing.

Order: Kendall's τ-b with the final validation loss of the reference, averaged over those of its
seeds that all architectures have. The first epochs of the reference, and the reference itself,
are compared with its other seed, where there is one; what the whole reference reaches that way
is the most that any order can be expected to reach. Parameters and MACs (more is better) order
without training. Over all pairs, and over pairs of similar cost alone (MACs within a factor of
1.5), where size no longer tells. Intervals: percentile bootstrap over architectures, the same
draws for all, so that differences are paired; a difference is taken over the architectures
that both know.

Seconds of a candidate: its work over measured speed, mean over the measured architectures, one
thread. These networks are so small that seconds follow MACs only loosely; so the MACs of a
candidate stand beside the seconds, and the seconds on architectures of the space ``sret``,
both as multiples of those of ``fast``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from kendall import SIMILAR, Estimate, Floats, Pairs, by_cost, mean
from proxy_table import FILE, PLANS, REAL_SPACE, REFERENCE, SEEDS, ProxyTable, first_alike

from sret_nas.cost import cost
from sret_nas.proxy import VALIDATION_COST

RESULTS = Path(__file__).parent / "results"
METRICS = {"val_loss": 1, "val_accuracy": -1}
"""What trainings are ranked by, and its sign: small is good."""
DEFAULT = "fast"
LONG = PLANS[REFERENCE].epochs
CUTS = {DEFAULT: (1, 2), REFERENCE: (1, 2, 4)}
"""Epochs of a longer schedule after which the order is read as well."""
PAIRS = ("all", "similar_cost")
SHORTENED = (("1 epoch", 1), ("2 epochs", 2))
"""Plans that end where ``DEFAULT`` is cut off, with the rate brought down by then."""


@dataclass(frozen=True)
class Order:
    """A cheap quantity, and how it orders the reference's losses.

    Attributes:
        by: The plan, or the cost.
        metric: Of the training; ``None`` where there is none.
        epoch: After which the training is read; 0 without training.
        values: By seed of the reference that it is compared with, one value an architecture,
            small is good; NaN where it is unknown.
        costs: Of one candidate: ``seconds``, and ``macs`` and ``real_seconds`` over those of
            ``DEFAULT``.
    """

    by: str
    metric: str | None
    epoch: int
    values: dict[int, Floats]
    costs: dict[str, float]

    @property
    def name(self) -> str:
        """For people."""
        if not self.epoch:
            return f"more {self.by}"
        last = PLANS[self.by].epochs
        return self.by if self.epoch == last else f"{self.by}, after {self.epoch} of {last}"


class Study:
    """Everything that is compared.

    Args:
        table: With its speed measured; plans that not all architectures have are left out.

    Attributes:
        plans: Names of what was trained.
        seeds: Of the reference, had by all.
    """

    def __init__(self, table: ProxyTable) -> None:
        self.made = table.made
        self.rows = list(table.rows.values())
        self.plans = [plan for plan in PLANS if self._all_have(plan, SEEDS.get(plan, (0,))[0])]
        self.seeds = [seed for seed in SEEDS[REFERENCE] if self._all_have(REFERENCE, seed)]
        self.pairs = Pairs(by_cost([cost(row.architecture).macs for row in self.rows]))

    def _all_have(self, plan: str, seed: int) -> bool:
        return all(seed in row.trainings.get(plan, {}) for row in self.rows)

    @cached_property
    def orders(self) -> list[Order]:
        """All of them: costs first, then plans as they stand in the table."""
        free = {"seconds": 0.0, "macs": 0.0, "real_seconds": 0.0}
        sizes = {
            "params": np.array([-float(cost(row.architecture).params) for row in self.rows]),
            "MACs": np.array([-float(cost(row.architecture).macs) for row in self.rows]),
        }
        found = [
            Order(name, None, 0, dict.fromkeys(self.seeds, values), free)
            for name, values in sizes.items()
        ]
        return found + list(self._trained())

    def _trained(self) -> Iterator[Order]:
        for plan in self.plans:
            for epoch in (*CUTS.get(plan, ()), PLANS[plan].epochs):
                for metric in METRICS:
                    values = {
                        seed: self.column(plan, self._unlike(plan, seed), metric, epoch)
                        for seed in self.seeds
                    }
                    yield Order(plan, metric, epoch, values, self._costs(plan, epoch))

    def _unlike(self, plan: str, seed: int) -> int:
        """A seed of the plan that is not the reference's."""
        return next(other for other in SEEDS.get(plan, (0,)) if other != seed)

    def column(self, plan: str, seed: int, metric: str, epoch: int) -> Floats:
        """After an epoch, one value an architecture, small is good; NaN where it is unknown."""
        curves = [row.trainings[plan].get(seed) for row in self.rows]
        return np.array(
            [METRICS[metric] * curve[metric][epoch - 1] if curve else np.nan for curve in curves]
        )

    def tau(self, order: Order, where: Order | None = None) -> dict[str, Estimate]:
        """With the reference's losses; only of architectures that ``where`` knows too."""
        found = [
            self.pairs.tau(
                values + 0 * where.values[seed] if where else values,
                self.column(REFERENCE, seed, "val_loss", LONG),
            )
            for seed, values in order.values.items()
        ]
        return {pairs: mean([tau[pairs] for tau in found]) for pairs in PAIRS}

    def difference(self, order: Order, other: Order) -> dict[str, dict[str, float]]:
        """By which pairs count; above 0 where the first orders better."""
        a, b = self.tau(order, where=other), self.tau(other, where=order)
        return {pairs: (a[pairs] - b[pairs]).to_dict() for pairs in PAIRS}

    def images(self, plan: str, epoch: int) -> float:
        """Work of a training up to an epoch, in training images."""
        seen = next(iter(self.rows[0].trainings[plan].values()))["images"][0]
        return float(epoch * (seen + VALIDATION_COST * self.made["plans"][plan]["val"]))

    def seconds(self, speeds: dict[str, list[float]], plan: str, epoch: int) -> float:
        """Of one architecture whose speeds these are."""
        return self.images(plan, epoch) / statistics.median(speeds[first_alike(plan)])

    def macs(self, plan: str, epoch: int) -> float:
        """Forward MACs of a training, mean over the architectures."""
        proxy = PLANS[plan]
        tried = [
            row.architecture.at(
                image_size=proxy.image_size, stem_stride=proxy.stem_stride, width=proxy.width
            )
            for row in self.rows
        ]
        return self.images(plan, epoch) * statistics.mean(cost(arch).macs for arch in tried)

    def speed_spread(self) -> float:
        """Fastest over slowest round of one architecture at one scale, median."""
        rounds = [r for row in self.rows for r in row.images_per_second.values()]
        return statistics.median(max(r) / min(r) for r in rounds)

    def _costs(self, plan: str, epoch: int) -> dict[str, float]:
        of_default = (DEFAULT, PLANS[DEFAULT].epochs)
        small = [row.images_per_second for row in self.rows if row.images_per_second]
        real = [arch["images_per_second"] for arch in self.made["speed"][REAL_SPACE]]
        return {
            "seconds": statistics.mean(self.seconds(s, plan, epoch) for s in small),
            "macs": self.macs(plan, epoch) / self.macs(*of_default),
            "real_seconds": statistics.median(
                self.seconds(s, plan, epoch) / self.seconds(s, *of_default) for s in real
            ),
        }


def on_front(orders: list[Order], drawn: Floats, cost_name: str) -> dict[str, float]:
    """By name, the share of draws in which nothing as cheap orders better.

    Args:
        orders: What is compared.
        drawn: τ of every draw, shape (orders, draws).
        cost_name: Of ``Order.costs``.
    """
    costs = np.array([order.costs[cost_name] for order in orders])
    return {
        order.name: float(np.mean(own >= drawn[costs <= most].max(axis=0)))
        for order, own, most in zip(orders, drawn, costs, strict=True)
    }


def fronts(study: Study) -> Iterator[tuple[str, dict[str, float]]]:
    """By every cost and over both kinds of pairs, of what all architectures have."""
    cheap = [
        order
        for order in study.orders
        if order.metric != "val_accuracy" and not np.isnan([*order.values.values()]).any()
    ]
    taus = [study.tau(order) for order in cheap]
    for pairs in PAIRS:
        drawn = np.array([tau[pairs].drawn for tau in taus])
        for cost_name in cheap[0].costs:
            yield f"{cost_name}, {pairs}", on_front(cheap, drawn, cost_name)


def contrasts(study: Study) -> Iterator[dict[str, Any]]:
    """Differences within one plan: loss from accuracy, a short schedule from a cut one."""
    whole = {(order.by, order.metric, order.epoch): order for order in study.orders}
    for (by, metric, epoch), order in whole.items():
        if metric == "val_loss":
            found = study.difference(order, whole[by, "val_accuracy", epoch])
            yield {"of": f"{order.name}, by loss", "from": "by accuracy"} | found
    for by, epoch in SHORTENED:
        order, other = whole[by, "val_loss", epoch], whole[DEFAULT, "val_loss", epoch]
        yield {"of": order.name, "from": other.name} | study.difference(order, other)


def noise(study: Study) -> dict[str, float]:
    """How much the reference's final loss varies, and how much of it is luck."""
    first, second = (study.column(REFERENCE, seed, "val_loss", LONG) for seed in SEEDS[REFERENCE])
    widths = np.array([row.architecture.stages[0].head_dim for row in study.rows])
    within = [first[widths == width] for width in np.unique(widths)]
    squares = sum(float(((losses - losses.mean()) ** 2).sum()) for losses in within)
    return {
        "std_between_architectures": float(first.std(ddof=1)),
        "std_within_a_width": math.sqrt(squares / (len(first) - len(within))),
        "std_between_seeds": math.sqrt(float(np.nanmean((first - second) ** 2)) / 2),
        "with_two_seeds": int(np.isfinite(second).sum()),
    }


def summary(study: Study) -> dict[str, Any]:
    """What is kept of the study."""
    whole = {(order.by, order.metric, order.epoch): order for order in study.orders}
    default = whole[DEFAULT, "val_loss", PLANS[DEFAULT].epochs]
    params = whole["params", None, 0]
    found = []
    for order in study.orders:
        tau = study.tau(order)
        known = np.isfinite([*order.values.values()]).all(axis=0)
        seconds = order.costs["seconds"]
        found.append(
            {
                "by": order.name,
                "metric": order.metric,
                "architectures": int(known.sum()),
                **order.costs,
                **{pairs: tau[pairs].to_dict() for pairs in PAIRS},
                "minus_fast": study.difference(order, default),
                "minus_params": study.difference(order, params),
                "tau_per_second": tau["all"].value / seconds if seconds else None,
            }
        )
    return {
        "architectures": len(study.rows),
        "not_trained": [plan for plan in PLANS if plan not in study.plans],
        "reference_seeds": study.seeds,
        "reference_loss": noise(study),
        "median_of_fastest_over_slowest_round": study.speed_spread(),
        "similar_cost": f"MACs within a factor {SIMILAR}",
        "orders": found,
        "contrasts": list(contrasts(study)),
        "share_of_draws_on_the_front": dict(fronts(study)),
    }


def show(found: dict[str, Any]) -> None:
    def cell(tau: dict[str, float]) -> str:
        return f"{tau['tau']:+.2f} [{tau['low']:+.2f} {tau['high']:+.2f}]"

    print(
        f"{'':32}{'by':9}{'s':>6}{'MACs':>6}{'sret':>6}"
        f"{'τ all pairs':>22}{'similar cost':>22}{'− fast, all':>22}{'− fast, similar':>22}"
    )
    for row in found["orders"]:
        metric = {"val_loss": "loss", "val_accuracy": "accuracy", None: ""}[row["metric"]]
        print(
            f"{row['by']:32}{metric:9}{row['seconds']:6.2f}{row['macs']:6.2f}"
            f"{row['real_seconds']:6.2f}"
            + "".join(f"{cell(row[pairs]):>22}" for pairs in PAIRS)
            + "".join(f"{cell(row['minus_fast'][pairs]):>22}" for pairs in PAIRS)
        )
    print("\nreference: " + ", ".join(f"{k} {v:.4g}" for k, v in found["reference_loss"].items()))
    for row in found["contrasts"]:
        print(
            f"{row['of'] + ' − ' + row['from']:55}"
            + "".join(f"{cell(row[pairs]):>22}" for pairs in PAIRS)
        )
    for name, shares in found["share_of_draws_on_the_front"].items():
        often = sorted(shares.items(), key=lambda item: -item[1])
        print(f"front of {name}: " + "; ".join(f"{by} {s:.2f}" for by, s in often if s >= 0.2))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=FILE)
    parser.add_argument("--out", type=Path, default=RESULTS / "proxies-cpu.json")
    options = parser.parse_args()
    table = ProxyTable(options.table)
    if "speed" not in table.made:
        parser.error(f"{options.table}: no speed is measured; first: proxy_table.py speed")
    found = {"table": options.table.name, "made": table.made} | summary(Study(table))
    show(found)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
