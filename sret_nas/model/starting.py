"""Where a training starts from: weights that lie somewhere, fitted to the model at hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model.checkpoint import load_into, read
from sret_nas.model.folder import class_names, load
from sret_nas.model.growing import NOISE, Grown, grow_into
from sret_nas.model.sret import SReT
from sret_nas.model.timm_models import create_model
from sret_nas.model.wrapping import unwrap

WAY_OUT = "store the architecture with the weights: sret_nas.save, sret_nas.model.save_checkpoint"

_log = logging.getLogger(__name__)


def initialise(model: nn.Module, source: str | Path, **options: Any) -> str:
    """Do what ``start_from`` does, and say it.

    Args:
        model: Newly initialised; changed in place.
        source: As for ``start_from``.
        options: Its keywords.

    Returns:
        How many parameters were taken over and whether the function is the same; then a line
        for everything that was not, or changes it.

    Raises:
        ConfigError, UsageError: as ``start_from``.
    """
    found = start_from(model, source, **options)
    return "\n".join([f"{source}: {found}", *(f"  {note}" for note in found.notes)])


def start_from(
    model: nn.Module,
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    use_ema: bool = True,
    noise: float = NOISE,
    generator: torch.Generator | None = None,
) -> Grown:
    """Start a model from trained weights, of its own architecture or of a relative.

    Args:
        model: Newly initialised; changed in place.
        source: A model folder, or a checkpoint, ours or official, with any head, input channels
            or image size.
        classes: Names of the model's classes: where the source's are known and others, the head
            stays fresh even if there are as many.
        use_ema: Where a checkpoint has several sets of weights, take their moving average.
        noise: As for ``grow_into``.
        generator: Of the noise; by default torch's own.

    Returns:
        What was taken over, in numbers.

    Raises:
        ConfigError: there are no weights, or nobody knows of which architecture.
        UsageError: the model is no SReT, or has no values.
    """
    if not isinstance(model, SReT):
        raise UsageError(
            f"given a {type(model).__name__}; allowed: an SReT model",
            "timm's own models load weights by timm.create_model(…, pretrained=True)",
        )
    relative = open_relative(source, model.arch, use_ema=use_ema)
    theirs = class_names(relative, str(source))
    same = classes is None or theirs is None or theirs == list(classes)
    return grow_into(relative, model, keep_head=same, noise=noise, generator=generator)


def open_relative(source: str | Path, target: Architecture, *, use_ema: bool = True) -> SReT:
    """The model whose weights lie somewhere.

    A checkpoint that does not say its architecture is one of the target's where it fits, with
    other classes, channels and image size; else the published one that it fits, of those that
    differ in their slices alone the one that slices as the target.

    Args:
        source: A model folder or a checkpoint.
        target: What it shall be a relative of.
        use_ema: Where a checkpoint has several sets of weights, take their moving average.

    Raises:
        ConfigError: as for ``start_from``.
    """
    path = Path(source)
    if path.is_dir():
        return load(path)
    if not path.is_file():
        raise ConfigError(
            f"{source}: no such model folder or checkpoint",
            "allowed: a folder that sret-nas train or sret_nas.save wrote, or a file of weights",
        )
    if path.suffix == ".onnx":
        raise ConfigError(
            f"{source}: an ONNX file cannot be trained further",
            "give the model folder that it was exported from",
        )
    checkpoint, stored = read(path)
    if stored is not None:
        return _loaded(stored, checkpoint, source, use_ema)
    state = unwrap(checkpoint, use_ema)
    reasons = []
    for name, candidate in _candidates(target):
        try:
            found = _loaded(_as_large(candidate, state), checkpoint, source, use_ema)
        except ConfigError as error:
            reasons.append(str(error).removeprefix(f"{source}: "))
            continue
        _log.info("%s: taken for weights of %s", source, name)
        return found
    raise ConfigError(
        f"{source}: does not say its architecture, and it is neither the model's nor a "
        f"published one: {reasons[0]}",
        WAY_OUT,
    )


def _candidates(target: Architecture) -> Iterator[tuple[str, Architecture]]:
    def slices(arch: Architecture) -> list[tuple[int, ...]]:
        return [stage.groups for stage in arch.stages]

    yield "the model's architecture", target
    yield from sorted(zoo.PUBLISHED.items(), key=lambda one: slices(one[1]) != slices(target))


def _as_large(arch: Architecture, state: Mapping[str, Any]) -> Architecture:
    """An architecture with the classes, channels and image size of some weights."""
    first = state.get("stem.0.weight", state.get("patch_embed.conv1.weight"))
    side = _size(state.get("pos_embed"), 4, -1)
    return arch.at(
        num_classes=_size(state.get("head.weight"), 2, 0) or 0,
        in_chans=_size(first, 4, 1),
        image_size=side * arch.stem_stride if side and side != arch.sides[0] else None,
    )


def _size(value: Any, axes: int, axis: int) -> int | None:
    """Of one axis, if that is a tensor of so many."""
    if not isinstance(value, torch.Tensor) or value.ndim != axes:
        return None
    return value.shape[axis]


def _loaded(
    arch: Architecture, checkpoint: Mapping[str, Any], name: str | Path, use_ema: bool
) -> SReT:
    model = create_model(arch, device="meta")  # it takes the tensors of the checkpoint
    load_into(model, arch, checkpoint, str(name), use_ema)
    return model
