"""torch's own counter."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from sret_nas.counters.operators import operators_beyond
from sret_nas.counters.record import Count, Subject


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


# The CPU's attention kernel, which torch may neither count nor take apart (2.14.1).
OURS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def by_torch(subject: Subject) -> Count:
    """Count by ``torch.utils.flop_counter``: the fused path."""
    with FlopCounterMode(display=False, custom_mapping=OURS) as counter:
        subject.model(subject.image)
    return Count(
        "torch",
        counter.get_total_flops(),
        "FLOPs",
        "2 FLOPs per multiply-add of convolutions, matrix products and SDPA",
        "bias, normalisation, softmax, activations, residual sums, pooling",
        operators_beyond(subject.model, subject.image, {**flop_registry, **OURS}),
    )
