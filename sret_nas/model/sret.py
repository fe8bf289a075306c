"""The network of an architecture.

Shapes: B batch, N tokens, C channels; a grid is (B, C, side, side).

Source: SReT, arXiv 2111.05297. See ``layers`` for the units.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sret_nas.arch import Application, Architecture, Permute, Stage
from sret_nas.errors import UsageError
from sret_nas.model.layers import LAYER_NORM_EPS, MlpUnit, SlicedAttention, Stem

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
        self.schedule = stage.schedule(tokens, permute)
        self.permute = permute
        self.first = first
        self.grad_checkpointing = False
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
        fixed = [i for i, step in enumerate(self.schedule) if step.permuted and permute == "fixed"]
        self.row = {step: row for row, step in enumerate(fixed)}
        self.register_buffer(
            "permutations", torch.empty(len(fixed), tokens, dtype=torch.long), False
        )
        self.register_buffer("inverses", torch.empty(len(fixed), tokens, dtype=torch.long), False)
        self.draw_fixed_permutations()

    @torch.no_grad()
    def draw_fixed_permutations(self) -> None:
        """Fill the buffers: a function of the application's index and N alone."""
        if self.permutations.is_meta:
            return
        for step, row in self.row.items():
            generator = torch.Generator().manual_seed(PERMUTATION_SEED + self.first + step)
            order_N = torch.randperm(self.permutations.shape[1], generator=generator)
            self.permutations[row] = order_N
            self.inverses[row] = order_N.argsort()

    def permutation(self, step: int, x_BNC: Tensor) -> tuple[Tensor, Tensor] | None:
        """Order of the tokens for one application, and its inverse; (N,) each."""
        if not self.schedule[step].permuted:
            return None
        if self.permute == "fixed" and not self.training:
            return self.permutations[self.row[step]], self.inverses[self.row[step]]
        # "random" draws on the CPU, as the published code does, whatever the device.
        device = x_BNC.device if self.permute == "fixed" else torch.device("cpu")
        order_N = torch.randperm(x_BNC.shape[1], device=device)
        return order_N.to(x_BNC.device), order_N.argsort().to(x_BNC.device)

    def apply_block(self, step: int, x_BNC: Tensor) -> Tensor:
        """One block application and its non-linear projection layer."""
        use: Application = self.schedule[step]
        x_BNC = self.attention[use.attention](x_BNC, use.groups, self.permutation(step, x_BNC))
        x_BNC = self.mlp[use.mlp](x_BNC)
        if self.nll:
            x_BNC = self.nll[step](x_BNC)
        return x_BNC

    def forward(self, x_BNC: Tensor) -> Tensor:
        """All block applications in order; the shape stays."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for step in range(len(self.schedule)):
            if recompute:
                x_BNC = checkpoint(self.apply_block, step, x_BNC, use_reentrant=False)
            else:
                x_BNC = self.apply_block(step, x_BNC)
        return x_BNC


class SReT(nn.Module):
    """A Sliced Recursive Transformer, following timm's conventions.

    Args:
        arch: What to build, or a preset's name, a path or a mapping.
        num_classes: Overrides the architecture's; 0 leaves the head out.
        in_chans: Overrides the architecture's input channels.
        img_size: Overrides the architecture's image size (``Architecture.at``).
        global_pool: ``avg``, or ``""`` for none.
        drop_rate: Dropout before the head.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout of projections and MLPs.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth; ``None`` is the published default, 0.1
            where a slice is cut anywhere, else 0.
        fused_attn: ``scaled_dot_product_attention``; ``False`` is the reference
            path of plain matrix products.

    Shapes: (B, in_chans, image_size, image_size) to (B, num_classes).
    """

    def __init__(
        self,
        arch: Architecture | Mapping[str, Any] | str | Path,
        num_classes: int | None = None,
        in_chans: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        global_pool: Literal["avg", ""] = "avg",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        fused_attn: bool = True,
    ) -> None:
        super().__init__()
        arch = Architecture.load(arch).at(
            image_size=_side(img_size), num_classes=num_classes, in_chans=in_chans
        )
        for name, rate in (
            ("drop_rate", drop_rate),
            ("pos_drop_rate", pos_drop_rate),
            ("proj_drop_rate", proj_drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("drop_path_rate", drop_path_rate or 0.0),
        ):
            if not 0 <= rate < 1:
                raise UsageError(f"{name}: given {rate}; allowed: 0 to below 1")
        if drop_path_rate is None:
            sliced = any(groups > 1 for stage in arch.stages for groups in stage.groups)
            drop_path_rate = 0.1 if sliced else 0.0
        self.arch = arch
        self.num_classes = arch.num_classes
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = arch.stages[-1].dim
        self.feature_info = [
            {"num_chs": stage.dim, "reduction": arch.stem_stride << i, "module": f"stages.{i}"}
            for i, stage in enumerate(arch.stages)
        ]
        dims = [stage.dim for stage in arch.stages]
        self.stem = Stem(arch.in_chans, dims[0], arch.stem_stride)
        self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], arch.sides[0], arch.sides[0]))
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.stages = nn.ModuleList()
        first = 0
        for stage, tokens in zip(arch.stages, arch.tokens, strict=True):
            # As published: by the first application of the stage plus the weights' own index.
            rates = [drop_path_rate * (first + i) / arch.depth for i in range(stage.depth)]
            self.stages.append(
                RecursiveStage(
                    stage,
                    tokens,
                    arch.permute,
                    arch.residual_scale,
                    rates,
                    first,
                    attn_drop_rate,
                    proj_drop_rate,
                )
            )
            first += stage.depth
        self.pools = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, groups=before)
            for before, after in itertools.pairwise(dims)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=LAYER_NORM_EPS)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(arch.num_classes)
        trunc_normal_(self.pos_embed, std=0.02)
        self.set_fused_attn(fused_attn)

    def set_fused_attn(self, enable: bool = True) -> None:
        """Choose ``scaled_dot_product_attention`` or plain matrix products."""
        for module in self.modules():
            if isinstance(module, SlicedAttention):
                module.fused = enable

    def init_non_persistent_buffers(self) -> None:
        """Fill the permutations again, as timm asks after a start on ``meta``."""
        for stage in self.stages:
            assert isinstance(stage, RecursiveStage)
            stage.draw_fixed_permutations()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block application in the backward pass."""
        for stage in self.stages:
            assert isinstance(stage, RecursiveStage)
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, beside vectors: the position embedding."""
        return {"pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: stem, stages, the rest."""
        return {"stem": r"^stem|pos_embed", "blocks": [(r"^(?:stages|pools)\.(\d+)", None)]}

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for another number of classes; 0 leaves it out."""
        if global_pool not in (None, "avg", ""):
            raise UsageError(f"global_pool: given {global_pool!r}; allowed: 'avg' or ''")
        if global_pool is not None:
            self.global_pool = "avg" if global_pool else ""
        self.num_classes = num_classes
        self.arch = self.arch.at(num_classes=num_classes)
        weight = self.norm.weight
        self.head = (
            nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        )
        self.head.train(self.training)

    def forward_stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Output grids (B, C, side, side) of the stages up to index ``last``."""
        size = self.arch.image_size
        torch._assert(
            x.shape[2] == size and x.shape[3] == size,
            f"the model takes images of {size}×{size} px; build it with img_size=… for others",
        )
        grid = self.pos_drop(self.stem(x) + self.pos_embed)
        grids: list[Tensor] = []
        for i in range(last + 1):
            if i:
                grid = self.pools[i - 1](grid)
            B, C, height, width = grid.shape
            # Channels last in memory, so that tokens and grid are two views of one tensor.
            x_BNC = self.stages[i](grid.permute(0, 2, 3, 1).reshape(B, height * width, C))
            grid = x_BNC.view(B, height, width, C).permute(0, 3, 1, 2)
            grids.append(grid)
        return grids

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Output grids of chosen stages; arguments as everywhere in timm.

        ``norm`` normalises the last stage's output, the only one with a norm.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UsageError(f"output_fmt: given {output_fmt!r}; allowed: 'NCHW' or 'NLC'")
        take, deepest = feature_take_indices(len(self.stages), indices)
        grids = self.forward_stages(x, deepest if stop_early else len(self.stages) - 1)
        last = grids[-1]
        if norm and len(grids) == len(self.stages):
            grids[-1] = self.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        taken = [grids[i] for i in range(len(grids)) if i in take]
        if output_fmt == "NLC":
            taken = [grid.flatten(2).transpose(1, 2) for grid in taken]
        return taken if intermediates_only else (last, taken)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the chosen stages do not need."""
        take, deepest = feature_take_indices(len(self.stages), indices)
        shorter = deepest < len(self.stages) - 1
        if shorter:
            data = self.arch.to_dict()
            self.arch = Architecture.load(data | {"stages": data["stages"][: deepest + 1]})
        self.stages = self.stages[: deepest + 1]
        self.pools = self.pools[:deepest]
        if prune_norm or shorter:
            self.norm = nn.LayerNorm(self.arch.stages[-1].dim, eps=LAYER_NORM_EPS)
        if shorter:
            self.num_features = self.head_hidden_size = self.embed_dim = self.arch.stages[-1].dim
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return list(take)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the grid of the last stage, (B, C, side, side)."""
        return self.forward_stages(x, len(self.stages) - 1)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Grid to logits (B, num_classes), or to pooled features (B, C).

        Without ``global_pool`` the result keeps its grid: (B, side, side, …).
        """
        x = x.permute(0, 2, 3, 1)
        if self.global_pool:
            x = x.mean(dim=(1, 2))
        x = self.head_drop(self.norm(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.forward_head(self.forward_features(x))


def _side(img_size: int | tuple[int, int] | None) -> int | None:
    if isinstance(img_size, Sequence):
        if len(img_size) != 2 or img_size[0] != img_size[1]:
            raise UsageError(f"img_size: given {tuple(img_size)}; allowed: a square")
        return int(img_size[0])
    return img_size


def create_model(arch: Architecture | Mapping[str, Any] | str | Path, **options: Any) -> SReT:
    """Build the module of an architecture, randomly initialised.

    Args:
        arch: An architecture, or a preset's name, a YAML or JSON path, a mapping.
        options: Keywords of ``SReT``: ``num_classes``, ``in_chans``, ``img_size``,
            the drop rates, ``fused_attn``.

    Example:
        >>> create_model("sret_t").head.out_features
        1000

    Raises:
        ArchitectureError: the architecture cannot be built.
    """
    return SReT(arch, **options)
