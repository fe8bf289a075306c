"""Programs of ``torch.export`` (``.pt2``), run by PyTorch without the model's code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sret_nas.deploy.exporting.base import Exporter, Runner, Wanted, exported, program
from sret_nas.model.frozen import frozen
from sret_nas.model.onnx import needed, silent


class Torch(Exporter):
    """By ``torch.export``; int8 by torchao."""

    name = "torch"
    suffix = ".pt2"
    package = "torch"
    int8 = True

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write the program."""
        _save(exported(model, wanted), path)

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Load the program; threads are those of PyTorch."""
        with silent():
            module = torch.export.load(path).module()

        def run(x_BCSS: Tensor) -> Tensor:
            with torch.inference_mode():
                logits_BK: Tensor = module(x_BCSS)
            return logits_BK

        return run

    def quantised(
        self, model: nn.Module, path: Path, wanted: Wanted, calibration_NCSS: Tensor, place: Path
    ) -> Iterator[tuple[str, Path | Exception]]:
        """One: weights in int8 by channel, activations in int8 by token as they come."""
        yield "dynamic", self._dynamic(model, wanted, place / f"dynamic{self.suffix}")

    def _dynamic(self, model: nn.Module, wanted: Wanted, path: Path) -> Path | Exception:
        with silent():
            quantization = needed("torchao.quantization", extra="int8")[0]
        still = frozen(model, wanted.side)
        try:
            with silent():
                quantization.quantize_(still, quantization.Int8DynamicActivationInt8WeightConfig())
            _save(program(still, wanted, type(model).__name__), path)
        except Exception as error:  # of a package that changes often
            return error
        return path


def _save(made: torch.export.ExportedProgram, path: Path) -> None:
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    with silent():
        torch.export.save(made, path)
