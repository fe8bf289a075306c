"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from sret_nas.deploy.exporting.base import Exporter, Runner, Wanted
from sret_nas.deploy.onnx_file import OnnxFile
from sret_nas.model.onnx import write_onnx


class Onnx(Exporter):
    """By torch's own exporter; int8 by ONNX Runtime's quantiser."""

    name = "onnx"
    suffix = ".onnx"
    package = "onnxruntime"
    needs = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    int8 = True

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write the file, with all that its use needs in its metadata."""
        write_onnx(
            model,
            path,
            side=wanted.side,
            in_chans=wanted.in_chans,
            dynamic_batch=wanted.batch is None,
            batch=wanted.batch or 1,
            opset=wanted.opset,
            dtype=wanted.dtype,
            classes=wanted.classes,
            preprocessing=wanted.preprocessing,
        )

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Load it into ONNX Runtime on the CPU."""
        return OnnxFile(path, "cpu", threads)

    def quantised(
        self, model: nn.Module, path: Path, wanted: Wanted, calibration_NCSS: Tensor, place: Path
    ) -> Iterator[tuple[str, Path | Exception]]:
        """Every recipe of ``deploy/quantising.py`` that makes a different file."""
        from sret_nas.deploy.quantising import quantise

        return quantise(path, calibration_NCSS.numpy(), place, wanted.batch)
