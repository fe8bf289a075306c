"""The official layout of weights, and ours.

Source: ``szq0214/SReT``. There,
``transformers.{stage}.blocks.{2t}`` is the block at application t (a shared
block's weights are repeated under every application) and ``blocks.{2t + 1}``
its non-linear projection layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError
from sret_nas.model.wrapping import some, unwrap

PUBLISHED_APPLICATIONS = (4, 10, 6)
PUBLISHED_LOOPS = 2
BLOCK = {  # official name → (our unit, our name)
    "norm1": ("attention", "norm"),
    "attn.qkv": ("attention", "qkv"),
    "attn.proj": ("attention", "proj"),
    "coefficient1": ("attention", "residual.skip"),
    "coefficient2": ("attention", "residual.branch"),
    "norm2": ("mlp", "norm"),
    "mlp.fc1": ("mlp", "fc1"),
    "mlp.fc2": ("mlp", "fc2"),
    "coefficient3": ("mlp", "residual.skip"),
    "coefficient4": ("mlp", "residual.branch"),
}
NLL = {
    "norm1": "norm",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
    "coefficient1": "residual.skip",
    "coefficient2": "residual.branch",
}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Stage:
    """What the official layout holds of one stage."""

    dim: int
    mlp_hidden: int
    nll_hidden: int
    units: tuple[tuple[int, int], ...]
    """Per application, the index of our attention unit and of our MLP unit."""


def convert_official_state_dict(
    official: Mapping[str, Any],
    arch: Architecture | Mapping[str, Any] | str | Path | None = None,
    *,
    use_ema: bool = True,
) -> dict[str, Tensor]:
    """An official SReT checkpoint as a state dict of ours.

    Args:
        official: The checkpoint as a trainer wrote it, or the weights alone.
        arch: The architecture to load into. Without it the published layout is
            assumed (2, 5 and 3 unique blocks, applied twice). With it, the
            position embedding is resampled (bicubic) where the image size differs.
        use_ema: Of several sets of weights, take their moving average.

    Raises:
        ConfigError: keys are missing, unexpected, of another shape, or the
            repeated weights of a shared block differ; with the keys named.
    """
    state = unwrap(official, use_ema)
    arch = None if arch is None else Architecture.load(arch)
    if "pos_embed" not in state or "transformers.0.blocks.0.norm1.weight" not in state:
        raise ConfigError(
            "not an official SReT checkpoint: it has no 'pos_embed' or no "
            f"'transformers.0.blocks.0.norm1.weight'; its first keys: {some(state)}"
        )
    _refuse(
        "not a floating-point tensor", (key for key in state if not _is_weight(key, state[key]))
    )
    if state["pos_embed"].ndim != 4:
        raise ConfigError(
            f"pos_embed: given {tuple(state['pos_embed'].shape)}; allowed: (1, C, s, s)"
        )
    stages = _of_architecture(arch) if arch else _published(state)
    expected = _layout(stages)
    shapes = {key: shape for _, key, shape in expected}
    shapes |= _ends(
        stages,
        in_chans=arch.in_chans if arch else _size(state.get("patch_embed.conv1.weight"), 1, 3),
        classes=arch.num_classes if arch else _size(state.get("head.weight"), 0, 0),
        side=state["pos_embed"].shape[-1],
    )
    _refuse("missing", (key for key in shapes if key not in state))
    _refuse("unexpected", (key for key in state if key not in shapes))
    _refuse(
        "of another shape",
        (
            f"{key} {tuple(state[key].shape)} instead of {shape}"
            for key, shape in shapes.items()
            if tuple(state[key].shape) != shape
        ),
    )
    ours: dict[str, Tensor] = {}
    _refuse(
        "different although their block is shared",
        (
            key
            for name, key, _ in expected
            if not _equal(ours.setdefault(name, state[key]), state[key])
        ),
    )
    ours |= {_end_name(key): state[key] for key in shapes if not key.startswith("transformers.")}
    if arch and arch.sides[0] != ours["pos_embed"].shape[-1]:
        ours["pos_embed"] = resample_abs_pos_embed_nhwc(
            ours["pos_embed"].permute(0, 2, 3, 1), [arch.sides[0], arch.sides[0]]
        ).permute(0, 3, 1, 2)
    return {key: value.detach().clone() for key, value in ours.items()}


def _is_weight(key: str, value: object) -> bool:
    counts = key.endswith("num_batches_tracked")
    return isinstance(value, Tensor) and (counts or value.is_floating_point())


def _size(tensor: Tensor | None, axis: int, default: int) -> int:
    return int(tensor.shape[axis]) if tensor is not None and tensor.ndim > axis else default


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _of_architecture(arch: Architecture) -> list[_Stage]:
    if arch.stem_stride != 8 or not arch.residual_scale:
        raise ConfigError(
            "official checkpoints have stem_stride 8 and residual_scale true; "
            f"given {arch.stem_stride} and {str(arch.residual_scale).lower()}"
        )
    if not all(stage.nll_hidden for stage in arch.stages):
        raise ConfigError("official checkpoints have an NLL after every block; given nll_ratio 0")
    return [
        _Stage(
            stage.dim,
            stage.mlp_hidden,
            stage.nll_hidden,
            tuple((step.attention, step.mlp) for step in schedule),
        )
        for stage, schedule in zip(arch.stages, arch.schedules, strict=True)
    ]


def _published(state: Mapping[str, Any]) -> list[_Stage]:
    stages = []
    for i, applications in enumerate(PUBLISHED_APPLICATIONS):
        at = f"transformers.{i}.blocks"
        needed = [f"{at}.0.norm1.weight", f"{at}.0.mlp.fc1.bias", f"{at}.1.mlp.fc1.bias"]
        _refuse("missing", (key for key in needed if key not in state))
        dim, mlp_hidden, nll_hidden = (_size(state[key], 0, 0) for key in needed)
        units = tuple((t // PUBLISHED_LOOPS, t // PUBLISHED_LOOPS) for t in range(applications))
        stages.append(_Stage(dim, mlp_hidden, nll_hidden, units))
    return stages


def _layout(stages: Sequence[_Stage]) -> list[tuple[str, str, Shape]]:
    """Our name, official name and shape of every tensor of the blocks."""
    rows: list[tuple[str, str, Shape]] = []
    for i, stage in enumerate(stages):
        for t, (attention, mlp) in enumerate(stage.units):
            unit = {"attention": attention, "mlp": mlp}
            for official, (kind, ours) in BLOCK.items():
                rows += _tensors(
                    f"stages.{i}.{kind}.{unit[kind]}.{ours}",
                    f"transformers.{i}.blocks.{2 * t}.{official}",
                    stage.dim,
                    stage.mlp_hidden,
                )
            for official, ours in NLL.items():
                rows += _tensors(
                    f"stages.{i}.nll.{t}.{ours}",
                    f"transformers.{i}.blocks.{2 * t + 1}.{official}",
                    stage.dim,
                    stage.nll_hidden,
                )
    return rows


def _tensors(ours: str, official: str, dim: int, hidden: int) -> list[tuple[str, str, Shape]]:
    kind = official.rsplit(".", 1)[-1]
    if kind.startswith("coefficient"):
        return [(ours, f"{official}.bias", (1,))]
    if kind.startswith("norm"):
        return [(f"{ours}.{part}", f"{official}.{part}", (dim,)) for part in ("weight", "bias")]
    rows, columns = {
        "qkv": (3 * dim, dim),
        "proj": (dim, dim),
        "fc1": (hidden, dim),
        "fc2": (dim, hidden),
    }[kind]
    return [
        (f"{ours}.weight", f"{official}.weight", (rows, columns)),
        (f"{ours}.bias", f"{official}.bias", (rows,)),
    ]


def _ends(stages: Sequence[_Stage], in_chans: int, classes: int, side: int) -> dict[str, Shape]:
    """Official name and shape of everything outside the blocks."""
    first, last = stages[0].dim, stages[-1].dim
    shapes: dict[str, Shape] = {"pos_embed": (1, first, side, side)}
    channels = (int(in_chans), first // 2, first, first)
    for i in (1, 2, 3):
        shapes[f"patch_embed.conv{i}.weight"] = (channels[i], channels[i - 1], 3, 3)
        shapes[f"patch_embed.conv{i}.bias"] = (channels[i],)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"patch_embed.bn{i}.{part}"] = (channels[i],)
        shapes[f"patch_embed.bn{i}.num_batches_tracked"] = ()
    for i in range(len(stages) - 1):
        shapes[f"pools.{i}.conv.weight"] = (stages[i + 1].dim, 1, 3, 3)
        shapes[f"pools.{i}.conv.bias"] = (stages[i + 1].dim,)
    shapes |= {"norm.weight": (last,), "norm.bias": (last,)}
    if classes:
        shapes |= {"head.weight": (classes, last), "head.bias": (classes,)}
    return shapes


def _end_name(official: str) -> str:
    name = official
    for i in (1, 2, 3):
        name = name.replace(f"patch_embed.conv{i}", f"stem.{3 * i - 3}")
        name = name.replace(f"patch_embed.bn{i}", f"stem.{3 * i - 2}")
    return name.replace(".conv.", ".") if name.startswith("pools.") else name


def _refuse(what: str, keys: Iterable[str]) -> None:
    keys = list(keys)
    if keys:
        raise ConfigError(f"the checkpoint does not match: {len(keys)} {what}: {some(keys)}")


__all__ = ["convert_official_state_dict"]
