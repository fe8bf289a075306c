"""Models as the ONNX files that ONNX Runtime is measured with, each exported once.

An export takes seconds to a minute, so that of an architecture is kept in the user's cache
folder: for other threads, batches and processes. Its weights are the same at every call, so
that the output of a kept file is compared as that of a fresh one is.

Requires torch, onnx and onnxruntime (``pip install "sret_nas[onnx]"``).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from sret_nas import model as models
from sret_nas.arch import Architecture
from sret_nas.device import cache_folder
from sret_nas.model.onnx import needed, write_onnx

KEPT_BYTES = 4 * 2**30
"""Of all kept files together; beyond it those go that were not used for longest."""
MAKERS = ("torch", "onnx", "onnxscript", "onnxruntime")
"""Packages whose versions decide what is in a file."""
QUANTISED = ["MatMul", "Gemm"]
"""What int8 computes in integers: products with weights. The rest stays as it is."""


@contextmanager
def exported(
    source: Architecture | nn.Module,
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: str,
    progress: Callable[[], None],
) -> Iterator[Path]:
    """Within, a model is a file that takes any batch.

    Args:
        source: What the model was made of; files of architectures are kept.
        model: The model, in fp32.
        shape: Channels, height and width of one image.
        dtype: ``fp32``, ``fp16`` or ``int8``.
        progress: Called before something is exported.

    Raises:
        SretNasError: it cannot be exported; or as ``write_onnx``.
    """
    if not isinstance(source, Architecture):
        with tempfile.TemporaryDirectory(prefix="sret-nas-") as folder:
            progress()
            path = Path(folder) / "model.onnx"
            _write(model, path, shape, dtype)
            if dtype == "int8":
                plain = path.rename(path.with_name("float.onnx"))
                _quantise(plain, path)
            yield path
        return
    path = kept(source, dtype)
    if path.is_file():
        os.utime(path)
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as folder:
        made = Path(folder) / "model.onnx"
        if dtype == "int8":
            with exported(source, model, shape, "fp32", progress) as plain:
                _quantise(plain, made)
        else:
            progress()
            _write(model, made, shape, dtype)
        made.replace(path)
    _make_room(path)
    yield path


def kept(arch: Architecture, dtype: str) -> Path:
    """Where the file of an architecture is kept, whether or not it is there."""
    return cache_folder() / "onnx" / f"{arch.id}-{dtype}-{_makers()}.onnx"


def _write(model: nn.Module, path: Path, shape: tuple[int, ...], dtype: str) -> None:
    chans, side, _ = shape
    half = dtype == "fp16"
    with torch.inference_mode(False):
        write_onnx(model, path, side=side, in_chans=chans, dtype="fp16" if half else "fp32")


def _quantise(plain: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    advice = logging.getLogger()  # to pre-process, which gains nothing here
    before = advice.level
    advice.setLevel(logging.ERROR)
    try:
        quantize_dynamic(plain, path, op_types_to_quantize=QUANTISED, weight_type=QuantType.QInt8)
    finally:
        advice.setLevel(before)


@functools.cache
def _makers() -> str:
    """Eight hexadecimal digits of all code that decides what is in a file."""
    digest = hashlib.sha256()
    for package in needed(*MAKERS):
        digest.update(f"{package.__name__} {package.__version__} ".encode())
    for path in sorted(Path(models.__path__[0]).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _make_room(newest: Path) -> None:
    """Remove what was not used for longest, where there is too much."""
    others = [path for path in newest.parent.glob("*.onnx") if path != newest]
    found = [(path.stat().st_mtime, path.stat().st_size, path) for path in others]
    total = newest.stat().st_size
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)
