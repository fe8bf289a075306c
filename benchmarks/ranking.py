"""Which cheap score orders really trained architectures of one cost, and how far any could.

    python benchmarks/ranking.py [--published Auto-Prox-AAAI24/gt_results]

Reads ``tables/cifar10.json`` (see ``ground_truth.py``) and trains nothing. First, for each band of
one cost, signal over noise: how much architectures differ beyond what two seeds of one differ.
Then Kendall's τ-b of every cheap plan with the final loss of a truth, over the pairs within a band
alone; the cheap plans share no seed with it. Beside them: parameters and MACs, which cost nothing;
the other truth; the truth's own curve after an epoch; and the ceiling, what the second seed of the
truth reaches. A truth with two seeds is compared by each, and the mean is taken. Intervals are of
a bootstrap over architectures, the same draws for all, so that a difference is paired.

Seconds are of one thread's processor time, the median over the architectures, and of one machine.

With ``--published``, parameters, MACs and depth are judged on others' tables likewise, within
pairs of similar parameters, and the order of one form by the other (plain, distilled).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ground_truth
import numpy as np
import published_tables
from ground_truth import PLANS, TRUTHS, Row, Table
from kendall import Estimate, Floats, Pairs, by_band, mean

from sret_nas.cost import cost

RESULTS = Path(__file__).parent / "results"
SIGNS = {"val_loss": 1, "val_accuracy": -1}
NEAR_PARAMS = 1.10
FEWEST = 4
"""Architectures of a band with a truth, below which it is not judged."""


def column(rows: list[Row], plan: str, seed: int, metric: str = "val_loss", at: int = -1) -> Floats:
    """A value an architecture, small is good; NaN where it is not trained."""
    found = [row.trainings.get(plan, {}).get(seed) for row in rows]
    return np.array([SIGNS[metric] * one[metric][at] if one else np.nan for one in found])


def noise(rows: list[Row], truth: str) -> dict[str, Any] | None:
    """How much losses of one band differ, and how much of it is luck.

    The variance between seeds is half of the mean square of their difference; what is between
    architectures is the variance of the first seed's losses without it, or zero.
    """
    first, second = (column(rows, truth, seed) for seed in PLANS[truth].seeds)
    both = np.isfinite(first - second)
    known = first[np.isfinite(first)]
    if len(known) < FEWEST or both.sum() < 2:
        return None
    seeds = float(np.mean((first - second)[both] ** 2) / 2)
    between = max(0.0, float(known.var(ddof=1)) - seeds)
    return {
        "architectures": len(known),
        "with_two_seeds": int(both.sum()),
        "std_between_seeds": math.sqrt(seeds),
        "std_between_architectures": math.sqrt(between),
        "signal_over_noise": math.sqrt(between / seeds),
        "mean_loss": float(known.mean()),
        "mean_accuracy": float(np.nanmean(-column(rows, truth, 1, "val_accuracy"))),
    }


class Judge:
    """Scores of the architectures against one truth.

    Args:
        rows: Those of some bands.
        truth: One of ``TRUTHS``.
    """

    def __init__(self, rows: list[Row], truth: str) -> None:
        self.rows, self.truth = rows, truth
        self.seeds = {seed: column(rows, truth, seed) for seed in PLANS[truth].seeds}
        self.pairs = Pairs(by_band([row.band for row in rows]))

    def tau(self, score: Floats, where: Floats | None = None) -> dict[str, Estimate] | None:
        """With the seeds of the truth, by band and within any; ``None`` where too few are known.

        Args:
            score: Small is good.
            where: Only of architectures that this knows too.
        """
        score = score if where is None else score + 0 * where
        found = [
            self.pairs.tau(score, losses)
            for losses in self.seeds.values()
            if np.isfinite(score + losses).sum() >= FEWEST
        ]
        if not found:
            return None
        return {name: mean([tau[name] for tau in found]) for name in self.pairs.counted}

    def ceiling(self) -> dict[str, Estimate] | None:
        """What the second seed makes of the first."""
        first, second = self.seeds.values()
        if np.isfinite(first + second).sum() < FEWEST:
            return None
        return self.pairs.tau(second, first)

    def scores(self) -> Iterator[tuple[str, float, Floats]]:
        """Names, seconds and values, small is good."""
        costs = [cost(row.architecture) for row in self.rows]
        yield "more parameters", 0.0, -np.array([found.params for found in costs], dtype=float)
        yield "more MACs", 0.0, -np.array([found.macs for found in costs], dtype=float)
        depth = [-float(row.architecture.depth) for row in self.rows]
        yield "deeper", 0.0, np.array(depth)
        for plan, what in PLANS.items():
            if plan in TRUTHS:
                continue
            seconds = self.seconds(plan)
            if seconds is None:
                continue
            seed, *others = what.seeds
            for metric in SIGNS:
                named = f"{plan}, by accuracy" if metric == "val_accuracy" else plan
                yield named, seconds, column(self.rows, plan, seed, metric)
            half = what.recipe.epochs // 2
            yield (
                f"{plan}, after {half} of {what.recipe.epochs} epochs",
                seconds / 2,
                column(self.rows, plan, seed, at=half - 1),
            )
            if others:
                every = [column(self.rows, plan, one) for one in what.seeds]
                yield f"{plan}, mean of {len(every)} seeds", seconds * len(every), np.mean(every, 0)
        for other in TRUTHS:
            found = self.seconds(other)
            if other != self.truth and found is not None:
                yield other, found, column(self.rows, other, PLANS[other].seeds[0])

    def seconds(self, plan: str) -> float | None:
        """Median over the architectures, on the machine that trained most of them."""
        found = [one for row in self.rows for one in row.trainings.get(plan, {}).values()]
        if not found:
            return None
        usual = statistics.mode(one["machine"] for one in found)
        return statistics.median(one["seconds"] for one in found if one["machine"] == usual)


def judged(table: Table, truth: str) -> dict[str, Any]:
    """Everything that is known of the bands by one truth."""
    bands = {
        band: [row for row in table.rows.values() if row.band == band]
        for band in ground_truth.BANDS
    }
    found = {band: noise(rows, truth) for band, rows in bands.items()}
    rows = [row for band in bands for row in bands[band] if found[band]]
    document: dict[str, Any] = {"bands": found, "scores": []}
    if not rows:
        return document
    judge = Judge(rows, truth)
    ceiling, params = judge.ceiling(), next(judge.scores())[2]
    document["ceiling"] = ceiling and {name: tau.to_dict() for name, tau in ceiling.items()}
    document["seconds"] = judge.seconds(truth)
    for name, seconds, values in judge.scores():
        tau, base = judge.tau(values), judge.tau(params, where=values)
        if tau is None or base is None:
            continue
        document["scores"].append(
            {
                "by": name,
                "seconds": seconds,
                "architectures": int(np.isfinite(values).sum()),
                **{band: one.to_dict() for band, one in tau.items()},
                "minus_params": (tau["within"] - base["within"]).to_dict(),
            }
        )
    return document


def published(folder: Path) -> list[dict[str, Any]]:
    """Orders of others' tables: over all pairs, and of similar parameters."""
    found = []
    for family in published_tables.read(folder):
        logs, n = np.log(family.params), len(family.params)
        others = ~np.eye(n, dtype=bool)
        near = others & (abs(logs[:, None] - logs) <= math.log(NEAR_PARAMS))
        pairs = Pairs({"all": others, "similar": near})
        for (data, form), accuracy in family.accuracy.items():
            other = "distilled" if form == "plain" else "plain"
            scores = {
                "more parameters": -family.params,
                "more MACs": -family.macs,
                "deeper": -family.depth,
                f"{other}": -family.accuracy[data, other],
            }
            for name, values in scores.items():
                taus = pairs.tau(values, -accuracy)
                found.append(
                    {"family": family.name, "data": data, "form": form, "by": name}
                    | {"similar_pairs": int(near.sum()) // 2}
                    | {key: tau.to_dict() for key, tau in taus.items()}
                )
    return found


def show(document: dict[str, Any]) -> None:
    def cell(tau: dict[str, float]) -> str:
        return f"{tau['tau']:+.2f} [{tau['low']:+.2f}, {tau['high']:+.2f}]"

    for truth in TRUTHS:
        found = document[truth]
        print(f"\n{truth}")
        for band, one in found["bands"].items():
            if one is None:
                print(f"  {band}: not enough trained")
                continue
            print(
                f"  {band}: {one['architectures']} architectures, between them "
                f"{one['std_between_architectures']:.4f}, between seeds "
                f"{one['std_between_seeds']:.4f} ({one['with_two_seeds']} twice): "
                f"{one['signal_over_noise']:.2f}; loss {one['mean_loss']:.3f}, "
                f"accuracy {one['mean_accuracy']:.1%}"
            )
        if found.get("ceiling"):
            print(f"  {'a second seed':45}{found['seconds']:7.1f} s  "
                  f"{cell(found['ceiling']['within'])}")  # fmt: skip
        for one in found["scores"]:
            print(
                f"  {one['by']:45}{one['seconds']:7.1f} s  {cell(one['within'])}"
                f"  − parameters {cell(one['minus_params'])}"
            )
    for one in document.get("published", ()):
        print(
            f"{one['family']:11}{one['data']:10}{one['form']:10}{one['by']:16}"
            f"{cell(one['all'])}  similar {cell(one['similar'])} ({one['similar_pairs']} pairs)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=ground_truth.FILE)
    parser.add_argument("--published", type=Path, help="the folder gt_results of Auto-Prox")
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking-cpu.json")
    args = parser.parse_args()
    table = Table(args.table)
    document: dict[str, Any] = {"table": args.table.name, "machines": table.made["machines"]}
    document |= {truth: judged(table, truth) for truth in TRUTHS}
    if args.published:
        document["published"] = published(args.published)
    show(document)
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
