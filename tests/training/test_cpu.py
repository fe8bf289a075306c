"""What is gone around on a CPU is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sret_nas.training.cpu import suit_to_cpu


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("groups", [1, 16])
def test_gradients_of_strided_convolutions_are_those_in_fp32(
    side: int, kernel: int, groups: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, kernel, stride=2, padding=kernel // 2, groups=groups, bias=False)
    x = torch.randn(8, 16, side, side)
    (wanted,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    model = nn.Sequential(conv)
    suit_to_cpu(model)
    for _ in range(8):
        junk = [torch.full((length,), float("nan")) for length in range(100, 40_000, 1_000)]
        junk += [torch.full((wanted.numel(),), float("nan")) for _ in range(8)]
        del junk  # what is handed out next holds it
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        (found,) = torch.autograd.grad(y.float().square().sum(), conv.weight)
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))
