"""The calibrated predictor on architectures it has not seen, batch 1 and 64.

Beside it a straight line over MACs, and the same architectures measured once more.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpu_bench import Bench, Row

from sret_nas import latency
from sret_nas.latency.fitting import MIN_ARCHITECTURES

FITTED, HELD_OUT = 40, 40
BATCHES = (1, 64)


def rows(bench: Bench) -> Iterator[Row]:
    space = bench.space()
    fitted, held_out = (MIN_ARCHITECTURES, 2) if bench.reduced else (FITTED, HELD_OUT)
    archs = space.sample(fitted + held_out, seed=0)
    for batch in BATCHES[:1] if bench.reduced else BATCHES:
        found = latency.calibrate(
            archs[:fitted],
            archs[fitted:],
            batch=batch,
            dtype=bench.dtype,
            device=bench.device,
            mode=bench.mode,
            space=space.name,
            seconds=1.0,  # the fewest rounds that make an interval: preparing takes the time
        )
        assert found.held_out is not None
        yield {
            "batch": batch,
            "mode": bench.mode,
            "dtype": bench.dtype,
            "space": space.name,
            "fitted": found.predictor.architectures,
            "held_out": found.held_out.predictor.architectures,
            "within_10": {row["method"]: row["within_10"] for row in found.held_out.rows()},
            "spread": found.predictor.repeatability,
            "judged": found.held_out.to_dict(),
            "skipped": list(found.skipped),
        }
