"""A model as an ONNX file that says of itself all that is needed to use it.

Shapes: B batch, C channels, S side, K classes.
Requires torch, onnx and onnxscript (``pip install "sret_nas[onnx]"``).
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from timm.data import resolve_model_data_config
from torch import nn

from sret_nas import files
from sret_nas.errors import SretNasError, UsageError
from sret_nas.model.frozen import Half, frozen
from sret_nas.model.sret import SReT

INPUT, OUTPUT = "images", "logits"
OPSETS = range(18, 24)
"""Versions of ONNX's operators that torch's exporter writes and converts to."""
OPSET = 20
"""The first with GELU as one operator; ONNX Runtime knows it from 1.17 on."""

FloatType = Literal["fp32", "fp16"]


def write_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    side: int,
    in_chans: int,
    dynamic_batch: bool = True,
    opset: int | None = None,
    dtype: FloatType = "fp32",
    batch: int = 1,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as one ONNX file for images of one size.

    Its input ``images`` are normalised images, float32 (B, C, S, S), its output ``logits``
    float32 (B, K), whatever it computes in. ``metadata`` says what it holds beside the
    graph. Nodes are named after the module they come from. The model stays as it is.

    Args:
        model: An SReT model, or any of timm's.
        path: The file; written whole or not at all.
        side: Side of the images in px; an SReT model is fitted to it (``set_input_size``).
        in_chans: Channels of the images.
        dynamic_batch: Take any number of images; else ``batch`` alone.
        opset: Version of ONNX's operators.
        dtype: What it computes in; with ``fp16`` weights take half the bytes.
        batch: Images at a time where the batch is fixed.
        classes: Names of the classes; by default those that the model knows.
        preprocessing: As timm's ``resolve_model_data_config``; by default of the model.

    Raises:
        UsageError: a package is missing, or an argument is not allowed.
        ConfigError: the model cannot be a file: it draws random orders, its weights are on
            ``meta``, or it does not exist at that size.
        SretNasError: the exporter fails.
        OSError: the file cannot be written.
    """
    onnx = needed("onnx", "onnxscript")[0]
    version = OPSET if opset is None else opset
    if version not in OPSETS:
        raise UsageError(f"opset: given {version}; allowed: {OPSETS[0]} to {OPSETS[-1]}")
    if batch < 1:
        raise UsageError(f"batch: given {batch}; allowed: 1 or more")
    still = frozen(model, side)
    about = metadata(still, side, in_chans, classes, preprocessing)
    if dtype == "fp16":  # what computes in half precision keeps its inputs and outputs
        still = Half(still).eval()
    # Never 1 where the batch is free: what holds of one image alone would be built in.
    images_BCSS = torch.zeros(2 if dynamic_batch else batch, in_chans, side, side)
    free = {0: torch.export.Dim("batch", min=1)} if dynamic_batch else {}
    try:
        with silent():
            program = torch.onnx.export(
                still,
                (images_BCSS,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(free,),
                opset_version=version,
                verbose=False,
            )
    except Exception as error:  # of whatever the model is made of
        raise SretNasError(
            f"{type(model).__name__}: cannot be exported to ONNX: {root(error)}"
        ) from error
    from sret_nas.model.onnx_graph import tidy  # needs onnx

    assert program is not None
    proto = program.model_proto
    written = next((one.version for one in proto.opset_import if not one.domain), None)
    if written != version:
        raise SretNasError(
            f"{type(model).__name__}: opset {version} cannot express it; the exporter wrote "
            f"{written}",
            f"opset {written} works",
        )
    tidy(proto)
    onnx.helper.set_model_props(proto, about)
    with files.whole(Path(path)) as draft:
        onnx.save_model(proto, draft)


def needed(*packages: str, extra: str = "onnx") -> list[Any]:
    """Import optional packages.

    Args:
        packages: Their names.
        extra: The extra that installs them.

    Raises:
        UsageError: one is not installed, with the extra.
    """
    try:
        return [importlib.import_module(name) for name in packages]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package '{error.name}' is not installed", f'pip install "sret_nas[{extra}]"'
        ) from error


def metadata(
    model: nn.Module,
    side: int,
    in_chans: int,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What a file says of itself; every value but names is JSON.

    ``name`` and, of an SReT model, ``architecture``; ``classes``; ``input_size`` (C, S, S),
    ``mean``, ``std``, ``interpolation``, ``crop_pct`` and ``crop_mode``, as timm has them.

    Args:
        model: What is exported.
        side: Side of the images in px.
        in_chans: Channels of the images.
        classes: Names of the classes; by default those that the model knows.
        preprocessing: As timm's ``resolve_model_data_config``; by default of the model.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    images = dict(resolve_model_data_config(model) if preprocessing is None else preprocessing)
    images["input_size"] = (in_chans, side, side)
    for key in ("mean", "std"):  # as timm adapts them to other channels
        if len(images[key]) not in (1, in_chans):
            images[key] = (sum(images[key]) / len(images[key]),) * in_chans
    about = {"name": str(cfg.get("architecture") or type(model).__name__)}
    if isinstance(model, SReT):
        about["architecture"] = model.arch.to_json()
    names = list(classes or cfg.get("label_names") or ())
    if names:
        about["classes"] = json.dumps(names, ensure_ascii=False)
    for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"):
        if key in images:
            about[key] = json.dumps(images[key])
    return about


@contextmanager
def silent() -> Iterator[None]:
    """Without what exporters warn of and log: their files are judged by running them."""
    names = ("torch.onnx", "torch.export", "torch.utils._pytree", "onnxscript", "coremltools")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def root(error: BaseException) -> str:
    """The first line of what an error comes from at last."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
