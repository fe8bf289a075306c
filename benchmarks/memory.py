"""Predicted peak memory against the allocator's own, for the published variants.

    python benchmarks/memory.py --batches 1 4

On the CPU the allocator's peak is the largest running sum of its own events, as the
profiler records them; on a GPU it is ``torch.cuda.max_memory_allocated``. A training
step is forward, backward and AdamW in its steady state. The last column leaves out
what lives all the time: weights, the optimiser's states and the input.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import sret_nas
from sret_nas import Architecture, zoo
from sret_nas.device import processor
from sret_nas.model.layers import ROW_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variants", nargs="+", default=list(zoo.PUBLISHED), choices=zoo.PRESETS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, batch in itertools.product(options.variants, options.batches):
        for kind, row in measure(Architecture.load(name), batch, options.device).items():
            rows.append({"model": name, "batch": batch, "kind": kind, **row})
            predicted, measured = row["predicted_bytes"] / 1e6, row["measured_bytes"] / 1e6
            print(
                f"{name:24} batch {batch:<3} {kind:22} predicted {predicted:8.1f} MB   "
                f"measured {measured:8.1f} MB   error {row['error']:+.2%}   "
                f"beyond weights {row['error_beyond_weights']:+.2%}",
                flush=True,
            )
    worst = max(rows, key=lambda row: abs(row["error"]))
    print(f"largest error: {worst['error']:+.2%} ({worst['model']}, {worst['kind']})")
    device = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    document = {"device": device, "torch": torch.__version__, "dtype": "float32", "rows": rows}
    out = options.out or Path(__file__).parent / "results" / f"memory-{options.device}.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


def measure(arch: Architecture, batch: int, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """Predicted and measured bytes of inference and training, and the relative error."""
    model = sret_nas.create_model(arch).to(device)
    weights = sum(p.nbytes for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    image = torch.zeros(batch, arch.in_chans, arch.image_size, arch.image_size, device=device)
    target = torch.zeros(batch, dtype=torch.long, device=device)
    cost = sret_nas.cost(arch)
    align = ROW_BYTES // 4 if device == "cuda" else 1

    def infer() -> None:
        with torch.no_grad():
            model(image)

    def step() -> None:
        F.cross_entropy(model(image), target).backward()
        optimizer.step()

    found = {}
    for kind, predicted, run, held in (
        ("inference", cost.inference_bytes(batch, align=align), infer, weights),
        ("training", cost.training_bytes(batch, align=align), step, 3 * weights),
        (
            "checkpointed training",
            cost.training_bytes(batch, checkpointing=True, align=align),
            step,
            3 * weights,
        ),
    ):
        model.train(run is step)
        model.set_grad_checkpointing(kind.startswith("checkpointed"))
        run()  # the optimiser's states exist from here on
        optimizer.zero_grad()
        always = held + image.nbytes
        measured = always + allocated_peak(run, device)
        optimizer.zero_grad()
        found[kind] = {
            "predicted_bytes": predicted,
            "measured_bytes": measured,
            "error": predicted / measured - 1,
            "error_beyond_weights": (predicted - always) / (measured - always) - 1,
        }
    return found


def allocated_peak(run: Callable[[], None], device: str) -> int:
    """The most bytes that live at once beyond those that live already."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


if __name__ == "__main__":
    main()
