"""The block applications of one stage: which weights when, in which order the tokens.

Shapes: B batch, N tokens, C channels, P permuted applications.

Source: SReT, arXiv 2111.05297. See ``layers`` for the units, ``fused`` for training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sret_nas.arch import Application, Permute, Stage
from sret_nas.model import fused
from sret_nas.model.layers import MlpUnit, SlicedAttention
from sret_nas.model.walk import Step

PERMUTATION_SEED = 0x5EE7
"""Seed of the permutations that ``permute: fixed`` uses in eval."""


class RecursiveStage(nn.Module):
    """The block applications of one stage.

    Args:
        stage: What to build.
        tokens: Tokens N.
        permute: Permutation mode of the architecture.
        scaled: Learnable residual coefficients.
        drop_path: Stochastic-depth rate of every weight unit, by its index.
        first: Index of the stage's first application in the network.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of projections and MLPs.
    """

    permutations: Tensor
    inverses: Tensor

    def __init__(
        self,
        stage: Stage,
        tokens: int,
        permute: Permute,
        scaled: bool,
        drop_path: Sequence[float],
        first: int = 0,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = first
        self.grad_checkpointing = False
        self.planned: fused.Plan | None = None
        self.attention = nn.ModuleList(
            SlicedAttention(
                stage.dim, stage.heads, scaled, attn_drop, proj_drop, drop_path=drop_path[i]
            )
            for i in range(stage.attention_units)
        )
        self.mlp = nn.ModuleList(
            MlpUnit(stage.dim, stage.mlp_hidden, scaled, proj_drop, drop_path=drop_path[i])
            for i in range(stage.mlp_units)
        )
        self.nll = nn.ModuleList(
            MlpUnit(stage.dim, stage.nll_hidden, scaled, proj_drop)
            for _ in range(stage.depth if stage.nll_hidden else 0)
        )
        self.register_buffer("permutations", torch.empty(0), persistent=False)
        self.register_buffer("inverses", torch.empty(0), persistent=False)
        self.register_load_state_dict_post_hook(_complete)  # type: ignore[no-untyped-call]
        self.set_schedule(stage, tokens, permute)

    def set_schedule(self, stage: Stage, tokens: int, permute: Permute) -> None:
        """Slice as ``stage`` says, for another number of tokens too; the weights stay.

        Args:
            stage: With the blocks, recursions and sharing that are built.
            tokens: Tokens N.
            permute: Permutation mode.
        """
        self.schedule = stage.schedule(tokens, permute)
        self.permute = permute
        self.tokens = tokens
        self.planned = None
        fixed = [i for i, step in enumerate(self.schedule) if step.permuted and permute == "fixed"]
        self.row = {step: row for row, step in enumerate(fixed)}
        self.draw_fixed_permutations()

    def draw_fixed_permutations(self, device: torch.device | None = None) -> None:
        """Set the buffers: a function of the applications' indices and N alone.

        Args:
            device: Where the buffers shall be; by default where the weights are, on ``meta`` too.
        """
        seeds = [PERMUTATION_SEED + self.first + step for step in self.row]
        device = device or next(self.parameters()).device
        if device.type == "meta":
            orders_PN = torch.empty(len(seeds), self.tokens, dtype=torch.long, device="meta")
        else:
            # On the CPU whatever the default device is, so that they are the same everywhere.
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            rows = [torch.randperm(self.tokens, generator=g, device="cpu") for g in generators]
            empty = torch.empty(0, self.tokens, dtype=torch.long, device="cpu")
            orders_PN = torch.stack(rows) if rows else empty
        self.permutations = orders_PN.to(device)
        self.inverses = orders_PN.argsort(dim=1).to(device)

    def reset_parameters(self) -> None:
        """Draw the stored permutations again; like ``nn.Linear``'s, for a start on ``meta``."""
        self.draw_fixed_permutations()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Of ``to``, ``to_empty`` and the like: ``to_empty`` leaves buffers without values."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        here = self.permutations.device
        self.draw_fixed_permutations(here if here.type != "meta" else None)
        return self

    def orders(self, x_BNC: Tensor) -> tuple[Tensor, Tensor] | None:
        """Orders of the tokens for the permuted applications, and their inverses.

        Args:
            x_BNC: The tokens.

        Returns:
            (P, N) each; ``None`` where nothing is permuted.
        """
        permuted = sum(step.permuted for step in self.schedule)
        if not permuted:
            return None
        draw = "no" if self.permute == "fixed" and not self.training else self.permute
        return token_orders(x_BNC, self.permutations, self.inverses, permuted, draw)

    def apply_block(
        self, step: int, x_BNC: Tensor, permutation_2N: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Apply one block, and its non-linear projection layer where there is one.

        Args:
            step: Which application of the stage.
            x_BNC: The tokens.
            permutation_2N: Order of the tokens and its inverse, or ``None``.

        Returns:
            (B, N, C).
        """
        use: Application = self.schedule[step]
        x_BNC = self.attention[use.attention](x_BNC, use.groups, permutation_2N)
        x_BNC = self.mlp[use.mlp](x_BNC)
        if self.nll:
            x_BNC = self.nll[step](x_BNC)
        return x_BNC

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Apply all blocks in order; (B, N, C) stays (B, N, C)."""
        if self.permutations.is_meta:  # weights were put in place one by one
            self.draw_fixed_permutations()
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        orders = self.orders(x_BNC)
        if fused.applies(self.units, x_BNC):
            plan = self.plan(x_BNC.device)
            return fused.forward(self.units, x_BNC, orders, plan, recompute)
        for i, step in enumerate(self.steps):
            permutation_2N = None
            if orders is not None and step.order is not None:
                permutation_2N = orders[0][step.order], orders[1][step.order]
            if recompute:
                x_BNC = checkpoint(self.apply_block, i, x_BNC, permutation_2N, use_reentrant=False)
            else:
                x_BNC = self.apply_block(i, x_BNC, permutation_2N)
        return x_BNC

    @property
    def units(self) -> list[SlicedAttention | MlpUnit]:
        """The units that have weights: attentions, then MLPs, then non-linear projection layers."""
        return [*self.attention, *self.mlp, *self.nll]

    @property
    def steps(self) -> list[Step]:
        """The block applications, with the indices of their ``units`` and permutations."""
        attentions, mlps = len(self.attention), len(self.mlp)
        rows = iter(range(len(self.schedule)))
        return [
            Step(
                use.attention,
                (attentions + use.mlp, *((attentions + mlps + step,) if self.nll else ())),
                use.groups,
                next(rows) if use.permuted else None,
            )
            for step, use in enumerate(self.schedule)
        ]

    def plan(self, device: torch.device) -> fused.Plan:
        """The plan of the fused path on a device, made anew when it is outdated."""
        units, steps = self.units, self.steps
        rates = tuple(rate for step in steps for rate in fused.rates(units, step))
        known = self.planned
        if known is None or known.zeros.device != device or known.rates != rates:
            self.planned = known = fused.plan(units, steps, device)
        return known


def _complete(stage: RecursiveStage, _: object) -> None:
    """After weights are loaded: with ``assign=True`` they may have left ``meta``."""
    if stage.permutations.device != next(stage.parameters()).device:
        stage.draw_fixed_permutations()


def token_orders(
    x_BNC: Tensor, permutations_PN: Tensor, inverses_PN: Tensor, count: int, draw: str
) -> tuple[Tensor, Tensor]:
    """Orders of the tokens and their inverses, (count, N) each.

    One node for a tracer, of the same name in training and eval; buffers stay buffers.

    Args:
        x_BNC: Tokens.
        permutations_PN: Stored orders.
        inverses_PN: Inverses of the stored orders.
        count: How many to draw.
        draw: ``no`` takes the stored ones, ``fixed`` draws on the tokens' device, ``random``
            on the CPU, as the published code does, whatever the device.
    """
    if draw == "no":
        return permutations_PN, inverses_PN
    N, device = x_BNC.shape[1], x_BNC.device
    if draw == "fixed":  # argsort of noise: as a GPU can repeat it in a graph
        orders_PN = torch.rand(count, N, device=device).argsort(dim=1)
    else:
        orders_PN = torch.stack([torch.randperm(N) for _ in range(count)]).to(device)
    return orders_PN, orders_PN.argsort(dim=1)


torch.fx.wrap("token_orders")
