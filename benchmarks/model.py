"""Our network against the published code: the same weights, interleaved, as ratios.

Needs a checkout of the published code (``szq0214/SReT``); nothing of it is kept here:

    python benchmarks/model.py --official PATH

A ratio above 1 says that ours is faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sret_nas import Architecture, convert_official_state_dict, create_model
from sret_nas.device import processor

VARIANTS = {
    "sret_t": ("SReT", "SReT_T"),
    "sret_t_wo_slice": ("SReT_wo_slice", "SReT_T_wo_slice"),
    "sret_lt": ("SReT", "SReT_LT"),
    "sret_lt_wo_slice": ("SReT_wo_slice", "SReT_LT_wo_slice"),
    "sret_lt_16_14": ("SReT", "SReT"),  # has no constructor of its own
    "sret_s": ("SReT", "SReT_S"),
    "sret_s_wo_slice": ("SReT_wo_slice", "SReT_S_wo_slice"),
}
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True, help="checkout of szq0214/SReT")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds per row")
    parser.add_argument("--compile", action="store_true", help="torch.compile as further rows")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/")
    options = parser.parse_args()
    sys.path.insert(0, str(options.official))
    forget_moved_names()

    rows: list[dict[str, Any]] = []
    for name in options.variants:
        theirs, ours = pair(name, options.device)
        for row in measure(name, theirs, ours, options):
            rows.append(row)
            print(
                f"{row['model']:18} {row['task']:28} official {row['official_ms']:9.2f} ms"
                f"   ours {row['ours_ms']:9.2f} ms   ratio {row['ratio']:.2f}",
                flush=True,
            )
    document = {"device": device_name(options.device), "rounds": options.rounds, "rows": rows}
    out = options.out or Path(__file__).parent / "results" / f"model-{options.device}.json"
    out.write_text(json.dumps(document, indent=1) + "\n")
    worst = min((row for row in rows if row["bar"]), key=lambda row: row["ratio"])
    print(
        f"lowest ratio against the same arithmetic: {worst['ratio']:.2f} "
        f"({worst['model']}, {worst['task']})"
    )


def forget_moved_names() -> None:
    """The published code imports timm's names from where they were in 2021."""
    import timm.layers
    import timm.models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = types.ModuleType("timm.models.registry")
        registry.register_model = lambda function: function  # type: ignore[attr-defined]
        layers = types.ModuleType("timm.models.layers")
        layers.__dict__.update(vars(timm.layers))
    sys.modules["timm.models.registry"] = registry
    sys.modules["timm.models.layers"] = layers


def pair(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    """The published module and ours, with the same weights; permutations as published."""
    module, function = VARIANTS[name]
    options: dict[str, Any] = {"drop_path_rate": 0.0}
    if function != "SReT":
        options |= {"pretrained": False}
    # Two constructors forget a ratio, one has no default for ``pretrained``.
    if function in ("SReT_T_wo_slice", "SReT_LT_wo_slice"):
        options |= {"np_mlp_ratio": 1}
    if function == "SReT":
        options |= {
            "image_size": 224,
            "patch_size": 16,
            "stride": 8,
            "base_dims": [32, 32, 32],
            "depth": [4, 10, 6],
            "recursive_num": [2, 5, 3],
            "heads": [2, 4, 8],
            "groups1": [16, 14, 1],
            "groups2": [1, 1, 1],
            "mlp_ratio": 4.0,
            "np_mlp_ratio": 1,
        }
    theirs = getattr(importlib.import_module(module), function)(**options)
    arch = Architecture.load(Architecture.load(name).to_dict() | {"permute": "random"})
    ours = create_model(arch, drop_path_rate=0.0)
    ours.load_state_dict(convert_official_state_dict(theirs.state_dict()))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        image = torch.randn(1, 3, 224, 224)
        torch.manual_seed(0)
        expected = theirs.eval()(image)
        torch.manual_seed(0)
        torch.testing.assert_close(ours.eval()(image), expected, atol=1e-3, rtol=1e-3)
    return theirs.to(device), ours.to(device)


def measure(
    name: str, theirs: nn.Module, ours: nn.Module, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one variant: each task for both, in turn."""
    device = options.device
    rows = []

    def row(task: str, official: Step, mine: Step, bar: bool) -> None:
        official_ms, ours_ms, ratio = interleaved(official, mine, options.rounds, device)
        rows.append(
            {
                "model": name,
                "task": task,
                "official_ms": official_ms,
                "ours_ms": ours_ms,
                "ratio": ratio,
                "bar": bar,
            }
        )

    if device == "cuda":
        image = torch.randn(128, 3, 224, 224, device=device)
        fast = torch.compile(ours)
        row(
            "bf16 forward, batch 128: official eager, ours compiled",
            forward(theirs, image, torch.bfloat16),
            forward(fast, image, torch.bfloat16),
            True,
        )
        row(
            "bf16 step, batch 128: official eager, ours compiled",
            step(theirs, image, torch.bfloat16),
            step(fast, image, torch.bfloat16),
            True,
        )
        return rows
    for batch in (1, 16):
        image = torch.randn(batch, 3, 224, 224)
        row(f"fp32 forward, batch {batch}", forward(theirs, image), forward(ours, image), True)
    image = torch.randn(8, 3, 224, 224)
    row("fp32 training step, batch 8", step(theirs, image), step(ours, image), True)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        bf16 = torch.bfloat16
        image = torch.randn(16, 3, 224, 224)
        row(
            "bf16 forward, batch 16",
            forward(theirs, image, bf16),
            forward(ours, image, bf16),
            False,
        )
        image = torch.randn(8, 3, 224, 224)
        row(
            "bf16 training step, batch 8", step(theirs, image, bf16), step(ours, image, bf16), False
        )
    if options.compile:
        fixed = create_model(name, drop_path_rate=0.0)
        fixed.load_state_dict(ours.state_dict())
        image = torch.randn(1, 3, 224, 224)
        row(
            "fp32 forward, batch 1, ours compiled",
            forward(theirs, image),
            forward(torch.compile(fixed), image),
            False,
        )
    return rows


def forward(model: Any, image: Tensor, dtype: torch.dtype = torch.float32) -> Step:
    def run() -> None:
        model.eval()
        with torch.inference_mode(), autocast(image, dtype):
            model(image)

    return run


def step(model: Any, image: Tensor, dtype: torch.dtype = torch.float32) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    target = torch.zeros(len(image), dtype=torch.long, device=image.device)

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        with autocast(image, dtype):
            loss = F.cross_entropy(model(image), target)
        loss.backward()
        optimizer.step()

    return run


def autocast(image: Tensor, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32)


def interleaved(a: Step, b: Step, rounds: int, device: str) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the ratios round by round."""

    def once(run: Step) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    for run in (a, b, a, b):
        run()
    times = []
    for i in range(rounds):
        if i % 2:
            mine, theirs = once(b), once(a)
        else:
            theirs, mine = once(a), once(b)
        times.append((theirs, mine))
    return (
        statistics.median(t for t, _ in times),
        statistics.median(m for _, m in times),
        statistics.median(t / m for t, m in times),
    )


def device_name(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
