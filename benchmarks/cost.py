"""The analytic cost against fvcore and ptflops on the same architectures.

    python benchmarks/cost.py --rounds 5

Each round counts every variant by every method in turn. The others need the built
module; building is not in their time. A ratio says how many times longer one takes
than the analytic cost: ``one`` of params, MACs and activations of one architecture,
``table`` of params and MACs of one row of a table of a million.
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
from sret_nas import zoo
from sret_nas.cost import stack, table
from sret_nas.counters import FVCORE_HANDLERS
from sret_nas.device import processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/cost-cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, whole = one_by_one(options.rounds), whole_table(options.rows, options.rounds)
    for row in rows:
        row["ratio_table"] = row["seconds"] * whole["architectures_per_second"]
        print(
            f"{row['model']:24} {row['method']:16} {row['seconds']:.6f} s   "
            f"{row['ratio']:8,.0f}× one   {row['ratio_table']:12,.0f}× table   "
            f"{row['macs']:,} MACs ({row['difference']:+,})"
        )
    document = {
        "device": {
            "name": processor(),
            "threads": 1,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "rounds": options.rounds,
        "one": rows,
        "table": whole,
    }
    out = options.out or Path(__file__).parent / "results" / "cost-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def one_by_one(rounds: int) -> list[dict[str, Any]]:
    """Seconds per architecture of every method, and how they differ in MACs."""
    rows = []
    for name, arch in zoo.PUBLISHED.items():
        methods = counters(name)
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        macs: dict[str, int] = {}
        for method, call in methods.items():  # warm-up: imports, caches
            macs[method] = call()
        for _ in range(rounds):
            for method, call in methods.items():
                repeats = 200 if method == "analytic" else 1
                start = time.perf_counter()
                for _ in range(repeats):
                    call()
                seconds[method].append((time.perf_counter() - start) / repeats)
        analytic = statistics.median(seconds["analytic"])
        for method, found in seconds.items():
            median = statistics.median(found)
            ratio = median / analytic
            rows.append(
                {
                    "model": name,
                    "method": method,
                    "seconds": median,
                    "ratio": ratio,
                    "macs": macs[method],
                    "difference": macs[method] - sret_nas.cost(arch).macs,
                }
            )
    return rows


def counters(name: str) -> dict[str, Callable[[], int]]:
    """Every method as a call that counts the multiply-adds of a variant."""
    from ptflops import get_model_complexity_info

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

    arch = zoo.PUBLISHED[name]
    model = sret_nas.create_model(arch, fused_attn=False).eval()
    image = torch.zeros(1, arch.in_chans, arch.image_size, arch.image_size)

    def analytic() -> int:
        cost = sret_nas.cost(arch)
        _ = cost.params, cost.activations
        return cost.macs

    def fvcore() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(model, (image,)).set_op_handle(**FVCORE_HANDLERS)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            return int(analysis.tracer_warnings("none").total())

    def ptflops(backend: str) -> Callable[[], int]:
        def call() -> int:
            value, _ = get_model_complexity_info(
                model,
                tuple(image.shape[1:]),
                print_per_layer_stat=False,
                as_strings=False,
                backend=backend,
            )
            return int(value)

        return call

    return {
        "analytic": analytic,
        "fvcore": fvcore,
        "ptflops-pytorch": ptflops("pytorch"),
        "ptflops-aten": ptflops("aten"),
    }


def whole_table(rows: int, rounds: int) -> dict[str, Any]:
    """Architectures per second and bytes held per architecture, columns given."""
    columns = stack(list(zoo.PUBLISHED.values())).map(lambda x: np.resize(x, rows)).narrow()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        results = table(columns)
        seconds.append(time.perf_counter() - start)
    held = sum(x.nbytes for x in [*columns.columns(), *results.values()])
    wide = sum(x.nbytes for x in [*columns.wide().columns(), *results.values()])
    found = {
        "quantities": list(results),
        "rows": rows,
        "architectures_per_second": rows / statistics.median(seconds),
        "bytes_per_architecture": held / rows,
        "bytes_per_architecture_int64": wide / rows,
    }
    print(
        f"table: {found['architectures_per_second']:,.0f} architectures/s (params and MACs, one "
        f"core), {found['bytes_per_architecture']:.0f} bytes each, results included"
    )
    return found


if __name__ == "__main__":
    main()
