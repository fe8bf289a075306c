"""Sampling under a budget against building each candidate and counting it with fvcore.

    python benchmarks/space.py --rounds 3

The budgets are MACs that 50%, 1% and 0.01% of the encodings of ``sret`` satisfy. Each
round runs every method in turn under every budget: ``sample`` draws distinct
architectures with ``SearchSpace.sample``, the space read anew; ``fvcore`` draws
encodings, builds each candidate, counts it and keeps it if it is feasible, as long as its
time lasts; ``analytic`` does the same with ``sret_nas.cost`` and builds nothing. Where a method
finds too few to measure, its rate is extrapolated: candidates a second, as measured,
times the share that is feasible; the result says so. fvcore's count also has terms for
normalisation, about 1% of the MACs; whatever it accepts counts as feasible. Below one in
a thousand ``sample`` walks (see ``sret_nas.space.sampling``), so its architectures are only
nearly uniform over the feasible encodings, those of the other methods exactly.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sret_nas
from sret_nas import Architecture, SearchSpace
from sret_nas.counters import FVCORE_HANDLERS
from sret_nas.device import processor

SHARES = (0.5, 1e-2, 1e-4)
ENOUGH = 10
"""Feasible candidates from which a rate is measured, not extrapolated."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--number", type=int, default=1000, help="architectures to sample")
    parser.add_argument("--seconds", type=float, default=10, help="most for one baseline run")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/space-cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    macs = SearchSpace.load("sret").cost_table(4_000_000, 0, ("macs",))["macs"]
    limits = {share: int(np.quantile(macs, share)) for share in SHARES}
    runs: dict[tuple[float, str], list[dict[str, float]]] = {}
    fvcore_macs(sret_nas.zoo.PUBLISHED["sret_t"])  # warm-up: imports
    for seed in range(options.rounds):
        for share, limit in limits.items():
            methods: dict[str, Callable[[], dict[str, float]]] = {
                "sample": lambda seed=seed, limit=limit: by_sample(options.number, seed, limit),
                "fvcore": lambda seed=seed, limit=limit: by_trial(
                    fvcore_macs, seed, limit, options.seconds
                ),
                "analytic": lambda seed=seed, limit=limit: by_trial(
                    lambda arch: sret_nas.cost(arch).macs, seed, limit, options.seconds / 5
                ),
            }
            for name, method in methods.items():
                runs.setdefault((share, name), []).append(method())
    rows = [summary(share, limits[share], name, found) for (share, name), found in runs.items()]
    ours = {row["share"]: row["per_second"] for row in rows if row["method"] == "sample"}
    for row in rows:
        row["ratio"] = ours[row["share"]] / row["per_second"]
        how = "extrapolated" if row["extrapolated"] else "measured"
        print(
            f"{row['share']:8.2%} ({row['limit_macs'] / 1e9:.3f}G MACs)  {row['method']:9}"
            f"{row['per_second']:14,.4g} architectures/s ({how:12})  sample is {row['ratio']:,.3g}×"
        )
    document = {
        "device": {
            "name": processor(),
            "threads": 1,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "space": "sret",
        "rounds": options.rounds,
        "number": options.number,
        "rows": rows,
    }
    out = options.out or Path(__file__).parent / "results" / "space-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def by_sample(number: int, seed: int, limit: int) -> dict[str, float]:
    """Feasible architectures and seconds of one sample, reading the file included."""
    start = time.perf_counter()
    archs = SearchSpace.load("sret").sample(number, seed, [f"{limit}MACs"])
    seconds = time.perf_counter() - start
    assert len({arch.id for arch in archs}) == number
    assert all(sret_nas.cost(arch).macs <= limit for arch in archs)
    return {"candidates": number, "feasible": number, "seconds": seconds}


def by_trial(
    count: Callable[[Architecture], int], seed: int, limit: int, most_seconds: float
) -> dict[str, float]:
    """The same of drawing, counting and keeping, one candidate after the other."""
    space = SearchSpace.load("sret")
    rng = np.random.default_rng(seed)
    candidates = feasible = 0
    start = time.perf_counter()
    while time.perf_counter() - start < most_seconds:
        arch = space.decode_many(space.coding.random_codes(1, rng))[0]
        feasible += count(arch) <= limit
        candidates += 1
    seconds = time.perf_counter() - start
    return {"candidates": candidates, "feasible": feasible, "seconds": seconds}


def fvcore_macs(arch: Architecture) -> int:
    """Build the model and count it, as a search without formulas has to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        model = sret_nas.create_model(arch, fused_attn=False).eval()
        image = torch.zeros(1, arch.in_chans, arch.image_size, arch.image_size)
        analysis = FlopCountAnalysis(model, (image,)).set_op_handle(**FVCORE_HANDLERS)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.tracer_warnings("none").total())


def summary(share: float, limit: int, method: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """Median rate of the rounds; extrapolated where fewer than ``ENOUGH`` were feasible."""
    feasible = sum(run["feasible"] for run in found)
    extrapolated = feasible < ENOUGH
    rates = [
        (run["candidates"] * share if extrapolated else run["feasible"]) / run["seconds"]
        for run in found
    ]
    return {
        "share": share,
        "limit_macs": limit,
        "method": method,
        "per_second": statistics.median(rates),
        "extrapolated": extrapolated,
        "candidates": sum(run["candidates"] for run in found),
        "feasible": feasible,
        "seconds": sum(run["seconds"] for run in found),
    }


if __name__ == "__main__":
    main()
