"""ONNX Runtime: a model as an ONNX file in a session of its own.

An architecture or a module is exported as ``sret_nas.model.onnx`` does; a file is run as it is.
Its output is compared with that of eager PyTorch in fp32, that of a file with that of the
same file without a graph optimisation, which is all there is to compare it with.

Requires torch, and onnxruntime (``pip install "sret_nas[onnx]"``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sret_nas.arch import Architecture
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency import modes
from sret_nas.latency.building import images, input_shape, module, nbytes
from sret_nas.latency.modes import TOLERANCE, Setting
from sret_nas.latency.runtimes.base import Exported, Ready, Runtime, Source
from sret_nas.latency.runtimes.exporting import exported
from sret_nas.latency.runtimes.exporting_ahead import export_ahead
from sret_nas.latency.runtimes.onnx_files import read_onnx
from sret_nas.latency.settings import Settings

DTYPES = {"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32", "fp16")}
"""What is exported for a device. bf16 has no kernels on a CPU there, int8 none on a GPU."""
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of a weight; with int8 of those of products, which are nearly all."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Runtime):
    """ONNX Runtime, on the execution provider of the device."""

    name = "onnxruntime"
    modes = ("session",)
    suffix = ".onnx"
    tolerance = TOLERANCE | {"int8": 5e-2}

    def setting(self, device: torch.device, mode: str | None, dtype: str | None) -> Setting:
        """A session, in fp32 on a CPU and fp16 on a GPU."""
        return Setting(mode or "session", dtype or ("fp16" if device.type == "cuda" else "fp32"))

    def images(self, dtype: str, device: torch.device) -> torch.dtype:
        """Always fp32: what computes in another type casts inside."""
        allowed = DTYPES[device.type]
        if dtype not in allowed:
            raise UsageError(
                f"dtype: given {dtype!r}; allowed of runtime {self.name} on {device.type}: "
                f"{', '.join(allowed)}"
            )
        return torch.float32

    def check(self, device: torch.device, mode: str) -> None:
        """It must be installed, and built for the device."""
        super().check(device, mode)
        wanted = PROVIDERS[device.type]
        here = _onnxruntime().get_available_providers()
        if wanted not in here:
            raise UsageError(
                f"onnxruntime {_onnxruntime().__version__} has no {wanted}, so it cannot run on "
                f"{device}",
                "pip install onnxruntime-gpu in place of onnxruntime, or take --device cpu",
            )

    def version(self) -> str:
        """Name and version."""
        return f"{self.name} {_onnxruntime().__version__}"

    def packages(self) -> dict[str, str]:
        """Its own version."""
        return {self.name: str(_onnxruntime().__version__)}

    def opened(self, path: Path) -> Exported:
        """An ONNX file."""
        return read_onnx(path, self.name)

    def ahead(
        self, sources: Iterable[Source], settings: Settings, progress: Callable[[str], None]
    ) -> None:
        """Architectures are exported, several at once."""
        archs = [source for source in sources if isinstance(source, Architecture)]
        export_ahead(archs, settings.dtype_name, progress)

    def ready(
        self,
        name: str,
        source: Source,
        batch: int,
        settings: Settings,
        progress: Callable[[str], None],
    ) -> Ready:
        """A session of the exported model, or of the file."""
        start = time.perf_counter()
        if isinstance(source, Exported):
            _refuse_batch(name, source, batch)
            x = images(batch, source.shape, settings.device).to(source.images)
            reference = _call(source.path, x, settings, plain=True)
            expected = [one.float() for one in modes.tensors(reference())]
            held = source.weight_bytes
            call = _call(source.path, x, settings)
        else:
            with torch.inference_mode(False):
                model = module(source)
            where = settings.where(name, batch)
            modes.refuse_draws(model, where, "which no file holds")
            shape = input_shape(model)
            held = sum(map(nbytes, (*model.parameters(), *model.buffers())))
            held = int(held * BYTES[settings.dtype_name] / 4)
            x = images(batch, shape, settings.device)
            expected = modes.expect(model.to(settings.device), x)
            told = partial(progress, f"exporting {name} to ONNX: seconds to a minute")
            with exported(source, model, shape, settings.dtype_name, told) as path:
                call = _call(path, x, settings)
        call.compile_s = time.perf_counter() - start
        return Ready(call, expected, held + nbytes(x))


def _call(path: Path, x: Tensor, settings: Settings, plain: bool = False) -> modes.Call:
    """A session that runs a file on images; ``plain``: without a graph optimisation."""
    session = _session(path, settings, plain)
    if settings.device.type == "cuda":
        return _bound(session, x)
    feed = {session.get_inputs()[0].name: x.numpy()}

    def run() -> Tensor | list[Tensor]:
        found = [torch.from_numpy(one) for one in session.run(None, feed)]
        return found[0] if len(found) == 1 else found

    return modes.Call(session, x, run)


def _session(path: Path, settings: Settings, plain: bool) -> Any:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = settings.fingerprint.threads
    options.inter_op_num_threads = 1
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted, at = PROVIDERS[settings.device.type], {}
    if settings.device.type == "cuda":
        stream = torch.cuda.current_stream(settings.device).cuda_stream
        at = {
            "device_id": str(settings.device.index or 0),
            "user_compute_stream": str(stream),  # the one that events and copies are on
            "use_tf32": "0",
        }
    session = ort.InferenceSession(path, options, providers=[(wanted, at)])
    if session.get_providers()[0] != wanted:  # it falls back in silence
        raise SretNasError(
            f"{path.name}: onnxruntime does not start {wanted}",
            "look at its libraries: python -c 'import onnxruntime as o; o.print_debug_info()'",
        )
    return session


def _bound(session: Any, x: Tensor) -> modes.Call:
    """A call that leaves images and logits on the GPU."""
    import numpy as np

    binding = session.io_binding()
    (entry,), outputs = session.get_inputs(), session.get_outputs()
    place = (x.device.type, x.device.index or 0)
    kind = np.float16 if x.dtype == torch.float16 else np.float32
    binding.bind_input(entry.name, *place, kind, tuple(x.shape), x.data_ptr())
    kept = []
    for one in outputs:
        half = one.type == "tensor(float16)"
        sizes = (len(x), *one.shape[1:])
        out = torch.empty(sizes, dtype=torch.float16 if half else torch.float32, device=x.device)
        kind = np.float16 if half else np.float32
        binding.bind_output(one.name, *place, kind, sizes, out.data_ptr())
        kept.append(out)

    def run() -> None:
        session.run_with_iobinding(binding)

    return modes.Call((session, binding), x, run, kept[0] if len(kept) == 1 else kept)


def _refuse_batch(name: str, source: Exported, batch: int) -> None:
    if source.batch not in (None, batch):
        raise UsageError(
            f"{name}: takes {source.batch} images at once; given batch {batch}",
            f"--batch {source.batch}, or export it with a dynamic batch",
        )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UsageError(
            "runtime onnxruntime: the package 'onnxruntime' is not installed",
            'pip install "sret_nas[onnx]"',
        ) from error
    return onnxruntime
