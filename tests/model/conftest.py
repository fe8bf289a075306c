"""Weights in the official layout."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def official(fill: ModuleType, golden_cases: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    state = {}
    for key, shape in golden_cases["sret_t"]["state_dict"].items():
        parts = key.split(".")
        if parts[0] == "transformers" and int(parts[3]) % 4 == 2:
            parts[3] = str(int(parts[3]) - 2)
        state[key] = torch.from_numpy(fill.value(".".join(parts), tuple(shape)))
    return state
