"""ExecuTorch programs (``.pte``) for phones and boards: XNNPACK on the CPU.

Of a fixed batch: memory is planned beforehand, and ExecuTorch 1.5 plans it for 15 images where
a program for 1 to 64 is given.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from sret_nas.deploy.exporting.base import Exporter, Runner, Wanted, exported
from sret_nas.errors import SretNasError
from sret_nas.model.onnx import needed, root, silent


class ExecuTorch(Exporter):
    """By ExecuTorch: what XNNPACK knows is handed to it, the rest to portable kernels."""

    name = "executorch"
    suffix = ".pte"
    package = "executorch"
    needs = ("executorch.exir",)
    extra = "executorch"
    dtypes = ("fp32",)
    free_batch = False

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write the program."""
        with silent():
            exir, xnnpack = needed(
                "executorch.exir",
                "executorch.backends.xnnpack.partition.xnnpack_partitioner",
                extra="executorch",
            )
        made = exported(model, wanted)
        try:
            with silent():
                lowered = exir.to_edge_transform_and_lower(
                    made, partitioner=[xnnpack.XnnpackPartitioner()]
                )
                buffer = lowered.to_executorch().buffer
        except Exception as error:  # of whatever the model is made of
            raise SretNasError(
                f"{type(model).__name__}: cannot be exported to ExecuTorch: {root(error)}"
            ) from error
        path.write_bytes(buffer)

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Load the program into ExecuTorch's runtime for Python; it chooses its threads."""
        with silent():
            runtime = needed("executorch.runtime", extra="executorch")[0]
        method = runtime.Runtime.get().load_program(path).load_method("forward")

        def run(x_BCSS: Tensor) -> Tensor:
            # A copy: the next images are computed in the same memory.
            logits_BK: Tensor = method.execute([x_BCSS.contiguous()])[0].clone()
            return logits_BK

        return run
