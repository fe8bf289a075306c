"""What a CPU is slow at, or wrong."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


def suit_to_cpu(model: nn.Module) -> None:
    """Go around what CPU kernels are slow at, or wrong, in bf16; the function stays the same.

    A depthwise convolution takes seven times as long as in fp32, and both kinds of
    convolution are faster with channels last in memory. The gradient of the weights of a
    strided convolution over a single pixel is memory that nobody wrote (torch 2.14 on a CPU
    that computes in bf16): there it is computed in fp32.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        # A subclass does what its own forward does, such as to pad (timm's Conv2dSame).
        if type(module) is not nn.Conv2d:
            continue
        if module.groups > 1:
            module.forward = functools.partial(_in_fp32, module)  # type: ignore[method-assign]
        elif max(module.stride) > 1 and max(module.kernel_size) > 1:
            module.forward = functools.partial(_strided, module)  # type: ignore[method-assign]


def _strided(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return _in_fp32(conv, x) if min(x.shape[-2:]) == 1 else nn.Conv2d.forward(conv, x)


def _in_fp32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(conv, x.float())
