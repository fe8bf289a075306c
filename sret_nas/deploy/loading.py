"""Weights into modules: from a folder, a checkpoint, or timm; nothing in them is executed.

Requires torch and timm.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.model import create_model, load_any
from sret_nas.model.checkpoint import load_into, read
from sret_nas.model.folder import class_names
from sret_nas.model.wrapping import FIRST, unwrap

FOLDER, HUB = "local-dir:", "hf-hub:"
"""timm's prefixes of a model folder and of a repository on the hub."""
WHAT = "a model folder, an .onnx file, a checkpoint with --arch, or a timm model"
"""What MODEL may be, in words."""
Names = tuple[Sequence[str] | None, Sequence[str] | None]
"""Names and descriptions of classes, where they are known."""


def from_folder(path: Path) -> tuple[nn.Module, Names]:
    """The model of a folder of ours, or of any other model that timm has.

    Args:
        path: The folder, as ``sret_nas.save`` or timm's ``save_for_hf`` writes it.

    Raises:
        ConfigError: not such a folder, or broken.
    """
    model = load_any(path)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    names, described = class_names(model, str(path)), cfg.get("label_descriptions")
    if isinstance(described, Mapping) and names:
        described = [str(described.get(name, name)) for name in names]
    return model, (names, list(map(str, described)) if isinstance(described, list) else None)


def from_checkpoint(path: Path, arch: Any) -> tuple[nn.Module, Names]:
    """An SReT model with the classes and channels that the weights have.

    Args:
        path: A checkpoint, ours or official.
        arch: Its architecture, where it does not say it.

    Raises:
        UsageError: no architecture is known.
        ConfigError: not a checkpoint of it.
    """
    checkpoint, stored = read(path)
    if arch is None and stored is None:
        raise UsageError(f"{path}: does not say its architecture", "add --arch, e.g. --arch sret_t")
    design = Architecture.load(stored if arch is None else arch)  # type: ignore[arg-type]
    state = unwrap(checkpoint)
    head, first = state.get("head.bias"), [state[key] for key in FIRST[:2] if key in state]
    if not isinstance(head, Tensor) or not first or getattr(first[0], "ndim", 0) != 4:
        raise ConfigError(f"{path}: no weights of an SReT classifier in it")
    model = create_model(design, num_classes=head.numel(), in_chans=first[0].shape[1])
    load_into(model, model.arch, checkpoint, str(path), use_ema=True)
    official = FIRST[1] in state
    return model, _imagenet(model) if official else (None, None)


def from_timm(name: str) -> tuple[nn.Module, Names]:
    """A model of timm with the weights that its authors publish.

    Args:
        name: As timm knows it, or ``hf-hub:USER/NAME``.

    Raises:
        UsageError: no such model, or it has no weights.
        SretNasError: they cannot be fetched.
    """
    plain = name.partition(".")[0]
    if not name.startswith(HUB) and not timm.is_model(plain):
        if "#" in name or Path(name).suffix in (".yaml", ".yml", ".json"):
            raise UsageError(
                f"{name}: an architecture, which has no weights; allowed: {WHAT}",
                f"sret-nas train {name} makes a model of it",
            )
        near = difflib.get_close_matches(plain, timm.list_models(), 1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"MODEL: no such file, folder or timm model: '{name}'{guess}", WHAT)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except SretNasError:
        raise
    except Exception as error:  # of the hub, of the network, of timm
        text = str(error)
        if "Invalid pretrained tag" in text:
            tags = ", ".join(timm.list_pretrained(f"{plain}.*")[:8])
            raise UsageError(f"{name}: no such weights; allowed: {tags or 'none'}") from error
        if "No pretrained weights exist" in text or isinstance(error, ValueError):
            raise UsageError(
                f"{name}: {_line(error).split('. Use ')[0]}",
                f"give a model folder, or a checkpoint with --arch {plain}",
            ) from error
        raise SretNasError(
            f"{name}: its weights cannot be fetched: {_line(error)}",
            "is there a network? a model folder or a file needs none",
        ) from error
    return model, _imagenet(model)


def _imagenet(model: nn.Module) -> Names:
    """The classes of a model that was trained on ImageNet, or on one of its larger forms."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("label_names"):
        return class_names(model, str(cfg.get("hf_hub_id") or "the model")), None
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None, None
    info = ImageNetInfo(subset)
    return info.label_names(), info.label_descriptions()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
