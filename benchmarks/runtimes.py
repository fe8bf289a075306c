"""The same models in eager PyTorch and in ONNX Runtime, in turn, and how they order them.

    python benchmarks/runtimes.py --threads 1

Everything is measured in one interleaving, a turn of each model in each way in every round, so
that what the machine does meanwhile hits all alike; a ratio is that of medians. Run it on a quiet
machine: ``spread`` says how quiet it was. fp16 and int8 are files, measured as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.latency import Latency, measure
from sret_nas.latency.building import input_shape, module
from sret_nas.latency.preparation import settings_of
from sret_nas.latency.runtimes import opened
from sret_nas.latency.runtimes.exporting import exported
from sret_nas.space import SearchSpace

ORT = "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["sret_t", "sret_s"])
    parser.add_argument("--spaces", nargs="*", default=["smoke", "sret_tiny"])
    parser.add_argument("--number", type=int, default=4, help="members of each space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtypes", nargs="*", default=["int8"], choices=["fp16", "int8"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=300.0, help="measuring")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    archs = {name: Architecture.load(name) for name in options.models}
    for space in options.spaces:
        drawn = SearchSpace.load(space).sample(options.number, seed=options.seed)
        archs |= {f"{space}[{i}]": arch for i, arch in enumerate(drawn)}
    found = measured(archs, options)
    here = settings_of(None, "cpu", None, options.threads, "warm", ORT).fingerprint
    rows = [row(name, archs[name], found) for name in archs]
    document = {
        "device": here.to_dict(),
        "batch": options.batch,
        "threads": options.threads,
        "spaces": options.spaces,
        "seed": options.seed,
        "rows": rows,
        "orders": {way: order(rows, way) for way in found if way != "torch fp32"},
    }
    show(document)
    out = options.out or Path(__file__).parent / "results" / "runtimes-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def measured(
    archs: dict[str, Architecture], options: argparse.Namespace
) -> dict[str, dict[str, Latency]]:
    """Latencies by way and by model, all in one interleaving."""
    ways: dict[tuple[str, str], Any] = {}
    with ExitStack() as files:
        for name, arch in archs.items():
            ways["torch fp32", name] = arch
            ways[f"{ORT} fp32", name] = arch
            model = module(arch)
            for dtype in options.dtypes:
                print(f"{name}: {dtype}", file=sys.stderr)
                made = exported(arch, model, input_shape(model), dtype, lambda: None)
                ways[f"{ORT} {dtype}", name] = opened(files.enter_context(made))
        results = measure(
            {"|".join(key): source for key, source in ways.items()},
            batches=(options.batch,),
            device="cpu",
            threads=options.threads,
            runtime={"|".join(key): key[0].split()[0] for key in ways},
            rounds=options.rounds,
            spread=0.003,
            seconds=options.seconds,
            progress=lambda line: print(line, file=sys.stderr),
        )
    found: dict[str, dict[str, Latency]] = {}
    for (key, _), result in results.items():
        if isinstance(result, Exception):
            raise result
        way, name = key.split("|")
        found.setdefault(way, {})[name] = result
    return found


def row(name: str, arch: Architecture, found: dict[str, dict[str, Latency]]) -> dict[str, Any]:
    base = found["torch fp32"][name].median_ms
    return {
        "name": name,
        "id": arch.id,
        "macs": cost(arch).macs,
        "ways": {
            way: {
                "median_ms": one[name].median_ms,
                "p95_ms": one[name].p95_ms,
                "spread": one[name].spread,
                "runs": one[name].runs,
                "difference": one[name].difference,
                "faster_than_torch": base / one[name].median_ms,
            }
            for way, one in found.items()
        },
    }


def order(rows: list[dict[str, Any]], way: str) -> float:
    """Kendall's τ of a way with eager PyTorch over the members of the spaces."""
    members = [row["ways"] for row in rows if "[" in row["name"]]
    pairs = [(one["torch fp32"]["median_ms"], one[way]["median_ms"]) for one in members]
    return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def show(document: dict[str, Any]) -> None:
    for found in document["rows"]:
        print(f"{found['name']}: {found['macs'] / 1e6:,.0f} M MACs")
        for way, one in found["ways"].items():
            print(
                f"  {way:18} {one['median_ms']:8.2f} ms ±{one['spread']:.1%}"
                f"  ×{one['faster_than_torch']:.2f}"
            )
    for way, tau in document["orders"].items():
        print(f"{way}: Kendall τ {tau:.2f} with torch fp32 over {', '.join(document['spaces'])}")


if __name__ == "__main__":
    main()
