"""What a CPU is slow at."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


def suit_to_cpu(model: nn.Module) -> None:
    """Go around what CPU kernels are slow at in bf16; the function computed stays the same.

    A depthwise convolution takes seven times as long as in fp32, and both kinds of
    convolution are faster with channels last in memory.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        # A subclass does what its own forward does, such as to pad (timm's Conv2dSame).
        if type(module) is nn.Conv2d and module.groups > 1:
            module.forward = functools.partial(_in_fp32, module)  # type: ignore[method-assign]


def _in_fp32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(conv, x.float())
