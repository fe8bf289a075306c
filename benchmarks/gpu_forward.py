"""Forward time of SReT-T beside the published code's and timm's, batch 1 and 128.

All in turn, weights and input in bf16, by ``sret_nas.latency``. The published code draws its
permutations on the CPU at every call, which no CUDA graph can hold: it has eager times alone.
Before anything is timed, its output is compared with ours on the same weights and draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch
from gpu_bench import Bench, Row
from published import Published
from torch import nn

from sret_nas import convert_official_state_dict, create_model
from sret_nas.arch import Architecture
from sret_nas.latency import Latency, measure

PEERS = ("deit_small_patch16_224", "deit_tiny_patch16_224")
TOLERANCE = 1e-3
"""Largest difference between the logits of both codes in fp32."""


def rows(bench: Bench) -> Iterator[Row]:
    arch = bench.arch("sret_t")
    published = Published(arch)
    yield {"what": "published against ours", "largest_difference": difference(published)}
    size = (arch.in_chans, arch.image_size, arch.image_size)
    options = {"img_size": arch.image_size, "pretrained_cfg_overlay": {"input_size": size}}
    models: dict[str, Architecture | nn.Module] = {
        "sret_t": arch,
        "published": published,
        **{name: timm.create_model(name, **options) for name in PEERS},
    }
    for mode in dict.fromkeys((bench.mode, "eager")):
        found = measure(
            {name: one for name, one in models.items() if mode == "eager" or name != "published"},
            batches=(1, 4 if bench.reduced else 128),
            dtype=bench.dtype,
            device=bench.device,
            mode=mode,
            seconds=0.2 if bench.reduced else max(1.0, bench.left_s() / 4),
        )
        for (name, batch), one in found.items():
            row = {"what": name, "mode": mode, "batch": batch}
            if isinstance(one, Latency):
                yield row | {
                    "dtype": one.dtype,
                    "median_ms": one.median_ms,
                    "spread": one.spread,
                    "images_per_s": one.images_per_s,
                    "note": one.note,
                }
            else:
                yield row | {"failed": str(one)}


def difference(published: Published) -> float:
    """Between the logits of both codes, on the CPU.

    Raises:
        ValueError: it is too large to call them the same network.
    """
    arch = Architecture.load(published.arch.to_dict() | {"permute": "random"})
    ours = create_model(arch).eval()
    ours.load_state_dict(convert_official_state_dict(published.state_dict()))
    generator = torch.Generator().manual_seed(0)
    side = arch.image_size
    image = torch.randn(2, arch.in_chans, side, side, generator=generator)
    outputs = []
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        for model in (ours, published.eval()):
            torch.manual_seed(0)
            outputs.append(model(image))
    found = float((outputs[0] - outputs[1]).abs().max())
    if not found <= TOLERANCE:
        raise ValueError(f"the plain network differs from ours by {found:.2g}")
    return found
