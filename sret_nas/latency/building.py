"""Models and images to measure with: the same for every runtime.

Requires torch and timm.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.latency import modes
from sret_nas.latency.settings import Settings
from sret_nas.model import create_model


def built(
    source: Architecture | nn.Module, batch: int, settings: Settings
) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A model in eval mode and its input, both of the dtype, and what eager fp32 returns.

    Args:
        source: An architecture, or a module, which is copied.
        batch: Images at once.
        settings: Device and dtype.
    """
    model = module(source).to(device=settings.device, dtype=torch.float32)
    x = images(batch, input_shape(model), settings.device)
    expected = modes.expect(model, x)
    return model.to(settings.dtype), x.to(settings.dtype), expected


def module(source: Architecture | nn.Module) -> nn.Module:
    """A model in eval mode; that of an architecture has the same weights at every call.

    Args:
        source: An architecture, or a module, which is copied.
    """
    if not isinstance(source, Architecture):
        return copy.deepcopy(source).eval()
    with torch.random.fork_rng(devices=[]):  # initial weights leave no trace
        torch.default_generator.manual_seed(0)
        return create_model(source).eval()


def images(batch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Noise of different contrast and brightness: so the outputs differ from image to image.

    Args:
        batch: Images at once.
        shape: Channels, height and width of one.
        device: Where they are to be.

    Returns:
        The same at every call, (B, C, H, W).
    """
    # Drawn on the device: where it has no room, that is known at once.
    drawn: dict[str, Any] = {
        "generator": torch.Generator(device).manual_seed(0),
        "device": device,
    }
    x = torch.randn(batch, *shape, **drawn)
    contrast, brightness = torch.rand(2, batch, *(1 for _ in shape), **drawn)
    return x.mul_(0.2 + 1.8 * contrast).add_(4 * brightness - 2)


def input_shape(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of one image for this model."""
    arch = getattr(model, "arch", None)
    if isinstance(arch, Architecture):
        return arch.in_chans, arch.image_size, arch.image_size
    for name in ("pretrained_cfg", "default_cfg"):  # timm's
        size = (getattr(model, name, None) or {}).get("input_size")
        if size:
            return tuple(size)
    return 3, 224, 224


def nbytes(value: Any) -> int:
    """Bytes of a tensor; of anything else 0."""
    return value.nbytes if isinstance(value, Tensor) else 0
