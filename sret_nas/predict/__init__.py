"""Predicted latency: calibrated on measured architectures, for one device.

A model's time is taken as a sum over its own operators: the arithmetic (rounded up
to the tiles that kernels work in), the elements and weights that are moved, and the
number of calls; on a GPU by kind of kernel. The times per unit are found by
non-negative least squares on the *relative* error of measured architectures, so
each is a cost that a device really can have. The margin is what the error was on
architectures left out of the fit.

Free of torch until something is measured. Requires scipy.
"""

from sret_nas.predict.calibration import (
    NN_METER_WITHIN_10,
    Calibration,
    HeldOut,
    Score,
    calibrate,
    judge,
    score,
)
from sret_nas.predict.fitting import MIN_ARCHITECTURES, cross_validated, fit, macs_line
from sret_nas.predict.predictor import Prediction, Predictor, load, predictor_path
from sret_nas.predict.terms import features

__all__ = [
    "MIN_ARCHITECTURES",
    "NN_METER_WITHIN_10",
    "Calibration",
    "HeldOut",
    "Prediction",
    "Predictor",
    "Score",
    "calibrate",
    "cross_validated",
    "features",
    "fit",
    "judge",
    "load",
    "macs_line",
    "predictor_path",
    "score",
]
