"""A copy of a model as exporters need it: it computes the same by fewer, plainer operations.

Shapes: B batch, N tokens, C channels, S side, K classes.
Requires torch and timm.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sret_nas.errors import ArchitectureError, UsageError
from sret_nas.model.layers import MlpUnit, Residual, SlicedAttention
from sret_nas.model.sret import SReT


class Joined(nn.Module):
    """``skip · x + y``: a residual whose branch is scaled by the weights before it.

    Args:
        skip: What the input is multiplied by, (1,).
    """

    def __init__(self, skip: Tensor) -> None:
        super().__init__()
        self.skip = nn.Parameter(skip.detach().clone())

    def forward(self, x_BNC: Tensor, y_BNC: Tensor) -> Tensor:
        """Join a unit's input with the output of its branch, (B, N, C) each."""
        return x_BNC * self.skip + y_BNC


class Half(nn.Module):
    """A model that computes in half precision between float32 images and float32 logits.

    Args:
        model: The model; its weights are halved.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Images (B, C, S, S) to logits (B, K)."""
        logits_BK: Tensor = self.model(images_BCSS.half())
        return logits_BK.float()


def resized(model: nn.Module, side: int) -> nn.Module:
    """A copy of a model for images of one size, on the CPU, in float32 and eval mode.

    Args:
        model: The model; left as it is.
        side: Side of the images in px.

    Raises:
        UsageError: its weights are on ``meta``.
        ArchitectureError: an SReT model that does not exist at that size.
    """
    if any(value.is_meta for value in model.state_dict().values()):
        raise UsageError("the model's weights are on meta: there is nothing to export")
    with torch.inference_mode(False):  # tensors made for inference alone cannot be exported
        copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if isinstance(copied, SReT):
        copied.set_input_size(side)
    return copied


def frozen(model: nn.Module, side: int) -> nn.Module:
    """A copy of a model as exporters need it, for images of one size.

    Of an SReT model, attention is plain matrix products, which exporters and quantisers know,
    and the coefficient of a residual's branch is folded into the weights before it.

    Args:
        model: The model; left as it is.
        side: Side of the images in px.

    Raises:
        ConfigError: it draws random orders, or does not exist at that size.
        UsageError: its weights are on ``meta``.
    """
    if isinstance(model, SReT) and _draws(model):
        raise ArchitectureError(
            "permute: random draws new orders at every call, which no file can hold",
            "build it with permute: fixed; the same weights serve",
        )
    still = resized(model, side)
    if isinstance(still, SReT):
        still.set_fused_attn(False)
        for unit in list(still.modules()):
            if isinstance(unit, SlicedAttention | MlpUnit):
                _fold(unit)
    return still


def _draws(model: SReT) -> bool:
    steps = (step for schedule in model.arch.schedules for step in schedule)
    return model.arch.permute == "random" and any(step.permuted for step in steps)


@torch.no_grad()
def _fold(unit: SlicedAttention | MlpUnit) -> None:
    residual = unit.residual
    if not isinstance(residual, Residual) or residual.skip is None or residual.branch is None:
        return
    last = unit.proj if isinstance(unit, SlicedAttention) else unit.fc2
    last.weight.mul_(residual.branch)
    last.bias.mul_(residual.branch)
    unit.residual = Joined(residual.skip)  # type: ignore[assignment]
