"""An ONNX file as something that can be asked, whoever wrote it.

Requires onnxruntime (``pip install "sret_nas[onnx]"``).

Shapes: B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sret_nas.errors import ConfigError, SretNasError, UsageError

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
SIDE = 224
"""Side where the file leaves it open and does not say one."""
LEAST = 1e-30
"""Probability below which a logarithm is not taken."""


class OnnxFile:
    """A classifier in ONNX Runtime: normalised images to logits.

    Args:
        path: The file; one input (B, C, S, S) and one output (B, K).
        device: ``cpu`` or ``cuda:N``; a GPU is used where onnxruntime was built for it.
        threads: Threads on the CPU; default onnxruntime's.

    Attributes:
        about: What the file says of itself, by key; JSON is read.
        in_chans: Channels, C.
        side: Side in px, S.
        num_classes: K.
        batch: Images it takes at a time; ``None`` for any number.
        provider: What computes, as onnxruntime names it.
        notes: What a user should know.

    Raises:
        UsageError: onnxruntime is missing.
        ConfigError: not an ONNX file, or not a classifier of such images.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError(
                f"{path}: needs onnxruntime, which is not installed",
                'pip install "sret_nas[onnx]"',
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        self.path, self.notes = path, list[str]()
        cuda = "CUDAExecutionProvider"
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu" and cuda in onnxruntime.get_available_providers():
            providers.insert(0, (cuda, {"device_id": int(device.partition(":")[2] or 0)}))
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # whatever onnxruntime raises over a file
            raise ConfigError(f"{path}: not an ONNX file that runs here: {_line(error)}") from error
        self.provider = self.session.get_providers()[0]
        if device != "cpu" and self.provider != cuda:
            self.notes.append("this onnxruntime does not use the GPU: computed on the CPU")
        self.about = {
            key: _read(text)
            for key, text in self.session.get_modelmeta().custom_metadata_map.items()
        }
        self._look()

    def _look(self) -> None:
        """Find out what goes in and what comes out, by asking once."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ConfigError(
                f"{self.path}: {len(inputs)} inputs and {len(outputs)} outputs; allowed: one each"
            )
        (entry,) = inputs
        if entry.type not in TYPES or len(entry.shape) != 4:
            raise ConfigError(
                f"{self.path}: its input is {entry.type} {entry.shape}; "
                "allowed: floats (batch, channels, side, side)"
            )
        self._name, self._type = entry.name, TYPES[entry.type]
        batch, chans, *sides = (size if isinstance(size, int) else None for size in entry.shape)
        stored = self.about.get("input_size")
        if not (isinstance(stored, list) and len(stored) == 3):
            stored = [3, SIDE, SIDE]
        self.batch = batch
        self.in_chans = int(chans or stored[0])
        height, width = (int(size or stored[-1]) for size in sides)
        if self.in_chans not in (1, 3) or height != width:
            raise ConfigError(
                f"{self.path}: its input is {entry.shape}; "
                "allowed: (batch, channels, side, side) with 1 or 3 channels"
            )
        self.side = height
        self._probabilities = False
        found = self(torch.zeros(1, self.in_chans, self.side, self.side))
        if found.ndim != 2:
            raise ConfigError(f"{self.path}: its output is {tuple(found.shape)}; allowed: (1, K)")
        self.num_classes = found.shape[1]
        self._probabilities = bool((found >= 0).all()) and abs(float(found.sum()) - 1) < 1e-3
        if self._probabilities:
            self.notes.append("its outputs are probabilities: their logarithms count as logits")

    def __call__(self, x_BCSS: Tensor) -> Tensor:
        """Logits (B, K), float32, on the CPU; of a fixed batch the rest is filled up.

        Raises:
            SretNasError: onnxruntime fails.
        """
        if self.batch is None:
            return self._run(x_BCSS)
        return torch.cat([self._run(some) for some in torch.split(x_BCSS, self.batch)])

    def _run(self, x_BCSS: Tensor) -> Tensor:
        lacking = self.batch - len(x_BCSS) if self.batch else 0
        filled = F.pad(x_BCSS, (0, 0, 0, 0, 0, 0, 0, lacking)).cpu().numpy().astype(self._type)
        try:
            (found,) = self.session.run(None, {self._name: filled})
        except Exception as error:  # whatever onnxruntime raises over a graph
            raise SretNasError(f"{self.path}: onnxruntime fails: {_line(error)}") from error
        out_BK = torch.from_numpy(np.asarray(found, np.float32))[: len(x_BCSS)]
        return out_BK.clamp(min=LEAST).log() if self._probabilities else out_BK


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _line(error: Exception) -> str:
    lines = str(error).split("\n")
    return lines[0] or type(error).__name__
