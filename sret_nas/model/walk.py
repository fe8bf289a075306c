"""Block applications forwards and backwards, on folded weights: what autograd would do, but fused.

Shapes: B batch, N tokens, C channels, H heads, D channels per head, G slices, b = B·G, S tokens
per slice, M = B·N rows, O outputs of a unit's first matrix. Requires torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sret_nas.model.folding import Unit
from sret_nas.model.layers import LAYER_NORM_EPS, attention, prefers_products

KEPT_ATTENTION = 9
"""Tensors that the way back needs of an attention: ``Walk`` lists them."""
KEPT_MLP = 6
"""Tensors that the way back needs of an MLP or an NLL."""


class Step(NamedTuple):
    """One block application.

    Attributes:
        attention: Its attention among the units.
        mlps: Its MLP and, if there is one, its NLL.
        groups: Slices G.
        order: Row of the permutations, or ``None``.
        masks: Row of the drop-path masks of each of its units in turn, or ``None``.
    """

    attention: int
    mlps: tuple[int, ...]
    groups: int
    order: int | None
    masks: tuple[int | None, ...] = ()


class Walk:
    """Goes through block applications on folded weights, one step at a time, and back.

    Args:
        units: Folded weights, in the dtype of the tokens.
        heads: Attention heads H.
        zeros_C: Zeros.
        ones_C: Ones.
        masks_KB11: Drop-path masks of every unit that has some, or ``None``.
        orders_PN: Orders of the tokens for permuted steps, or ``None``.
        inverses_PN: Their inverses.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        heads: int,
        zeros_C: Tensor,
        ones_C: Tensor,
        masks_KB11: Tensor | None,
        orders_PN: Tensor | None,
        inverses_PN: Tensor | None,
    ) -> None:
        self.units, self.heads = units, heads
        self.masks_KB11, self.orders_PN, self.inverses_PN = masks_KB11, orders_PN, inverses_PN
        self.zeros_C, self.ones_C = zeros_C, ones_C
        # LayerNorm on a CPU keeps its statistics in the dtype of its weight.
        plain = units[0].w1.is_cuda or units[0].w1.dtype == torch.float32
        self.affine = (None, None) if plain else (ones_C, zeros_C)

    def forward(self, step: Step, x_BNC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Apply one step.

        Returns:
            The tokens after it, (B, N, C), and what ``backward`` needs of it.
        """
        x_BNC, kept = self._attend(step, x_BNC)
        for which, mask in zip(step.mlps, step.masks[1:], strict=True):
            x_BNC, more = self._mlp(self.units[which], x_BNC, mask)
            kept += more
        return x_BNC, kept

    def backward(
        self, step: Step, d_BNC: Tensor, kept: list[Tensor], sums: list[list[Tensor]]
    ) -> Tensor:
        """Go back over one step.

        Args:
            step: The step.
            d_BNC: Gradient of its output.
            kept: What ``forward`` returned of it; it is used up.
            sums: Gradients of the fields of every unit so far; those of the step are added.

        Returns:
            The gradient of its input, (B, N, C).
        """
        found: dict[int, list[Tensor]] = {}
        for which, mask in zip(reversed(step.mlps), reversed(step.masks[1:]), strict=True):
            d_BNC, of_unit = self._mlp_back(self.units[which], d_BNC, mask, kept[-KEPT_MLP:])
            del kept[-KEPT_MLP:]
            found[which] = of_unit
        which = step.attention
        d_BNC, found[which] = self._attend_back(step, d_BNC, kept)
        again = [which for which in found if sums[which]]
        if again:  # the block was applied before, that is, later
            torch._foreach_add_(
                [one for which in again for one in sums[which]],
                [one for which in again for one in found[which]],
            )
        for which in found.keys() - again:
            sums[which] = found[which]
        return d_BNC

    # -- the two kinds of unit ---------------------------------------------------------------

    def _mlp(self, unit: Unit, x_BNC: Tensor, mask: int | None) -> tuple[Tensor, list[Tensor]]:
        n_BNC, mean, rstd = self._norm(x_BNC)
        n_MC = n_BNC.flatten(0, 1)
        a_MO = torch.addmm(unit.b1, n_MC, unit.w1.t())
        g_MO = torch.nn.functional.gelu(a_MO)
        y_MC = torch.addmm(unit.b2, g_MO, unit.w2.t())
        out_BNC = self._join(unit, x_BNC, y_MC.view_as(x_BNC), mask)
        return out_BNC, [x_BNC, n_MC, mean, rstd, a_MO, g_MO]

    def _mlp_back(
        self, unit: Unit, d_BNC: Tensor, mask: int | None, kept: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        x_BNC, n_MC, mean, rstd, a_MO, g_MO = kept
        dy_MC, db2_C, dskip_C = self._split(unit, x_BNC, d_BNC, mask)
        dw2_CO = dy_MC.t() @ g_MO
        da_MO = torch.ops.aten.gelu_backward(dy_MC @ unit.w2, a_MO)
        db1_O = da_MO.sum(0, dtype=torch.float32)
        dw1_OC = da_MO.t() @ n_MC
        dn_BNC = (da_MO @ unit.w1).view_as(x_BNC)
        dx_BNC = self._norm_back(unit, dn_BNC, x_BNC, mean, rstd, d_BNC)
        return dx_BNC, [dw1_OC, db1_O, dw2_CO, db2_C, *dskip_C]

    def _attend(self, step: Step, x_BNC: Tensor) -> tuple[Tensor, list[Tensor]]:
        unit = self.units[step.attention]
        B, N, C = x_BNC.shape
        n_BNC, mean, rstd = self._norm(x_BNC)
        n_BNC = self._permuted(step, n_BNC, self.orders_PN)
        n_MC = n_BNC.flatten(0, 1)
        core = self._products if prefers_products(n_MC) else self._sdpa
        y_MC, kept = core(unit, n_MC, B * step.groups)
        z_MC = torch.addmm(unit.b2, y_MC, unit.w2.t())
        z_BNC = self._permuted(step, z_MC.view(B, N, C), self.inverses_PN)
        out_BNC = self._join(unit, x_BNC, z_BNC, step.masks[0])
        return out_BNC, [x_BNC, n_MC, mean, rstd, y_MC, *kept]

    def _attend_back(
        self, step: Step, d_BNC: Tensor, kept: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        unit = self.units[step.attention]
        x_BNC, n_MC, mean, rstd, y_MC, *core = kept
        dz_MC, db2_C, dskip_C = self._split(unit, x_BNC, d_BNC, step.masks[0])
        dz_MC = self._permuted(step, dz_MC.view_as(x_BNC), self.orders_PN).flatten(0, 1)
        dw2_CO = dz_MC.t() @ y_MC
        back = self._products_back if prefers_products(n_MC) else self._sdpa_back
        dqkv_MO = back(unit, dz_MC, core)
        db1_O = dqkv_MO.sum(0, dtype=torch.float32)
        dw1_OC = dqkv_MO.t() @ n_MC
        dn_BNC = (dqkv_MO @ unit.w1).view_as(x_BNC)
        dn_BNC = self._permuted(step, dn_BNC, self.inverses_PN)
        dx_BNC = self._norm_back(unit, dn_BNC, x_BNC, mean, rstd, d_BNC)
        return dx_BNC, [dw1_OC, db1_O, dw2_CO, db2_C, *dskip_C]

    # -- attention from the normalised tokens to the heads' outputs, (M, C) --------------------

    def _sdpa(self, unit: Unit, n_MC: Tensor, b: int) -> tuple[Tensor, list[Tensor]]:
        """By torch's kernel and its own way back."""
        qkv_MO = torch.addmm(unit.b1, n_MC, unit.w1.t())
        split = qkv_MO.view(b, -1, 3, self.heads, qkv_MO.shape[1] // 3 // self.heads)
        with torch.enable_grad():
            q, k, v = (one.detach().requires_grad_() for one in split.unbind(2))
            y_bSHD = attention(q, k, v)
        return y_bSHD.detach().reshape(n_MC.shape), [q, k, v, y_bSHD]

    def _sdpa_back(self, unit: Unit, dz_MC: Tensor, kept: list[Tensor]) -> Tensor:
        q, k, v, y_bSHD = kept
        dy_bSHD = (dz_MC @ unit.w2).view_as(y_bSHD)
        # Kept as long as this function's own graph is, for a second way back.
        dqkv = torch.autograd.grad(y_bSHD, (q, k, v), dy_bSHD, retain_graph=True)
        return torch.stack(dqkv, dim=2).view(len(dz_MC), -1)

    def _products(self, unit: Unit, n_MC: Tensor, b: int) -> tuple[Tensor, list[Tensor]]:
        """By two matrix products; heads first in memory, as these want them."""
        M, C = n_MC.shape
        H = self.heads
        w1_TCD = unit.w1.view(3 * H, -1, C).transpose(1, 2)  # T = 3·H
        qkv_TMD = torch.baddbmm(unit.b1.view(3 * H, 1, -1), n_MC.expand(3 * H, M, C), w1_TCD)
        q, k, v = qkv_TMD.view(3, H * b, M // b, -1).unbind(0)
        a_bSS = torch.baddbmm(
            unit.b1[:1], q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5
        ).softmax(-1)
        y_MC = torch.bmm(a_bSS, v).view(H, M, -1).transpose(0, 1).reshape(M, C)
        return y_MC, [q, k, v, a_bSS]

    def _products_back(self, unit: Unit, dz_MC: Tensor, kept: list[Tensor]) -> Tensor:
        q, k, v, a_bSS = kept
        M, C = dz_MC.shape
        H, scale = self.heads, q.shape[-1] ** -0.5
        w2_HCD = unit.w2.view(C, H, -1).transpose(0, 1)
        dy_bSD = torch.bmm(dz_MC.expand(H, M, C), w2_HCD).view_as(v)
        dv = torch.bmm(a_bSS.transpose(1, 2), dy_bSD)
        da_bSS = torch.bmm(dy_bSD, v.transpose(1, 2))
        ds_bSS = torch._softmax_backward_data(da_bSS, a_bSS, -1, a_bSS.dtype)
        dq = torch.baddbmm(unit.b2[:1], ds_bSS, k, beta=0, alpha=scale)
        dk = torch.baddbmm(unit.b2[:1], ds_bSS.transpose(1, 2), q, beta=0, alpha=scale)
        heads = [one.view(H, M, -1).transpose(0, 1) for one in (dq, dk, dv)]
        return torch.stack(heads, dim=1).view(M, -1)

    # -- what both have in common ------------------------------------------------------------

    def _norm(self, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.affine
        return torch.native_layer_norm(x_BNC, x_BNC.shape[-1:], weight, bias, LAYER_NORM_EPS)

    def _norm_back(
        self,
        unit: Unit,
        dn_BNC: Tensor,
        x_BNC: Tensor,
        mean: Tensor,
        rstd: Tensor,
        d_BNC: Tensor,
    ) -> Tensor:
        """Through the norm, joined with what came by the skip connection."""
        dx_BNC: Tensor = torch.ops.aten.native_layer_norm_backward(
            dn_BNC, x_BNC, x_BNC.shape[-1:], mean, rstd, *self.affine, [True, False, False]
        )[0]
        if unit.skip is None:
            return dx_BNC.add_(d_BNC)
        return dx_BNC.addcmul_(d_BNC, unit.skip)

    def _permuted(self, step: Step, t_BNC: Tensor, orders_PN: Tensor | None) -> Tensor:
        if step.order is None or orders_PN is None:
            return t_BNC
        return t_BNC.index_select(1, orders_PN[step.order])

    def _masked(self, y_BNC: Tensor, mask: int | None) -> Tensor:
        if mask is None or self.masks_KB11 is None:
            return y_BNC
        return y_BNC * self.masks_KB11[mask]

    def _join(self, unit: Unit, x_BNC: Tensor, y_BNC: Tensor, mask: int | None) -> Tensor:
        y_BNC = self._masked(y_BNC, mask)
        if unit.skip is None:
            return x_BNC + y_BNC
        return torch.addcmul(y_BNC, x_BNC, unit.skip)

    def _split(
        self, unit: Unit, x_BNC: Tensor, d_BNC: Tensor, mask: int | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients of the branch's output, of its bias and of ``skip``."""
        dskip: list[Tensor] = []
        db2_C: Tensor | None = None
        if unit.skip is not None:
            dskip_C, db2_C = channel_sums(d_BNC, x_BNC, self.zeros_C, self.ones_C)
            dskip = [dskip_C]
        dy_MC = self._masked(d_BNC, mask).flatten(0, 1)
        if db2_C is None or mask is not None:
            db2_C = dy_MC.sum(0, dtype=torch.float32)
        return dy_MC, db2_C, dskip


def channel_sums(
    d_BNC: Tensor, x_BNC: Tensor, zeros_C: Tensor, ones_C: Tensor
) -> tuple[Tensor, Tensor]:
    """``Σ d∘x`` and ``Σ d`` over all tokens by channel, (C,) each, in fp32, in one pass.

    These are the gradients of BatchNorm's weight and bias where its mean is 0 and its
    deviation 1; torch adds them in fp32 whatever the dtype of the tokens.

    Args:
        d_BNC: Contiguous.
        x_BNC: Contiguous.
        zeros_C: fp32.
        ones_C: fp32.
    """
    d_BCN1, x_BCN1 = (t.unsqueeze(2).permute(0, 3, 1, 2) for t in (d_BNC, x_BNC))
    _, product_C, sum_C = torch.ops.aten.native_batch_norm_backward(
        d_BCN1,
        x_BCN1,
        ones_C,
        zeros_C,
        ones_C,
        zeros_C,
        ones_C,
        False,
        0.0,
        [False, True, True],
    )
    return product_C, sum_C
