"""What the recommendation is worth on searches whose truth is known.

    python benchmarks/recommendation.py

A search is simulated: 40 candidates at random costs, each with a true loss that falls with the
cost by ``slope`` over the whole range and scatters by ``scatter`` between designs, both in units of
the noise between seeds. Each is evaluated once, so the front is chosen by lucky seeds as a real
one is; its members are repeated, and one is recommended: by the rule, by significance alone
(``likely=0``), and whatever measured best. Of each is told how much worse than the truly best
member it is on average (``regret``, in noise), how often it is within the noise of it, which
probability of that was stated, and how many cheaper steps of the front it takes. ``kept`` is how
often the truly best was not taken for significantly worse: .95 is promised for means that nobody
selected by.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from sret_nas.metrics import VAL_LOSS
from sret_nas.runner.best import LEVEL, p_values
from sret_nas.runner.member import Confirmation, Member
from sret_nas.runner.noise import moderated
from sret_nas.runner.recommendation import LIKELY, measured, recommend
from sret_nas.zoo import PRESETS

CANDIDATES = 40
WORLDS = ((0, 0.0), (0, 1.0), (5, 0.5), (20, 1.0))
"""Slope and scatter, in units of the noise."""
SEEDS = (2, 3, 5)
RULES = {"rule": LIKELY, "significance alone": 0.0, "best": 1.01}
ARCH = PRESETS["sret_t"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=400, help="simulated in each world")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/…")
    options = parser.parse_args()
    rows = []
    for slope, scatter in WORLDS:
        for seeds in SEEDS:
            rows.append(world(slope, scatter, seeds, options.searches))
            print(json.dumps(rows[-1]), flush=True)
    out = options.out or Path(__file__).parent / "results" / "recommendation.json"
    found = {"searches": options.searches, "candidates": CANDIDATES, "worlds": rows}
    out.write_text(json.dumps(found, indent=1) + "\n")


def world(slope: float, scatter: float, seeds: int, searches: int) -> dict[str, object]:
    """One world: means over its searches."""
    rng = np.random.default_rng(0)
    kept, found = [], {name: [] for name in RULES}
    for _ in range(searches):
        members, noises, true = front(slope, scatter, seeds, rng)
        chances = p_values(*measured(members, VAL_LOSS, noises))
        kept.append(chances[true.argmin()] > LEVEL)
        for name, likely in RULES.items():
            one = recommend(members, VAL_LOSS, noises, likely)
            regret = true[one.member.trial] - true.min()
            cheaper = one.best.trial - one.member.trial
            found[name].append((regret, regret <= one.noise.std, one.probability, cheaper))
    keys = ("regret", "within", "stated", "cheaper")
    means = {
        name: {k: round(float(v), 3) for k, v in zip(keys, np.mean(each, axis=0), strict=True)}
        for name, each in found.items()
    }
    return {"slope": slope, "scatter": scatter, "seeds": seeds, "kept": np.mean(kept)} | means


def front(slope: float, scatter: float, seeds: int, rng: np.random.Generator) -> tuple:
    """Members of a simulated search's front, their noise, and their true losses."""
    cost = np.sort(rng.uniform(size=CANDIDATES))
    true = -slope * cost + scatter * rng.normal(size=CANDIDATES)
    once = true + rng.normal(size=CANDIDATES)
    at = [i for i in range(CANDIDATES) if not i or once[i] < once[:i].min()]
    values = np.hstack([once[at, None], true[at, None] + rng.normal(size=(len(at), seeds - 1))])
    means = values.mean(axis=1)
    members = [
        Member(
            trial=i,
            id=str(i),
            metrics={"val_loss": values[i, 0]},
            architecture=ARCH,
            confirmation=Confirmation(seeds, {"val_loss": means[i]}, {"val_loss": 0.0}),
            dethroned=bool(i) and bool(means[i] >= means[:i].min()),
        )
        for i in range(len(at))
    ]
    return members, dict(enumerate(moderated(values.tolist()))), true[at]


if __name__ == "__main__":
    main()
