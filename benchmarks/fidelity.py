"""How far short trainings can be trusted, and what the rungs cost and save.

    python benchmarks/fidelity.py

Reads ``tables/smoke-fashion.json`` (see ``table.py``), trains nothing.

Order: Kendall's τ-b between the validation loss after some epochs and the final one, of
the same training or of another seed, beside the order by parameters and by MACs (more
is better). Also over pairs of similar cost alone (MACs within a factor of 1.5), where
size no longer tells. What another seed orders at the last epoch is as good as any order can
be; the order within one training is better than that, because its luck lasts. Intervals:
percentile bootstrap over architectures.

Rungs: ``sret_nas.runner.pruning.should_continue`` replayed, candidates coming one by one in a
random order. Given are the seconds saved against training all to the end; the regret, which is
the share of the hypervolume (validation loss, log MACs) lost by what was stopped; and
the gain, which is the hypervolume against that of trainings to the end of as many
candidates as the same seconds pay for. Other values of the rule's constants are replayed for
comparison, not for choice: this is one small table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from kendall import SIMILAR, Pairs, by_cost
from table import PROXY, Row, Table

from sret_nas import pareto
from sret_nas.runner import pruning as rungs
from sret_nas.runner.pruning import RungResult

RESULTS = Path(__file__).parent / "results"
LAST = PROXY.epochs
RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "KEPT 0.25": {"KEPT": 0.25},
    "KEPT 0.5": {"KEPT": 0.5},
    "PEERS 4": {"PEERS": 4},
    "PEERS 16": {"PEERS": 16},
    "FEWEST 8": {"FEWEST": 8},
}
RUNGS = ((1, 2, 4), (1, 4), (2, 4))


# -- order ---------------------------------------------------------------------------------------


def order(rows: Sequence[Row], x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """τ over all pairs and over those of similar cost, with intervals."""
    found = Pairs(by_cost([row.macs for row in rows])).tau(x, y)
    return {"architectures": len(rows)} | {name: tau.to_dict() for name, tau in found.items()}


def orders(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every cheap quantity against the final loss."""
    twice = [row for row in rows if 1 in row.curves]
    found: list[dict[str, Any]] = []

    def add(by: str, against: str, some: Sequence[Row], x: list[float], y: list[float]) -> None:
        found.append({"by": by, "against": against, **order(some, x, y)})

    for epoch in PROXY.rungs[:-1]:
        x, y = [row.loss(epoch) for row in rows], [row.loss(LAST) for row in rows]
        add(f"val_loss, epoch {epoch}", "same seed", rows, x, y)
    add("params", "seed 0", rows, [-row.params for row in rows], [row.loss(LAST) for row in rows])
    add("macs", "seed 0", rows, [-row.macs for row in rows], [row.loss(LAST) for row in rows])
    final = [row.loss(LAST, 1) for row in twice]
    for epoch in PROXY.rungs:
        x = [row.loss(epoch) for row in twice]
        add(f"val_loss, epoch {epoch}", "another seed", twice, x, final)
    add("params", "another seed", twice, [-row.params for row in twice], final)
    add("macs", "another seed", twice, [-row.macs for row in twice], final)
    return found


# -- rungs ---------------------------------------------------------------------------------------


def replay(rows: Sequence[Row], at: Sequence[int]) -> list[int]:
    """Epochs that each candidate gets, in the order they come."""
    reached: dict[int, list[RungResult]] = {rung: [] for rung in at[:-1]}
    epochs = []
    for row in rows:
        got = at[-1]
        for rung in at[:-1]:
            here = RungResult(row.loss(rung), (row.macs,))
            go_on = rungs.should_continue(here, reached[rung])
            reached[rung].append(here)
            if not go_on:
                got = rung
                break
        epochs.append(got)
    return epochs


def volume(rows: Sequence[Row], reference: tuple[float, float]) -> float:
    points = [(row.loss(LAST), math.log(row.macs)) for row in rows]
    return pareto.hypervolume(points, reference) if points else 0.0


def judged(rows: Sequence[Row], at: Sequence[int], repeats: int) -> dict[str, Any]:
    """Saving, regret and gain over random orders; mean and central 95% of the orders."""
    reference = (max(row.loss(LAST) for row in rows), math.log(max(row.macs for row in rows)))
    best = volume(rows, reference)
    kept = pareto.front([(row.loss(LAST), row.macs) for row in rows])
    front = {row.architecture.id for row, is_kept in zip(rows, kept, strict=True) if is_kept}
    rng = np.random.default_rng(0)
    columns: dict[str, list[float]] = {
        name: [] for name in ("saved_epochs", "saved_seconds", "regret", "front_stopped", "gain")
    }
    for _ in range(repeats):
        mixed = [rows[i] for i in rng.permutation(len(rows))]
        epochs = replay(mixed, at)
        done = [row for row, got in zip(mixed, epochs, strict=True) if got == LAST]
        seconds = sum(r.epoch_seconds * got for r, got in zip(mixed, epochs, strict=True))
        costs = np.array([row.epoch_seconds * LAST for row in mixed])
        paid = int(np.searchsorted(np.cumsum(costs), seconds, side="right"))
        share = volume(done, reference) / best
        lost = front - {row.architecture.id for row in done}
        columns["saved_epochs"].append(1 - sum(epochs) / (LAST * len(rows)))
        columns["saved_seconds"].append(1 - seconds / float(costs.sum()))
        columns["regret"].append(1 - share)
        columns["front_stopped"].append(len(lost) / len(front))
        columns["gain"].append(share - volume(mixed[:paid], reference) / best)
    return {
        name: {
            "mean": float(np.mean(values)),
            "low": float(np.percentile(values, 2.5)),
            "high": float(np.percentile(values, 97.5)),
        }
        for name, values in columns.items()
    }


def replays(rows: Sequence[Row], repeats: int) -> list[dict[str, Any]]:
    """The rule as it is, and with one thing changed."""
    found = []
    for name, constants in RULES.items():
        for at in RUNGS if name == "default" else RUNGS[:1]:
            with mock.patch.dict(vars(rungs), constants):
                found.append({"rule": name, "rungs": at, **judged(rows, at, repeats)})
    return found


# -- as text and as a file -----------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    print(
        f"{'order by':18} {'of the final loss of':22}{'τ, all pairs':>22}{'similar cost':>22}     n"
    )
    for row in found["orders"]:
        cells = [
            f"{t['tau']:.2f} [{t['low']:.2f} {t['high']:.2f}]"
            for t in (row["all"], row["similar_cost"])
        ]
        print(
            f"{row['by']:18} {row['against']:22}{cells[0]:>22}{cells[1]:>22}"
            f"  {row['architectures']:4}"
        )
    for name, rows in found["replays"].items():
        print(f"\nrungs replayed over {name}: mean [95% of the orders]")
        print(f"{'rule':10} {'rungs':8}" + "".join(f"{key:>23}" for key in list(rows[0])[2:]))
        for row in rows:
            cells = [
                f"{row[key]['mean']:.3f} [{row[key]['low']:.2f} {row[key]['high']:.2f}]"
                for key in list(row)[2:]
            ]
            text = ",".join(map(str, row["rungs"]))
            print(f"{row['rule']:10} {text:8}" + "".join(f"{cell:>23}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="random orders of candidates")
    parser.add_argument("--quantile", type=float, default=0.4, help="of MACs; a budget")
    parser.add_argument("--out", type=Path, default=RESULTS / "fidelity-cpu.json")
    options = parser.parse_args()
    table = Table()
    rows = list(table.rows.values())
    limit = sorted(row.macs for row in rows)[math.ceil(options.quantile * len(rows)) - 1]
    feasible = [row for row in rows if row.macs <= limit]
    noise = [
        abs(row.loss(LAST) - row.loss(LAST, 1)) / math.sqrt(2) for row in rows if 1 in row.curves
    ]
    final = [row.loss(LAST) for row in rows]
    found: dict[str, Any] = {
        "table": table.path.name,
        "made": table.made,
        "similar_cost": f"MACs within a factor {SIMILAR}",
        "final_loss": {
            "std_between_architectures": float(np.std(final)),
            "std_between_seeds": float(np.sqrt(np.mean(np.square(noise)))),
        },
        "orders": orders(rows),
        "replays": {
            f"all {len(rows)}": replays(rows, options.repeats),
            f"the {len(feasible)} under the budget": replays(feasible, options.repeats),
        },
    }
    show(found)
    print("\nfinal loss: " + ", ".join(f"{k} {v:.4f}" for k, v in found["final_loss"].items()))
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
