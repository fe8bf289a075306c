"""Scales and shifts of channels, folded into the matrices of a unit, and back.

    W₁·(γ∘x̂ + β) + b₁  =  (W₁·diag γ)·x̂ + (b₁ + W₁·β)
    branch·(W₂·h + b₂)  =  (branch·W₂)·h + branch·b₂

Once a step, for all units of a stage at a time; the gradients of γ, β and ``branch``
follow from those of the folded matrices.

Shapes: C channels, U weight units, O outputs of a unit's first matrix, I inputs of its second.
Requires torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sret_nas.model.layers import MlpUnit, SlicedAttention

ALIGN = 8
"""Elements at whose multiples a folded weight begins: 16 bytes in a short dtype."""
KINDS = 8
"""Parameters of a unit with residual coefficients, as ``parameters`` lists them."""


class Unit(NamedTuple):
    """Folded weights of one unit: ``y = W₂·f(W₁·x̂ + b₁) + b₂``, joined as ``skip∘x + y``.

    Attributes:
        w1: First matrix W₁ with γ folded in, (O, C).
        b1: First bias with β folded in, (O,).
        w2: Second matrix W₂, times ``branch``, (C, I).
        b2: Second bias, times ``branch``, (C,).
        skip: What the input is multiplied by, (C,); ``None`` without residual coefficients.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    skip: Tensor | None

    @classmethod
    def all_of(cls, folded: Sequence[Tensor], scaled: bool) -> list[Unit]:
        """Put units together from all their tensors in a row, as autograd passes them.

        Args:
            folded: Tensors, in the order of the fields.
            scaled: Whether there are residual coefficients, and with them ``skip``.
        """
        fields = len(cls._fields) - (not scaled)
        rows = [folded[i : i + fields] for i in range(0, len(folded), fields)]
        return [cls(*row, *([] if scaled else [None])) for row in rows]


def parameters(unit: SlicedAttention | MlpUnit) -> list[Tensor]:
    """Parameters of a unit in the order that this file relies on.

    Returns:
        γ, β, W₁, b₁, W₂, b₂ and, with residual coefficients, branch and skip.
    """
    first, second = (
        (unit.qkv, unit.proj) if isinstance(unit, SlicedAttention) else (unit.fc1, unit.fc2)
    )
    found = [unit.norm.weight, unit.norm.bias, first.weight, first.bias]
    found += [second.weight, second.bias]
    if unit.residual.branch is not None and unit.residual.skip is not None:
        found += [unit.residual.branch, unit.residual.skip]
    return found


class Members(NamedTuple):
    """Which parts of concatenated matrices belong together; they are summed by one product.

    Attributes:
        rows: Membership of the rows of W₁ in units, (U, ΣO).
        columns: Membership of the columns of W₂, of b₂ and of ``skip`` in units, for the
            gradients first of ``branch``, then of ``skip``, (2U, ΣI + 2U).
        ones: Ones, (C,).
    """

    rows: Tensor
    columns: Tensor
    ones: Tensor

    @classmethod
    def of(cls, units: Sequence[SlicedAttention | MlpUnit], device: torch.device) -> Members:
        """Make the matrices of membership for some units, on the device where they are."""
        params = [parameters(unit) for unit in units]
        alone = torch.eye(len(units))
        second = _membership([w2.shape[1] for _, _, _, _, w2, *_ in params])
        branch = torch.cat([second, alone, torch.zeros_like(alone)], dim=1)
        skip = torch.cat([torch.zeros_like(branch[:, : -len(units)]), alone], dim=1)
        rows = _membership([len(w1) for _, _, w1, *_ in params])
        ones_C = torch.ones(len(params[0][0]))
        return cls(rows.to(device), torch.cat([branch, skip]).to(device), ones_C.to(device))


def _membership(sizes: Sequence[int]) -> Tensor:
    """(parts, elements): 1 where an element belongs to a part."""
    part = torch.repeat_interleave(torch.tensor(sizes))
    return torch.nn.functional.one_hot(part, len(sizes)).t().float()


class Fold(torch.autograd.Function):
    """``fold`` for autograd, which goes back by ``unfold``."""

    @staticmethod
    def forward(
        ctx: Any, scaled: bool, dtype: torch.dtype, members: Members, *params: Tensor
    ) -> tuple[Tensor, ...]:
        """Fold the parameters; the fields of every ``Unit`` come back in a row."""
        ctx.scaled, ctx.members = scaled, members
        ctx.save_for_backward(*params)
        units = fold(params, scaled, dtype, members.ones)
        return tuple(one for unit in units for one in unit if one is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the parameters from those of the fields."""
        found = unfold(ctx.saved_tensors, gradients, ctx.scaled, ctx.members)
        return (None, None, None, *found)


def fold(params: Sequence[Tensor], scaled: bool, dtype: torch.dtype, ones_C: Tensor) -> list[Unit]:
    """Folded weights of all units: matrices in ``dtype``, vectors as they are.

    Args:
        params: Parameters of every unit in a row, as ``parameters`` lists them.
        scaled: Whether there are residual coefficients.
        dtype: What matrices are multiplied in.
        ones_C: Ones, for ``skip``, which is one number for all channels.
    """
    gamma, beta, w1, b1, w2, b2, *scalars = _by_kind(params, scaled)
    U = len(w1)
    branch, skip = scalars or ([], [])
    second = [*w2, *b2] if scaled else []
    products = torch._foreach_mul(
        [*w1, *w1, *second, *skip], [*beta, *gamma, *branch, *branch, *[ones_C] * len(skip)]
    )
    shifts_UO = torch.split_with_sizes(torch.cat(products[:U]).sum(1), [len(b) for b in b1])
    matrices = list(products[U : 2 * U])
    if scaled:
        matrices += products[2 * U : 3 * U]
        vectors = list(products[3 * U :])
    else:
        vectors = [one.clone() for one in b2]
        matrices += w2 if dtype != w2[0].dtype else [one.clone() for one in w2]
    matrices = shortened(matrices, dtype)
    b1_shifted = torch._foreach_add(b1, shifts_UO)
    skips = vectors[U:] if scaled else [None] * U
    return list(map(Unit, matrices[:U], b1_shifted, matrices[U:], vectors[:U], skips))


def shortened(values: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of one dtype in another, (…) each, by one copy into one piece of memory."""
    if values[0].dtype == dtype:
        return list(values)
    aligned = [-(-one.numel() // ALIGN) * ALIGN for one in values]
    *places, size = itertools.accumulate(aligned, initial=0)
    room = values[0].new_empty(size, dtype=dtype)
    short = [
        room[at : at + one.numel()].view(one.shape) for at, one in zip(places, values, strict=True)
    ]
    torch._foreach_copy_(short, list(values))
    return short


def shortened_vectors(units: Sequence[Unit]) -> list[Tensor]:
    """All fields of the units in a row, the vectors in the short dtype of the matrices too."""
    fields = [one for unit in units for one in unit if one is not None]
    vectors = iter(shortened([one for one in fields if one.ndim == 1], units[0].w1.dtype))
    return [next(vectors) if one.ndim == 1 else one for one in fields]


def unfold(
    params: Sequence[Tensor], gradients: Sequence[Tensor], scaled: bool, members: Members
) -> list[Tensor]:
    """Gradients of the parameters from those of the folded weights.

    Args:
        params: Parameters of every unit in a row, as ``parameters`` lists them.
        gradients: Gradients of the fields of every ``Unit`` in a row.
        scaled: Whether there are residual coefficients.
        members: Which parts of concatenated matrices belong together.

    Returns:
        Gradients in the order of ``params``.
    """
    gamma, beta, w1, _, w2, b2, *scalars = _by_kind(params, scaled)
    U = len(gamma)
    fields = len(Unit._fields) - (not scaled)
    dw1, db1, dw2, db2, *dskip = (list(gradients[field::fields]) for field in range(fields))
    db1_O1 = [one.unsqueeze(1) for one in db1]
    branch = scalars[0] if scalars else []
    second = [*dw2, *db2] if scalars else []
    factors = [*w1, *w1, *gamma, *branch, *branch, *([*w2, *b2] if scalars else [])]
    products = list(torch._foreach_mul([*dw1, *db1_O1, *dw1, *second, *second], factors))
    rows_UO, columns_UI, _ = members
    both_2OC = torch.cat(products[: 2 * U]).view(2, rows_UO.shape[1], -1)
    del products[: 2 * U]  # as large as the weights
    dgamma_UC, dbeta_UC = torch.bmm(rows_UO.expand(2, -1, -1), both_2OC)
    del both_2OC
    dw1 = products[:U]
    torch._foreach_addcmul_(dw1, db1_O1, [b.unsqueeze(0) for b in beta])
    found: list[Sequence[Tensor]] = [dgamma_UC.unbind(0), dbeta_UC.unbind(0), dw1, db1]
    if scaled:
        second, traces = products[U : 3 * U], products[3 * U :]
        vectors = [one.unsqueeze(1) for one in (*traces[U:], *dskip[0])]
        dscalars_U1 = (columns_UI @ torch.cat([*traces[:U], *vectors], dim=1).sum(0)).unsqueeze(1)
        found += [second[:U], second[U:], dscalars_U1[:U].unbind(0), dscalars_U1[U:].unbind(0)]
    else:
        found += [[d.to(w.dtype) for d, w in zip(dw2, w2, strict=True)], db2]
    return [one for unit in zip(*found, strict=True) for one in unit]


def _by_kind(params: Sequence[Tensor], scaled: bool) -> list[list[Tensor]]:
    kinds = KINDS if scaled else KINDS - 2
    return [list(params[kind::kinds]) for kind in range(kinds)]
