"""Architecture exploration for Sliced Recursive Transformers (SReT, ECCV 2022).

Names that need torch are imported on first use, so that ``import sret_nas``
stays light. Once timm is imported (before or after), ``timm.create_model``
knows the published models.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import wrapt

from sret_nas import zoo as zoo
from sret_nas.arch import OF_RUNS, Architecture, Stage
from sret_nas.cost import cost
from sret_nas.errors import EvaluationError, SretNasError

if TYPE_CHECKING:
    from sret_nas.api import SearchResult, search
    from sret_nas.deploy.train import train
    from sret_nas.evaluate import Evaluation, Evaluator, Progress, Work
    from sret_nas.metrics import Declaration, Metric
    from sret_nas.model import convert_official_state_dict, create_model, load, save
    from sret_nas.samplers import KnownCostSampler
    from sret_nas.space import SearchSpace

__version__ = version("sret_nas")

_LAZY = {
    "Declaration": "sret_nas.metrics",
    "Evaluation": "sret_nas.evaluate",
    "Evaluator": "sret_nas.evaluate",
    "KnownCostSampler": "sret_nas.samplers",
    "Metric": "sret_nas.metrics",
    "Progress": "sret_nas.evaluate",
    "SearchResult": "sret_nas.api",
    "SearchSpace": "sret_nas.space",
    "Work": "sret_nas.evaluate",
    "create_model": "sret_nas.model",
    "convert_official_state_dict": "sret_nas.model",
    "load": "sret_nas.model",
    "save": "sret_nas.model",
    "search": "sret_nas.api",
    "train": "sret_nas.deploy.train",
}

__all__ = [
    "Architecture",
    "Declaration",
    "Evaluation",
    "EvaluationError",
    "Evaluator",
    "KnownCostSampler",
    "Metric",
    "Progress",
    "SearchResult",
    "SearchSpace",
    "SretNasError",
    "Stage",
    "Work",
    "__version__",
    "convert_official_state_dict",
    "cost",
    "create_model",
    "load",
    "save",
    "search",
    "train",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sret_nas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))


def _trial(run: str, number: int) -> Architecture:
    found: Architecture = importlib.import_module("sret_nas.runner").architecture(run, number)
    return found


OF_RUNS["#"] = _trial


@wrapt.when_imported("timm.models")
def _register(_: Any) -> None:
    importlib.import_module("sret_nas.model.timm_models")
