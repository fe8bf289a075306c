"""A training that takes a second and is real."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "image_size": 28,
    "width": 0.5,
    "subset": 64,
    "val_images": 32,
    "epochs": 2,
    "rungs": [1, 2],
    "batch": 32,
    "seeds": 2,
}
"""A proxy."""
