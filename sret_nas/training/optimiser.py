"""The optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sret_nas.recipe import Recipe


class ClippingAdamW(torch.optim.AdamW):
    """AdamW that clips by the norm of all gradients; rate and norm stay on the device.

    Vectors, and what the model names, have no weight decay.

    Args:
        model: What to optimise.
        recipe: ``weight_decay`` and ``clip``.
    """

    grad_scale: Tensor

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        on_gpu = next(model.parameters()).is_cuda
        groups = _groups(model, recipe.weight_decay)
        super().__init__(groups, lr=recipe.lr, fused=True, capturable=on_gpu)
        self.clip = recipe.clip
        self.parameters = [p for group in self.param_groups for p in group["params"]]

    def clear(self) -> None:
        """Forget the gradients: the next ones are written, not added."""
        for parameter in self.parameters:
            parameter.grad = None

    def update(self, rate: Tensor, scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip the gradients and make one step.

        Args:
            rate: Learning rate, a scalar tensor on the device.
            scaler: What the loss was scaled by; a step whose gradients overflowed is left out.
        """
        for group in self.param_groups:
            group["lr"] = rate
        if scaler is not None:
            scaler.unscale_(self)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
            scaler.step(self)
            scaler.update()
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        # The fused kernel divides gradients by this as it reads them, as it does for a GradScaler.
        self.grad_scale = (norm / self.clip).clamp(min=1)
        self.step()


def schedule(recipe: Recipe, step: int, steps: int) -> float:
    """Factor on the peak learning rate: linear warm-up, then cosine.

    Args:
        recipe: Has ``warmup``, a share of all steps, and ``final_lr``, a share of the peak.
        step: Number of the step, from 0.
        steps: Steps of the whole training.
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    cosine = (1 + math.cos(math.pi * done)) / 2
    return recipe.final_lr + (1 - recipe.final_lr) * cosine


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    named = getattr(model, "no_weight_decay", None)  # timm's name for it
    spared: set[str] = set(named()) if named else set()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and name not in spared].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
