"""What an ONNX file says of itself, without running it.

Requires torch and onnx (``pip install "sret_nas[onnx]"``).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, ConfigError
from sret_nas.latency.runtimes.base import Exported
from sret_nas.model.onnx import needed

SIDE = 224
"""Side of the images where a file neither fixes nor says it."""
INTEGER = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger")
"""Operators that only a quantised graph has."""


def read_onnx(path: Path, runtime: str) -> Exported:
    """Look at an ONNX file: its images, its precision, its architecture.

    Args:
        path: The file.
        runtime: Name of the runtime that is to run it.

    Raises:
        UsageError: onnx is not installed.
        ConfigError: not an ONNX file, or not one of a model of images.
    """
    (onnx,) = needed("onnx")
    try:
        graph = (proto := onnx.load_model(path, load_external_data=False)).graph
    except Exception as error:  # whatever protobuf raises over other bytes
        raise ConfigError(
            f"{path}: not an ONNX file: {str(error).splitlines()[0]}",
            "sret-nas export writes ONNX files",
        ) from error
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in stored]
    types = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.FLOAT16: torch.float16,
        onnx.TensorProto.DOUBLE: torch.float64,
    }
    entry = inputs[0].type.tensor_type if len(inputs) == 1 else None
    if entry is None or entry.elem_type not in types or len(entry.shape.dim) != 4:
        raise ConfigError(
            f"{path}: {len(inputs)} inputs, or none that is images; allowed: one, of floats, "
            "(batch, channels, height, width)"
        )
    about = {one.key: one.value for one in proto.metadata_props}
    batch, *sizes = (one.dim_value or None for one in entry.shape.dim)
    arch = _architecture(about)
    said = _input_size(about) or (
        (arch.in_chans, arch.image_size, arch.image_size) if arch else (3, SIDE, SIDE)
    )
    chans, height, width = (known or other for known, other in zip(sizes, said, strict=True))
    return Exported(
        path=path,
        runtime=runtime,
        dtype=_dtype(onnx, graph),
        images=types[entry.elem_type],
        shape=(chans, height, width),
        batch=batch,
        weight_bytes=sum(map(_nbytes, graph.initializer)),
        arch=arch,
    )


def _dtype(onnx: Any, graph: Any) -> str:
    """What most weights are stored as; ``int8`` where the graph is quantised."""
    if any(node.op_type in INTEGER for node in graph.node):
        return "int8"
    numbers: Counter[int] = Counter()
    for tensor in graph.initializer:
        numbers[tensor.data_type] += math.prod(tensor.dims)
    names = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    most = numbers.most_common(1)
    return names.get(most[0][0], "fp32") if most else "fp32"


def _nbytes(tensor: Any) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    itemsize: int = tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims)) * itemsize


def _architecture(about: Mapping[str, str]) -> Architecture | None:
    """That of the file's notes, which others may have written."""
    try:
        found = json.loads(about["architecture"])
        return Architecture.load(found) if isinstance(found, dict) else None
    except (KeyError, ValueError, RecursionError, ArchitectureError):
        return None


def _input_size(about: Mapping[str, str]) -> tuple[int, int, int] | None:
    try:
        chans, height, width = json.loads(about["input_size"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return int(chans), int(height), int(width)
