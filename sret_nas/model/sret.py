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
import torch.fx
from timm.layers import resample_abs_pos_embed_nhwc, trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.errors import UsageError
from sret_nas.model.checkpoint import load_into, read
from sret_nas.model.layers import LAYER_NORM_EPS, SlicedAttention, Stem
from sret_nas.model.stage import RecursiveStage

GENERAL = "sret"
"""Name in timm's registry under which any architecture is built."""

LABELS = ("label_names", "label_descriptions", "label_offset")
"""What timm's ``pretrained_cfg`` says of classes that another head does not have."""


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
        self.design = Architecture.load(arch)
        arch = self.design.at(
            image_size=side_of(img_size), num_classes=num_classes, in_chans=in_chans
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
        self.in_chans = arch.in_chans
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
        self.reset_parameters()
        self.set_fused_attn(fused_attn)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the position embedding anew; each module below resets its own parameters."""
        # Within 6 standard deviations: at the default bounds of ±2, one model in 300 got a
        # value of -2, where the draw under the inverse of the distribution is exactly its end.
        trunc_normal_(self.pos_embed, std=0.02, a=-0.12, b=0.12)

    def init_weights(self) -> None:
        """Draw all weights and buffers anew, as after a start on ``meta`` and ``to_empty``."""
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]

    def set_fused_attn(self, enable: bool = True) -> None:
        """Attend by ``scaled_dot_product_attention``, or else by plain matrix products."""
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
        """Names of parameters without weight decay, beside all vectors: the position embedding."""
        return {"pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates, as timm's models give them.

        A layer is a block application with weights of its own, together with the
        down-sampling before it: what several applications share belongs to the first of
        them, and each non-linear projection layer to its own. ``coarse``: a stage.
        """
        stem = r"^stem\.|^pos_embed"
        if coarse:
            pools = [(rf"^pools\.{i}\.", (i + 1,)) for i in range(len(self.pools))]
            return {"stem": stem, "blocks": [*pools, (r"^stages\.(\d+)", None)]}
        blocks: list[tuple[str, tuple[int, ...] | None]] = []
        for i, schedule in enumerate(self.arch.schedules):
            blocks += [(rf"^pools\.{i - 1}\.", (i, 0))] if i else []
            seen: set[str] = set()
            for step, use in enumerate(schedule):
                units = {rf"attention\.{use.attention}\.", rf"mlp\.{use.mlp}\."} - seen
                blocks += [(rf"^stages\.{i}\.{unit}", (i, step)) for unit in sorted(units)]
                seen |= units
        blocks += [(r"^stages\.(\d+)\.nll\.(\d+)\.", None), (r"^norm\.", (99999,))]
        return {"stem": stem, "blocks": blocks}

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity where the head is left out."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a fresh head.

        Args:
            num_classes: How many logits it has; 0 leaves it out.
            global_pool: ``avg``, or ``""`` for none; ``None`` leaves it as it is.

        Raises:
            UsageError: another pooling.
        """
        if global_pool not in (None, "avg", ""):
            raise UsageError(f"global_pool: given {global_pool!r}; allowed: 'avg' or ''")
        if global_pool is not None:
            self.global_pool = "avg" if global_pool else ""
        self.num_classes = num_classes
        self.arch = self.arch.at(num_classes=num_classes)
        self._describe()
        weight = self.norm.weight
        self.head = (
            nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        )
        self.head.train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Take images of another size: positions are resampled, slices as ``Architecture.at`` says.

        Args:
            img_size: Side in pixels, or a square; ``None`` changes nothing.

        Raises:
            ArchitectureError: the design does not exist at that size; nothing is changed.
        """
        arch = self.design.at(
            image_size=self.arch.image_size if img_size is None else side_of(img_size),
            num_classes=self.arch.num_classes,
            in_chans=self.arch.in_chans,
        )
        if arch.image_size == self.arch.image_size:
            return
        self.arch = arch
        for module, stage, tokens in zip(self.stages, arch.stages, arch.tokens, strict=True):
            assert isinstance(module, RecursiveStage)
            module.set_schedule(stage, tokens, arch.permute)
        grid = self.pos_embed.detach().permute(0, 2, 3, 1)
        resampled = resample_abs_pos_embed_nhwc(grid, [arch.sides[0]] * 2).permute(0, 3, 1, 2)
        self.pos_embed = nn.Parameter(resampled.contiguous(), self.pos_embed.requires_grad)
        # Where timm keeps a model's present size, beside the one of its weights' source.
        self._traits = {**getattr(self, "_traits", {}), "img_size": (arch.image_size,) * 2}
        self._describe()

    def _describe(self) -> None:
        """Keep ``pretrained_cfg``, where timm made one, true of the model as it is."""
        cfg: dict[str, Any] = getattr(self, "pretrained_cfg", {})
        if cfg:
            if cfg.get("num_classes") != self.arch.num_classes:
                for label in LABELS:
                    cfg.pop(label, None)
            cfg.update(described(self.arch))

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm stores to build the model again: plain data."""
        own = {"architecture": self.arch.to_dict()} if self._is_general() else {}
        return {**getattr(self, "_timm_args", {}), **own}

    @_model_args.setter
    def _model_args(self, arguments: Mapping[str, Any]) -> None:
        self._timm_args = {k: v for k, v in arguments.items() if k != "architecture"}

    def _is_general(self) -> bool:
        return getattr(self, "pretrained_cfg", {}).get("architecture") == GENERAL

    def load_pretrained(self, checkpoint_path: str | Path, use_ema: bool = True) -> None:
        """Weights from a file, fitted to this model; timm calls it for ``file=``.

        Args:
            checkpoint_path: Ours or official, as a trainer wrote it.
            use_ema: Of several sets of weights, take their moving average.

        Raises:
            ConfigError: not a checkpoint, or it does not match.
        """
        checkpoint, _ = read(Path(checkpoint_path))
        load_into(self, self.arch, checkpoint, str(checkpoint_path), use_ema)

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        """For ``torch.jit.script``: the operations of the present mode, training or eval.

        TorchScript cannot index modules, as a schedule of shared weights does.
        """
        traced = torch.fx.symbolic_trace(self)
        for node in traced.graph.nodes:
            node.type = None  # annotations that TorchScript would look up by name
        traced.recompile()
        return traced

    def forward_stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Output grids (B, C, side, side) of the stages up to index ``last``."""
        size = self.arch.image_size
        for side in (x.shape[2], x.shape[3]):
            torch._assert(
                side == size,
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
        """Drop what the chosen stages do not need; arguments as everywhere in timm.

        Args:
            indices: Stages whose outputs are wanted, or how many of the last.
            prune_norm: Replace the final norm.
            prune_head: Drop the head.

        Returns:
            The indices of the stages.
        """
        take, deepest = feature_take_indices(len(self.stages), indices)
        shorter = deepest < len(self.stages) - 1
        if shorter:
            data = self.arch.to_dict()
            self.arch = Architecture.load(data | {"stages": data["stages"][: deepest + 1]})
            data = self.design.to_dict()
            self.design = Architecture.load(data | {"stages": data["stages"][: deepest + 1]})
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
        """Images (B, in_chans, image_size, image_size) to the last grid, (B, C, side, side)."""
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
        """Images (B, in_chans, image_size, image_size) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def side_of(img_size: int | tuple[int, int] | None) -> int | None:
    """The side of a square image in pixels, as timm's callers write it; ``None`` stays.

    Raises:
        UsageError: not a square.
    """
    if isinstance(img_size, Sequence):
        if len(img_size) != 2 or img_size[0] != img_size[1]:
            raise UsageError(f"img_size: given {tuple(img_size)}; allowed: a square")
        return int(img_size[0])
    return img_size


def described(arch: Architecture) -> dict[str, Any]:
    """What ``pretrained_cfg`` says of a model's sizes: of its images, classes and last grid."""
    return {
        "input_size": (arch.in_chans, arch.image_size, arch.image_size),
        "num_classes": arch.num_classes,
        "pool_size": (arch.sides[-1], arch.sides[-1]),
    }
