"""Repeatability of measured latency, and the calibrated predictor on held-out architectures.

    python benchmarks/latency.py --space sret_tiny --threads 1 2

For every number of threads: fit on one set of architectures, judge on another that was
measured in the same rounds, beside a straight line over MACs and beside the same
architectures measured once more. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from sret_nas import latency
from sret_nas.cost import cost
from sret_nas.device import fingerprint, resolve
from sret_nas.space import SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="sret_tiny", help="name or YAML path")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--number", type=int, default=40, help="architectures to fit on")
    parser.add_argument("--holdout", type=int, default=40, help="other architectures")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--modes", nargs="+", default=["eager"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=50.0, help="measuring, per session")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    space = SearchSpace.load(options.space)
    archs = space.sample(options.number + options.holdout, seed=options.seed)
    macs = sorted(cost(arch).macs for arch in archs)
    print(f"{space.name}: {macs[0] / 1e6:.0f} to {macs[-1] / 1e6:.0f} M MACs")
    runs = [
        run(archs, options, *setting, space.name)
        for setting in itertools.product(options.dtypes, options.modes, options.threads)
    ]
    document = {
        "device": fingerprint(resolve(options.device)).to_dict(),
        "space": space.name,
        "seed": options.seed,
        "macs": [macs[0], macs[-1]],
        "nn_meter_within_10_as_published": latency.NN_METER_WITHIN_10,
        "runs": runs,
    }
    kind = resolve(options.device).type
    out = options.out or Path(__file__).parent / "results" / f"latency-{kind}.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def run(
    archs: list[Any], options: argparse.Namespace, dtype: str, mode: str, threads: int, space: str
) -> dict[str, Any]:
    found = latency.calibrate(
        archs[: options.number],
        archs[options.number :],
        batch=options.batch,
        dtype=dtype,
        device=options.device,
        mode=mode,
        threads=threads,
        space=space,
        seconds=options.seconds,
        progress=lambda line: print(line, file=sys.stderr),
    )
    predictor, held_out = found.predictor, found.held_out
    assert held_out is not None
    print(
        f"\n{options.device}, {dtype}, {mode}, batch {options.batch}, {threads} threads: "
        f"{predictor.architectures} fitted ({predictor.fastest_ms:.1f} to "
        f"{predictor.slowest_ms:.1f} ms) and {held_out.predictor.architectures} others measured in "
        f"{found.seconds:.0f} s"
    )
    print(f"  {'':42} within ±5%  within ±10%  median error  Kendall τ")
    for row in held_out.rows():
        print(
            f"  {row['method']:42} {_percent(row, 'within_5'):>10}"
            f"  {_percent(row, 'within_10'):>11}  {_percent(row, 'median_error'):>12}"
            f"  {_decimals(row, 'kendall_tau'):>9}"
        )
    print(
        f"  spread of a measurement ±{predictor.repeatability:.1%}; measured again "
        f"×{held_out.drift:.3f}; margin ±{predictor.margin:.1%} held {held_out.covered:.0%}; "
        f"{held_out.warned} outside the range"
    )
    return {
        "dtype": dtype,
        "mode": mode,
        "threads": threads,
        "batch": options.batch,
        "seconds": found.seconds,
        "skipped": found.skipped,
        "predictor": predictor.model_dump(mode="json", by_alias=True),
        "held_out": held_out.to_dict(),
    }


def _percent(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.1%}" if key in row else "–"


def _decimals(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f}" if key in row else "–"


if __name__ == "__main__":
    main()
