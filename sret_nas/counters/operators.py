"""ATen operators: which have no multiply-add to count, and which a counter does not know."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sret_nas.counters.record import Terms

# Operators without a multiply-add by the convention of this project: they move, compare,
# normalise, pool or draw. Pointwise, reducing and view operators say so themselves, by tag.
FREE = frozenset(
    """
    _assert_async _local_scalar_dense _native_batch_norm_legit
    _native_batch_norm_legit_no_training _softmax _log_softmax _to_copy _unsafe_view
    adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d arange
    argmax argsort as_strided avg_pool1d avg_pool2d batch_norm bernoulli cat clone constant_pad_nd
    contiguous copy cudnn_batch_norm cumsum dropout empty empty_like empty_strided
    feature_dropout fill flip full full_like gather grid_sampler grid_sampler_2d group_norm
    index index_put index_select instance_norm layer_norm lift_fresh linspace log_softmax
    max_pool2d max_pool2d_with_indices meshgrid native_batch_norm native_dropout
    native_group_norm native_layer_norm new_empty new_full new_ones new_zeros nonzero ones
    ones_like pad pixel_shuffle pixel_unshuffle rand randn randperm reflection_pad2d
    repeat repeat_interleave reshape resize rms_norm _fused_rms_norm roll scalar_tensor scatter
    softmax sort split stack sum_to_size topk tril triu unfold upsample_bicubic2d
    upsample_bilinear2d upsample_nearest2d zero zeros zeros_like
    """.split()  # noqa: SIM905 (a list of so many strings is harder to read)
)


def free(name: str) -> bool:
    """Whether the ATen operator of a name, with or without ``aten::``, has no multiply-add."""
    name = name.removeprefix("aten::")
    if name in FREE or name.removesuffix("_") in FREE:
        return True
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    free_tags = {torch.Tag.pointwise, torch.Tag.reduction}
    return any(op.is_view or free_tags & set(op.tags) for op in overloads)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every ATen operator that runs, and how often."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: collections.Counter[Any] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def operators_beyond(model: nn.Module, image: Tensor, known: Mapping[Any, Any]) -> Terms:
    """What a counter does not see: operators that it neither knows nor may leave out.

    Args:
        model: Run once, on ``image``.
        image: One image, (1, C, H, W).
        known: Operators that the counter has a formula for.

    Returns:
        How often each ran, by ``aten::NAME``.
    """
    with _Operators() as operators:
        model(image)
    return {
        f"aten::{packet.__name__}": times
        for packet, times in operators.seen.items()
        if packet not in known and not free(packet.__name__)
    }
