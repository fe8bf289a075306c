"""Models under timm's conventions: the published ones by name, any other as ``sret``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.errors import UsageError
from sret_nas.model.checkpoint import fit
from sret_nas.model.sret import GENERAL, LABELS, SReT, described, side_of

_COMMON = {
    "url": "",
    "fixed_input_size": True,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stem.0",
    "classifier": "head",
    "license": "mit",
    "paper_ids": "arXiv:2111.05297",
}

default_cfgs = generate_default_cfgs(
    {name: {**_COMMON, **described(arch)} for name, arch in zoo.PRESETS.items()}
    | {GENERAL: dict(_COMMON)}
)


def _fit(checkpoint: Mapping[str, Any], model: SReT) -> dict[str, Any]:
    return fit(checkpoint, model.arch, model.state_dict(), use_ema=True)


def _new(
    design: Architecture,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> SReT:
    with torch.device(device) if device else contextlib.nullcontext():
        model = SReT(design, **options)
    return model.to(dtype=dtype) if dtype else model


def _build(name: str, design: Architecture, pretrained: bool, **options: Any) -> Any:
    """Build with timm, its ``pretrained_cfg`` true of what is built.

    Weights from elsewhere are fitted by their shapes, so that nothing needs to be known of
    the model they come from.
    """
    source = options.pop("pretrained_cfg", None)
    overlay = dict(options.pop("pretrained_cfg_overlay", None) or {})
    given = source.to_dict() if hasattr(source, "to_dict") else source
    stored = {**(given if isinstance(given, Mapping) else {}), **overlay}
    chans, *size = stored.get("input_size") or (None, None, None)
    wanted = {
        "num_classes": options.pop("num_classes", stored.get("num_classes")),
        "in_chans": options.pop("in_chans", chans),
        "image_size": side_of(options.pop("img_size", None if None in size else tuple(size))),
    }
    arch = design.at(**wanted)
    overlay |= described(arch)
    for key, usual in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
        values = tuple(stored.get(key) or usual)
        if len(values) not in (1, arch.in_chans):  # as timm adapts them to other channels
            values = (sum(values) / len(values),) * arch.in_chans
        overlay[key] = values
    if arch.num_classes != stored.get("num_classes", arch.num_classes):
        overlay |= dict.fromkeys(LABELS)
    if stored.get("file") and stored.get("source") != "local-dir":
        overlay.setdefault("custom_load", True)  # by load_pretrained, which unwraps more
    return build_model_with_cfg(
        functools.partial(_new, design),
        name,
        pretrained,
        pretrained_cfg=source,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=_fit,
        feature_cfg={
            "out_indices": tuple(range(len(arch.stages))),
            "feature_cls": "getter",
        },
        **options,
    )


def _published(name: str) -> Callable[..., Any]:
    def entry(pretrained: bool = False, **options: Any) -> Any:
        return _build(name, zoo.PRESETS[name], pretrained, **options)

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"The published architecture ``{name}``; no weights are hosted."
    return entry


def sret(
    pretrained: bool = False,
    architecture: Architecture | Mapping[str, Any] | str | Path | None = None,
    **options: Any,
) -> Any:
    """A model of any architecture, as ``timm.create_model("sret", architecture=…)`` makes it.

    Args:
        pretrained: Take the weights of ``pretrained_cfg_overlay={"file": …}``; none are hosted.
        architecture: A preset's name, a path, a mapping, an ``Architecture`` or ``RUN#7``.
        options: Keywords of ``SReT`` and of ``timm.create_model``.

    Raises:
        UsageError: no architecture is given.
        ArchitectureError: the architecture cannot be built.
    """
    if architecture is None:
        raise UsageError(
            "timm model 'sret': no architecture given",
            "timm.create_model('sret', architecture='sret_t'): a name, a path, a mapping or RUN#7",
        )
    return _build(GENERAL, Architecture.load(architecture), pretrained, **options)


for _entry in (sret, *map(_published, zoo.PRESETS)):
    register_model(_entry)


def create_model(arch: Architecture | Mapping[str, Any] | str | Path, **options: Any) -> SReT:
    """Build the module of an architecture, randomly initialised: a timm model in full.

    Args:
        arch: An architecture, or a preset's name, a YAML or JSON path, a mapping, ``RUN#7``.
        options: Keywords of ``SReT`` (``num_classes``, ``in_chans``, ``img_size``, the drop
            rates, ``fused_attn``) and of ``timm.create_model``.

    Example:
        >>> create_model("sret_t").head.out_features
        1000

    Raises:
        ArchitectureError: the architecture cannot be built.
    """
    model: SReT = timm.create_model(GENERAL, architecture=Architecture.load(arch), **options)
    return model
