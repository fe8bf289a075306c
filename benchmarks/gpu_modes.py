"""Every mode × dtype × L2 setting: is its output that of eager fp32, and is there a figure?

``sret_nas.latency`` compares the output of the very call that it times, and gives an error,
never a figure, where it differs. Compiled is a small architecture alone: it is the compiler
that takes the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gpu_bench import Bench, Row

from sret_nas.arch import Architecture
from sret_nas.device import DTYPES, has_dtype
from sret_nas.latency import MODES, Latency, measure

SMALL = {"image_size": 32, "width": 0.25}


def rows(bench: Bench) -> Iterator[Row]:
    small = Architecture.load("sret_t").at(image_size=32, width=0.25)
    archs = {"small": small} if bench.reduced else {"small": small, "sret_t": bench.arch("sret_t")}
    for mode, dtype, l2 in settings(bench):
        models = {n: arch for n, arch in archs.items() if mode != "compile" or n == "small"}
        found = measure(
            models,
            batches=(2,),
            dtype=dtype,
            device=bench.device,
            mode=mode,
            l2=l2,
            rounds=6,
            seconds=0.5,
        )
        for (name, batch), one in found.items():
            row = {"what": name, "mode": mode, "dtype": dtype, "l2": l2, "batch": batch}
            if isinstance(one, Latency):
                yield row | {
                    "difference": one.difference,
                    "compile_s": one.compile_s,
                    "median_ms": one.median_ms,
                    "failed": None,
                }
            else:
                yield row | {"failed": str(one)}


def settings(bench: Bench) -> Iterator[tuple[str, str, str]]:
    """What the device has, the compiler last; a CPU has no graphs and no L2 to flush."""
    quick = ("eager",) if bench.reduced else ("eager", "compile")
    modes = ("eager", "graph", "compile") if bench.cuda else quick
    assert set(modes) <= set(MODES)
    dtypes = [dtype for dtype in DTYPES if has_dtype(dtype, bench.place)]
    yield from itertools.product(modes, dtypes, ("warm", "flushed") if bench.cuda else ("warm",))
