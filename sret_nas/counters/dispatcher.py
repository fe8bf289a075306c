"""torch's own counter."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sret_nas.counters.operators import operators_beyond
from sret_nas.counters.record import Count, Subject


def by_torch(subject: Subject) -> Count:
    """Count by ``torch.utils.flop_counter``: the fused path."""
    with FlopCounterMode(display=False) as counter:
        subject.model(subject.image)
    return Count(
        "torch",
        counter.get_total_flops(),
        "FLOPs",
        "2 FLOPs per multiply-add of convolutions, matrix products and SDPA",
        "bias, normalisation, softmax, activations, residual sums, pooling",
        operators_beyond(subject.model, subject.image, flop_registry),
    )
