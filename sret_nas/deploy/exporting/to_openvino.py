"""OpenVINO models (``.xml`` with ``.bin`` beside it), for Intel's processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sret_nas.deploy.exporting.base import Exporter, Runner, Wanted, exported
from sret_nas.errors import SretNasError
from sret_nas.model.onnx import INPUT, OUTPUT, needed, root, silent


class OpenVino(Exporter):
    """By OpenVINO's converter; with ``fp16`` weights are stored in half precision."""

    name = "openvino"
    suffix = ".xml"
    package = "openvino"
    needs = ("openvino",)
    extra = "openvino"

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write both files."""
        with silent():
            openvino = needed("openvino", extra="openvino")[0]
        single = Wanted(wanted.side, wanted.in_chans, batch=wanted.batch)
        made = exported(model, single)
        try:
            with silent():
                converted = openvino.convert_model(made)
                converted.reshape([wanted.batch or -1, wanted.in_chans, wanted.side, wanted.side])
                converted.inputs[0].get_tensor().set_names({INPUT})
                converted.outputs[0].get_tensor().set_names({OUTPUT})
                half = wanted.dtype == "fp16"
                openvino.save_model(converted, path, compress_to_fp16=half)
        except Exception as error:  # of whatever the model is made of
            raise SretNasError(
                f"{type(model).__name__}: cannot be exported to OpenVINO: {root(error)}"
            ) from error

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Compile the model for the CPU, in float32 as it is stored."""
        with silent():
            openvino = needed("openvino", extra="openvino")[0]
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(path, "CPU", settings)

        def run(x_BCSS: Tensor) -> Tensor:
            return torch.from_numpy(np.array(compiled(x_BCSS.numpy())[0], np.float32))

        return run
