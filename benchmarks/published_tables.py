"""Tables of really trained vision transformers that others have published, from where they lie.

ViT-Bench-101 of Auto-Prox (AAAI 2024; ``lliai/Auto-Prox-AAAI24``, folder ``gt_results``,
Apache-2.0): 100 PiT and 100 AutoFormer architectures, each trained once, 300 epochs, on CIFAR-100,
Flowers and Chaoyang, plain and distilled. The files are read as they are; nothing of them is kept
here but results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kendall import Floats
from samplers import pit_cost

CLASSES = 100
SETS = {"c100": "CIFAR-100", "flower": "Flowers", "chaoyang": "Chaoyang"}
FORMS = {"base": "plain", "kd": "distilled"}


def autoformer_cost(arch: Mapping[str, Any]) -> tuple[float, float]:
    """MACs and parameters of an AutoFormer at 224 px, 16 px patches, 100 classes.

    Heads have 64 channels. Source: microsoft/Cream, AutoFormer; without its relative positions,
    and normalisation and softmax cost no MACs here.
    """
    d, n = arch["hidden_dim"], 197
    macs = 196 * 768.0 * d + CLASSES * d
    params = 769.0 * d + n * d + d + 2 * d + CLASSES * (d + 1)
    for heads, ratio in zip(arch["num_heads"], arch["mlp_ratio"], strict=True):
        inner, hidden = 64 * heads, int(d * ratio)
        weights = 4 * d * inner + 2 * d * hidden
        params += weights + 3 * inner + d + hidden + d + 4 * d
        macs += n * weights + 2 * n * n * inner
    return macs, params


def _pit(arch: Mapping[str, Any]) -> tuple[float, float]:
    flat = {"base_dim": arch["base_dim"], "mlp_ratio": arch["mlp_ratio"]}
    for i in range(3):
        flat |= {f"depth{i}": arch["depth"][i], f"heads{i}": arch["num_heads"][i]}
    return pit_cost(flat)


FILES: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[float, float]]]] = {
    "PiT": ("gt_pit.pth", _pit),
    "AutoFormer": ("gt_autoformer.pth", autoformer_cost),
}


@dataclass(frozen=True)
class Published:
    """One family of architectures.

    Attributes:
        name: Of the family.
        macs: Of each.
        params: Of each.
        depth: Blocks of each.
        accuracy: By data set and form, percent.
    """

    name: str
    macs: Floats
    params: Floats
    depth: Floats
    accuracy: dict[tuple[str, str], Floats]


def read(folder: Path) -> list[Published]:
    """The families whose files are in the folder ``gt_results``."""
    found = []
    for name, (file, costs) in FILES.items():
        rows = torch.load(folder / file, weights_only=True)
        macs, params = np.array([costs(row["arch"]) for row in rows]).T
        depth = np.array([np.sum(row["arch"]["depth"]) for row in rows], dtype=float)
        accuracy = {
            (SETS[data], FORMS[form]): np.array([row[f"{data}_{form}_acc"] for row in rows])
            for data in SETS
            for form in FORMS
        }
        found.append(Published(name, macs, params, depth, accuracy))
    return found
