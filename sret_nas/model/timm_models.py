"""The published models in timm's registry, under timm's conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from sret_nas import zoo
from sret_nas.model.checkpoint import official_filter
from sret_nas.model.sret import SReT

default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",
            "num_classes": arch.num_classes,
            "input_size": (arch.in_chans, arch.image_size, arch.image_size),
            "fixed_input_size": True,
            "pool_size": (arch.sides[-1], arch.sides[-1]),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.0",
            "classifier": "head",
            "license": "mit",
            "paper_ids": "arXiv:2111.05297",
        }
        for name, arch in zoo.PRESETS.items()
    }
)


def _entry(name: str) -> Callable[..., Any]:
    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        feature_cfg = {
            "out_indices": tuple(range(len(zoo.PRESETS[name].stages))),
            "feature_cls": "getter",
        }
        return build_model_with_cfg(
            SReT,
            name,
            pretrained,
            pretrained_filter_fn=official_filter,
            feature_cfg=feature_cfg,
            arch=zoo.PRESETS[name],
            **kwargs,
        )

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"The published architecture ``{name}``; no weights are hosted."
    return entry


for _name in zoo.PRESETS:
    register_model(_entry(_name))
