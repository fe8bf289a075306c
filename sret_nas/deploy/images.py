"""What a model wants done to images before it sees them, as timm says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data import resolve_data_config

from sret_nas.errors import ConfigError

KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROPS = ("center", "squash", "border")
LEAST_STD, LARGEST = 1e-6, 1e30
LEAST_CROP = 0.05
"""Below it an image would be enlarged to hundreds of times what is looked at."""


def preprocessing_of(
    said: Mapping[str, Any], changed: Mapping[str, Any] | None, known: bool
) -> tuple[dict[str, Any], list[str]]:
    """The preprocessing of a model, checked: timm's names and defaults.

    Args:
        said: What the model says, ``input_size`` among it.
        changed: What a user wants otherwise.
        known: Whether the model says it at all; else that ImageNet's is assumed is noted.

    Returns:
        As timm's ``resolve_model_data_config`` gives it, and what a user should know.

    Raises:
        ConfigError: a value that cannot be.
    """
    changed = {key: value for key, value in (changed or {}).items() if value is not None}
    unknown = sorted(set(changed) - set(KEYS))
    if unknown:
        raise ConfigError(f"preprocessing: unknown key '{unknown[0]}'; allowed: {', '.join(KEYS)}")
    given = {key: said[key] for key in (*KEYS, "input_size") if said.get(key) is not None}
    images: dict[str, Any] = resolve_data_config(pretrained_cfg={**given, **changed})
    chans = images["input_size"][0]
    for key in ("mean", "std"):
        values = images[key]
        if not isinstance(values, list | tuple) or not all(_is_number(one) for one in values):
            raise ConfigError(f"{key}: given {values!r}; allowed: one number a channel")
        if key not in given and key not in changed:
            values = values if len(values) == chans else (sum(values) / len(values),) * chans
        if len(values) == 1:
            values = (values[0],) * chans
        if len(values) != chans:
            raise ConfigError(f"{key}: given {len(values)} numbers; allowed: {chans} or 1")
        images[key] = tuple(map(float, values))
    if min(images["std"]) < LEAST_STD:
        raise ConfigError(f"std: given {images['std']}; allowed: more than 0 ({LEAST_STD})")
    for key, allowed in (("interpolation", INTERPOLATIONS), ("crop_mode", CROPS)):
        if images[key] not in allowed:
            raise ConfigError(f"{key}: given {images[key]!r}; allowed: {', '.join(allowed)}")
    if not _is_number(images["crop_pct"]) or not LEAST_CROP <= images["crop_pct"] <= 1:
        raise ConfigError(f"crop_pct: given {images['crop_pct']!r}; allowed: {LEAST_CROP} up to 1")
    open_ = [key for key in ("mean", "std") if key not in changed]
    notes = []
    if not known and open_:
        notes.append(
            "preprocessing is not said by the model: ImageNet's mean and deviation, "
            f"{images['interpolation']}, crop {images['crop_pct']:g} (--mean, --std, … change it)"
        )
    return images, notes


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < LARGEST  # also of whole numbers that no float holds
