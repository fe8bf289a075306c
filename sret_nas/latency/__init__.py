"""Latency on this device: measured, predicted, bounded; where it goes and what the device could do.

Names that need torch are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sret_nas.latency.bounds import Clock, Timing, clock
from sret_nas.latency.calibration import (
    NN_METER_WITHIN_10,
    Calibration,
    HeldOut,
    Score,
    calibrate,
    judge,
    score,
)
from sret_nas.latency.fitting import MIN_ARCHITECTURES, cross_validated, fit, macs_line
from sret_nas.latency.predictor import Prediction, Predictor, load_predictor, predictor_path
from sret_nas.latency.terms import features

if TYPE_CHECKING:
    from sret_nas.latency.measurement import MODES, Latency, check, measure

__all__ = [
    "MIN_ARCHITECTURES",
    "MODES",
    "NN_METER_WITHIN_10",
    "Calibration",
    "Clock",
    "HeldOut",
    "Latency",
    "Prediction",
    "Predictor",
    "Score",
    "Timing",
    "calibrate",
    "check",
    "clock",
    "cross_validated",
    "features",
    "fit",
    "judge",
    "load_predictor",
    "macs_line",
    "measure",
    "predictor_path",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in ("MODES", "Latency", "check", "measure"):
        return getattr(importlib.import_module("sret_nas.latency.measurement"), name)
    raise AttributeError(f"module 'sret_nas.latency' has no attribute {name!r}")
