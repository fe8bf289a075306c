"""The block applications of a stage as few, large operations, for training.

Counted on a training step, most of what the plain modules in ``layers`` launch is small:
the two scalars of every residual, casts, the affine part of every LayerNorm and the sums
for their gradients. Here everything that scales or shifts channels is *folded*, once a
step, into the matrix next to it:

    W₁·(γ∘x̂ + β) + b₁  =  (W₁·diag γ)·x̂ + (b₁ + W₁·β)
    branch·(W₂·h + b₂)  =  (branch·W₂)·h + branch·b₂

so that a unit is two matrices around what lies between them, and the gradients of γ, β and
``branch`` follow from those of the matrices. One autograd function walks through the stage
and back; the gradients of a block that is applied several times are summed in place.

The result equals that of ``layers`` up to rounding (tested in value and gradient). Under
autocast the tokens stay in the short dtype from one unit to the next, as in training with
parameters cast to it, and every sum over tokens is taken in fp32.

Shapes: B batch, N tokens, C channels, H heads, D channels per head, G slices, S tokens per
slice, M = B·N rows, U weight units, O outputs of a unit's first matrix. Requires torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sret_nas.model.folding import Fold, Members, Unit, parameters, shortened_vectors
from sret_nas.model.layers import MlpUnit, Residual, SlicedAttention
from sret_nas.model.walk import KEPT_ATTENTION, KEPT_MLP, Step, Walk

T = TypeVar("T")

AT_ONCE = 12
"""Applications that one function walks through: what they keep lives until it has gone back."""
FOLDED_AT_ONCE = 3 * AT_ONCE
"""Units that are folded and unfolded together: products as large as their weights live then."""


class Part(NamedTuple):
    """Some steps of a stage, which one autograd function walks through.

    Attributes:
        units: Which units of the stage they use.
        steps: The block applications, by the places of units in ``units``.
    """

    units: tuple[int, ...]
    steps: tuple[Step, ...]


class Plan(NamedTuple):
    """What depends on the stage and its device alone: made once, for a graph reads it again.

    Attributes:
        heads: Attention heads H.
        scaled: Whether there are residual coefficients.
        rates: Drop-path rates of every unit of every step.
        keep: The chances to be kept, where they are below 1: (K, 1, 1, 1).
        zeros: Zeros, (C,).
        ones: Ones, (C,).
        members: What ``folding`` needs of every ``FOLDED_AT_ONCE`` units.
        parts: The steps, ``AT_ONCE`` in each part.
    """

    heads: int
    scaled: bool
    rates: tuple[float, ...]
    keep: Tensor
    zeros: Tensor
    ones: Tensor
    members: tuple[Members, ...]
    parts: tuple[Part, ...]


def applies(units: Sequence[SlicedAttention | MlpUnit], x_BNC: Tensor) -> bool:
    """Whether this path computes what the modules would, hooks and replacements included.

    It is for gradients alone, and knows neither dropout inside a unit, nor what a
    transform of torch.func, a tracer or a compiler must see of each operation.
    """
    if (
        not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
    ):
        return False
    if type(x_BNC) is not Tensor or torch._C._are_functorch_transforms_active():
        return False
    if nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    return all(
        _usual(unit)
        and (not unit.training or not any(_dropout(unit)))
        and getattr(unit, "fused", True)
        and unit.norm.weight.dtype == torch.float32
        for unit in units
    )


def _usual(unit: SlicedAttention | MlpUnit) -> bool:
    """Whether a unit's layers are those it was built with, and nobody listens to them."""
    children = (unit, *unit.children())
    return all(type(child) in USUAL and not _listened_to(child) for child in children)


def _listened_to(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def _dropout(unit: SlicedAttention | MlpUnit) -> tuple[float, ...]:
    if isinstance(unit, SlicedAttention):
        return unit.attn_drop, unit.proj_drop
    return (unit.drop,)


USUAL = {SlicedAttention, MlpUnit, nn.Linear, nn.LayerNorm, Residual}


def plan(
    units: Sequence[SlicedAttention | MlpUnit], steps: Sequence[Step], device: torch.device
) -> Plan:
    """Plan a stage.

    Args:
        units: Attentions, MLPs and NLLs of the stage.
        steps: Its block applications by the indices of these units; their ``masks`` are set here.
        device: Where the stage is.
    """
    by_step = [tuple(rates(units, step)) for step in steps]
    row = itertools.count()
    masked = [
        step._replace(masks=tuple(next(row) if rate else None for rate in of_step))
        for step, of_step in zip(steps, by_step, strict=True)
    ]
    all_rates = tuple(itertools.chain.from_iterable(by_step))
    keep = torch.tensor([1 - rate for rate in all_rates if rate], device=device)
    C = len(units[0].norm.weight)
    return Plan(
        next(unit.heads for unit in units if isinstance(unit, SlicedAttention)),
        units[0].residual.skip is not None,
        all_rates,
        keep.view(-1, 1, 1, 1),
        torch.zeros(C, device=device),
        torch.ones(C, device=device),
        tuple(Members.of(some, device) for some in batched(units, FOLDED_AT_ONCE)),
        tuple(_part(some) for some in batched(masked, AT_ONCE)),
    )


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut items into pieces of at most ``size`` (``itertools.batched`` from Python 3.12)."""
    return (items[i : i + size] for i in range(0, len(items), size))


def _part(steps: Sequence[Step]) -> Part:
    used = sorted({which for step in steps for which in (step.attention, *step.mlps)})
    place = {which: at for at, which in enumerate(used)}
    return Part(
        tuple(used),
        tuple(
            step._replace(
                attention=place[step.attention], mlps=tuple(place[which] for which in step.mlps)
            )
            for step in steps
        ),
    )


def rates(units: Sequence[SlicedAttention | MlpUnit], step: Step) -> Iterator[float]:
    """Drop-path rate of every unit of a step, in the order in which they are applied."""
    for which in (step.attention, *step.mlps):
        drop_path = units[which].residual.drop_path
        yield float(drop_path.drop_prob) if drop_path is not None else 0.0


def forward(
    units: Sequence[SlicedAttention | MlpUnit],
    x_BNC: Tensor,
    orders: tuple[Tensor, Tensor] | None,
    of: Plan,
    recompute: bool = False,
) -> Tensor:
    """Apply blocks of a stage.

    Args:
        units: Attentions, MLPs and NLLs of the stage.
        x_BNC: Tokens in raster order.
        orders: Orders of the tokens and their inverses, (P, N) each, or ``None``.
        of: What ``plan`` made of them.
        recompute: Keep only the input of each step, and compute it again for the way back.

    Returns:
        (B, N, C) in the dtype of autocast, where it is on, else of the weights.
    """
    device = x_BNC.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else torch.float32
    masks_KB11 = None
    if units[0].training and len(of.keep):
        masks_KB11 = drop_path_masks(of.keep, len(x_BNC), dtype)
    random = masks_KB11, *(orders or (None, None))
    folded: list[Unit] = []
    for some, members in zip(batched(units, FOLDED_AT_ONCE), of.members, strict=True):
        params = [parameter for unit in some for parameter in parameters(unit)]
        folded += Unit.all_of(Fold.apply(of.scaled, dtype, members, *params), of.scaled)
    for part in of.parts:
        weights = [one for which in part.units for one in folded[which] if one is not None]
        x_BNC = FusedSteps.apply(x_BNC, of, part, recompute, *random, *weights)
    return x_BNC


def drop_path_masks(keep_K111: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """0, or 1 over the chance to be kept, for every image of a batch: (K, B, 1, 1).

    Source: stochastic depth, https://arxiv.org/abs/1603.09382, as in timm's ``DropPath``.
    """
    masks_KB11 = keep_K111.new_empty(len(keep_K111), batch, 1, 1, dtype=dtype)
    return masks_KB11.bernoulli_(keep_K111).div_(keep_K111)


class FusedSteps(torch.autograd.Function):
    """The steps of one ``Part`` on folded weights, forwards and backwards, for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BNC: Tensor,
        of: Plan,
        part: Part,
        recompute: bool,
        masks_KB11: Tensor | None,
        orders_PN: Tensor | None,
        inverses_PN: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        """Walk through the steps, keeping what the way back needs; tokens to tokens, (B, N, C)."""
        units = Unit.all_of(weights, of.scaled)
        short = Unit.all_of(shortened_vectors(units), of.scaled)
        with torch.autocast(x_BNC.device.type, enabled=False):
            walk = Walk(short, of.heads, of.zeros, of.ones, masks_KB11, orders_PN, inverses_PN)
            x_BNC = x_BNC.to(units[0].w1.dtype).contiguous()
            kept: list[Tensor] = []
            for step in part.steps:
                before_BNC = x_BNC
                x_BNC, of_step = walk.forward(step, x_BNC)
                kept += [before_BNC] if recompute else of_step
        folded = [one for unit in short for one in unit if one is not None]
        ctx.of, ctx.part, ctx.recompute = of, part, recompute
        ctx.counts = 3, len(folded), len(kept)
        ctx.save_for_backward(masks_KB11, orders_PN, inverses_PN, *folded, *kept)
        return x_BNC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BNC: Tensor) -> tuple[Tensor | None, ...]:
        """Walk back: the gradients of the tokens, (B, N, C), and of the folded weights."""
        of: Plan = ctx.of
        saved = iter(ctx.saved_tensors)
        random, folded, kept = (list(itertools.islice(saved, count)) for count in ctx.counts)
        units = Unit.all_of(folded, of.scaled)
        sums: list[list[Tensor]] = [[] for _ in units]
        with torch.autocast(d_BNC.device.type, enabled=False):
            walk = Walk(units, of.heads, of.zeros, of.ones, *random)
            d_BNC = d_BNC.to(units[0].w1.dtype).contiguous()
            for step in reversed(ctx.part.steps):
                if ctx.recompute:
                    of_step = walk.forward(step, kept.pop())[1]
                else:
                    count = KEPT_ATTENTION + KEPT_MLP * len(step.mlps)
                    of_step = kept[-count:]
                    del kept[-count:]
                d_BNC = walk.backward(step, d_BNC, of_step, sums)
        return (d_BNC, *[None] * 6, *itertools.chain.from_iterable(sums))
