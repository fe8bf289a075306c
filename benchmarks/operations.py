"""Operations that one training step dispatches, views left out.

    python benchmarks/operations.py

On a GPU an operation is a kernel or several, on a CPU a fixed price in front of the
arithmetic; either way, fewer is faster. Counted is what reaches the dispatcher below
autograd and autocast, from the batch's indices to the optimiser's step, by the
difference between epochs of three steps and of two. The count depends neither on
the batch nor on the weights; on a processor without bf16 the casts are missing.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sret_nas.arch import Architecture
from sret_nas.data import load_data
from sret_nas.device import fingerprint
from sret_nas.proxy import PRESETS, Proxy
from sret_nas.training import Trainer

BATCH = 2
VIEWS = {"aten::_unsafe_view"}
"""Operators that copy nothing, beside those whose schema says so."""


class Operations(TorchDispatchMode):
    """Counts the operators that run inside, by their name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not func.is_view and func.name().split(".")[0] not in VIEWS:
            self.counts[str(func).removesuffix(".default")] += 1
        return func(*args, **(kwargs or {}))


def count_step(arch: Architecture, proxy: Proxy) -> Counter[str]:
    """How often each operator runs in one training step in its steady state.

    Args:
        arch: The target architecture; counted at the proxy's scale.
        proxy: Its batch is not used: small ones dispatch the same.
    """
    recipe = proxy.model_copy(update={"batch": BATCH})
    data = load_data(**recipe.load_options() | {"subset": 10, "val_images": 10})
    counts = []
    for steps in (2, 3):
        some = replace(data, train=data.train.first(steps * BATCH))
        trainer = Trainer(recipe.apply(arch, some), some, recipe)
        trainer.train_epoch()  # the optimiser's states exist from here on
        with Operations() as operations:
            trainer.train_epoch()
        counts.append(operations.counts)
    two, three = counts
    return three - two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="sret_t")
    parser.add_argument("--proxy", default="standard", choices=PRESETS)
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    counts = count_step(Architecture.load(options.arch), PRESETS[options.proxy])
    for name, count in counts.most_common():
        print(f"{count:6,} {name}")
    print(f"{counts.total():6,} operations a step: {options.arch}, {options.proxy}")
    document = {
        "device": fingerprint(torch.device("cpu")).to_dict(),
        "architecture": options.arch,
        "proxy": options.proxy,
        "total": counts.total(),
        "operators": dict(counts.most_common()),
    }
    out = options.out or Path(__file__).parent / "results" / "operations-cpu.json"
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
