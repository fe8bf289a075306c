"""Core ML packages (``.mlpackage``), which Apple's systems run."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sret_nas.deploy.exporting.base import Exporter, NotHere, Runner, Wanted, exported
from sret_nas.errors import SretNasError
from sret_nas.model.onnx import INPUT, OUTPUT, needed, root, silent


class CoreMl(Exporter):
    """By coremltools, as an ML program for iOS 17 and macOS 14; of one image unless asked."""

    name = "coreml"
    suffix = ".mlpackage"
    package = "coremltools"
    needs = ("coremltools",)
    extra = "coreml"
    free_batch = False

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write the package."""
        with silent():
            coreml = needed("coremltools", extra="coreml")[0]
        size = (wanted.batch, wanted.in_chans, wanted.side, wanted.side)
        half = wanted.dtype == "fp16"
        made = exported(model, Wanted(wanted.side, wanted.in_chans, batch=wanted.batch))
        try:
            with silent(), contextlib.redirect_stderr(io.StringIO()):  # bars of progress
                converted = coreml.convert(
                    made.run_decompositions({}),
                    inputs=[coreml.TensorType(name=INPUT, shape=size)],
                    outputs=[coreml.TensorType(name=OUTPUT)],
                    convert_to="mlprogram",
                    minimum_deployment_target=coreml.target.iOS17,
                    compute_precision=coreml.precision.FLOAT16
                    if half
                    else coreml.precision.FLOAT32,
                )
                converted.save(str(path))
        except Exception as error:  # of whatever the model is made of
            raise SretNasError(
                f"{type(model).__name__}: cannot be exported to Core ML: {root(error)}"
            ) from error

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Load the package, where this is macOS."""
        if sys.platform != "darwin":
            raise NotHere(f"Core ML predicts on macOS alone, and this is {sys.platform}")
        coreml = needed("coremltools", extra="coreml")[0]
        model = coreml.models.MLModel(str(path))

        def run(x_BCSS: Tensor) -> Tensor:
            found = model.predict({INPUT: x_BCSS.numpy()})[OUTPUT]
            return torch.from_numpy(np.asarray(found, np.float32))

        return run
