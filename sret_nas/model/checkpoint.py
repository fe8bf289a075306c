"""Reading weights, and fitting them to a model of another size, head or input."""

from __future__ import annotations

import argparse
import logging
import pathlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models import adapt_input_conv
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model.official import convert_official_state_dict
from sret_nas.model.wrapping import some, unwrap

PLAIN = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]
"""What trainers store beside weights (options, folders, a best accuracy) and runs no code."""

_log = logging.getLogger(__name__)


def read(path: Path) -> tuple[Mapping[str, Any], Architecture | None]:
    """What a file holds, and the architecture where it says so; nothing in it is executed.

    Raises:
        ConfigError: missing, unreadable, not a checkpoint, or broken.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        return _read_pickle(path), None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: not a safetensors file: {_first_line(error)}") from error
    if "architecture" not in metadata:
        return state, None
    try:
        return state, Architecture.from_json(metadata["architecture"])
    except ConfigError as error:
        text = "; ".join(str(error).splitlines())
        raise ConfigError(f"{path}: the architecture in its header: {text}") from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(PLAIN):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{path}: not a checkpoint that loads without running code: {_reason(path, error)}",
            "store weights alone: torch.save(model.state_dict(), path)",
        ) from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: holds a {type(found).__name__}; allowed: names and tensors")
    return found


def _reason(path: Path, error: Exception) -> str:
    try:
        with torch.serialization.safe_globals(PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:
        names = []
    if names:
        return f"it needs {some(names)}"
    # Pickle's errors over other content are a number or nothing, and torch's advice on them is
    # to load it with its code.
    return _first_line(error) if type(error) is RuntimeError else "it is none, or broken"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def fit(
    checkpoint: Mapping[str, Any], arch: Architecture, fresh: Mapping[str, Tensor], use_ema: bool
) -> dict[str, Any]:
    """A checkpoint as the state dict of a model, as far as sizes go.

    Official names become ours; positions are resampled (bicubic), the first convolution is
    adapted to other input channels as timm does, and a head of other classes stays as it is
    in the model. What was done is logged; what does not fit otherwise is left to
    ``load_state_dict``, which is strict.

    Args:
        checkpoint: Names and tensors, as a trainer wrote them.
        arch: The architecture of the model.
        fresh: The model's own state dict.
        use_ema: Of several sets of weights, take their moving average.

    Raises:
        ConfigError: not weights of an SReT model.
    """
    state = unwrap(checkpoint, use_ema)
    if any(key.startswith("transformers.") for key in state):
        state = dict(convert_official_state_dict(state, _as_stored(state, arch)))
    elif "stem.0.weight" not in state:
        raise ConfigError(f"no weights of an SReT model: its first keys: {some(state)}")
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ConfigError(f"the checkpoint does not match: not a tensor: {some(strange)}")
    for key, adapt in (("pos_embed", _resampled), ("stem.0.weight", _other_channels)):
        if key in state and key in fresh and state[key].shape != fresh[key].shape:
            state[key] = adapt(state[key], fresh[key])
    head = {key: value for key, value in fresh.items() if key.startswith("head.")}
    if any(key not in state or state[key].shape != head[key].shape for key in head):
        given = "no head" if "head.bias" not in state else f"{state['head.bias'].numel()} classes"
        _log.warning(
            "the head is left as it was initialised: %s in the checkpoint, %d classes in the model",
            given,
            arch.num_classes,
        )
        state |= head
    return {key: value for key, value in state.items() if head or not key.startswith("head.")}


def _as_stored(state: Mapping[str, Any], arch: Architecture) -> Architecture:
    """With the classes and channels of an official checkpoint."""
    head, first = state.get("head.weight"), state.get("patch_embed.conv1.weight")
    chans = first.shape[1] if isinstance(first, Tensor) and first.ndim == 4 else arch.in_chans
    classes = head.shape[0] if isinstance(head, Tensor) and head.ndim else 0
    return arch.at(num_classes=int(classes), in_chans=int(chans))


def _resampled(stored: Tensor, own: Tensor) -> Tensor:
    if stored.ndim != 4 or stored.shape[:2] != own.shape[:2]:
        return stored
    _log.info("position embedding resampled from %d² to %d²", stored.shape[-1], own.shape[-1])
    grid = stored.permute(0, 2, 3, 1)
    out: Tensor = resample_abs_pos_embed_nhwc(grid, list(own.shape[2:])).permute(0, 3, 1, 2)
    return out


def _other_channels(stored: Tensor, own: Tensor) -> Tensor:
    before, after = stored.shape[1:2], own.shape[1]
    if stored.ndim != 4 or stored.shape[0] != own.shape[0] or stored.shape[2:] != own.shape[2:]:
        return stored
    _log.warning("first convolution adapted from %d to %d input channels", *before, after)
    out: Tensor = adapt_input_conv(after, stored, base_chans=before[0])
    return out


def load_into(
    model: nn.Module, arch: Architecture, checkpoint: Mapping[str, Any], name: str, use_ema: bool
) -> None:
    """Put a checkpoint into a model, all of it or nothing.

    Args:
        model: The model.
        arch: Its architecture.
        checkpoint: What the file holds, as ``read`` gives it.
        name: Name of the file, for messages.
        use_ema: Of several sets of weights, take their moving average.

    Raises:
        ConfigError: it does not match, with the keys named.
        UsageError: the model is on ``meta``, and something would stay there.
    """
    own = model.state_dict()
    try:
        state = fit(checkpoint, arch, own, use_ema)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}", error.hint) from error
    problems = [
        *(f"missing {key}" for key in own if key not in state),
        *(f"unexpected {key}" for key in state if key not in own),
        *(
            f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in state.items()
            if key in own and value.shape != own[key].shape
        ),
    ]
    if problems:
        raise ConfigError(f"{name}: the checkpoint does not match: {some(problems)}")
    if any(value.is_meta for value in own.values()):  # it takes the tensors themselves
        fresh = [key for key, value in state.items() if value.is_meta]
        if fresh:
            raise UsageError(
                f"{name}: {some(fresh)} would stay on meta: not in the checkpoint",
                "model.to_empty(device=…) and model.init_weights() first",
            )
        state = {key: value.to(own[key].dtype).contiguous() for key, value in state.items()}
        model.load_state_dict(state, assign=True)
    else:
        model.load_state_dict(state)


__all__ = ["fit", "load_into", "read"]
