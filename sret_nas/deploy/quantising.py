"""An ONNX file in int8, in several ways: which loses least is measured, not hoped.

What a way keeps in float differs, because what int8 costs differs by model: sums of residuals,
softmax and norms have outliers, and the stem sees the image itself (docs/deploy.md).

Shapes: N images, C channels, S side.
Requires onnx and onnxruntime.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sret_nas.errors import SretNasError
from sret_nas.model.onnx import INPUT, needed, silent

PRODUCTS = ("MatMul", "Gemm", "Conv")
FLOAT_OUTPUTS = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
"""What follows a product gets what it summed up: else a softmax would be between two roundings."""
CALIBRATION_BATCH = 16
STEM = "stem."

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """One way to int8.

    Attributes:
        name: What it is called.
        static: Whether scales of activations are calibrated; else they are taken as they come.
        operators: Operators in int8; ``None`` for all that ONNX Runtime has.
        attention: Whether products of queries, keys and values are among them.
        stem: Whether the stem is.
    """

    name: str
    static: bool
    operators: tuple[str, ...] | None = PRODUCTS
    attention: bool = True
    stem: bool = True

    def kept(self, graph: Any) -> list[str]:
        """Names of the nodes of a graph that stay in float though their operators are in int8.

        Args:
            graph: Of an ONNX model; nodes are named after their modules.
        """
        weights = {tensor.name for tensor in graph.initializer}
        return [
            node.name
            for node in graph.node
            if (not self.stem and node.name.startswith(STEM))
            or (
                not self.attention
                and node.op_type == "MatMul"
                and not weights.intersection(node.input)
            )
        ]


RECIPES = (
    Recipe("dynamic", static=False, operators=("MatMul", "Gemm"), attention=False),
    Recipe("static-all", static=True, operators=None),
    Recipe("static-products", static=True),
    Recipe("static-linear", static=True, attention=False, stem=False),
)
"""From all in int8 to the least: without sums of residuals, softmax, norms and GELU; then also
without attention's own products and the stem."""


def quantise(
    path: Path,
    calibration_NCSS: Images,
    place: Path,
    batch: int | None = None,
    recipes: tuple[Recipe, ...] = RECIPES,
) -> Iterator[tuple[str, Path | Exception]]:
    """Make files in int8, one a recipe.

    Args:
        path: The file in float, as ``write_onnx`` writes it.
        calibration_NCSS: Training images, normalised.
        place: A folder for the files.
        batch: Images that the file takes at a time; ``None`` for any number.
        recipes: Ways to int8.

    Yields:
        The recipe's name, and its file or what went wrong.
    """
    onnx, quantization = needed("onnx", "onnxruntime.quantization")
    (shapes,) = needed("onnxruntime.quantization.shape_inference")
    ready = place / "prepared.onnx"
    with silent(), _without_log():
        shapes.quant_pre_process(path, ready, skip_symbolic_shape=True)
    graph = onnx.load(ready).graph
    about = {one.key: one.value for one in onnx.load(path, load_external_data=False).metadata_props}
    narrow = not has_int8_products()
    for recipe in recipes:
        made = place / f"{recipe.name}.onnx"
        common = {
            "per_channel": True,
            "reduce_range": narrow,
            "weight_type": quantization.QuantType.QInt8,
            "op_types_to_quantize": recipe.operators and list(recipe.operators),
            "nodes_to_exclude": recipe.kept(graph),
        }
        try:
            with silent(), _without_log():
                if recipe.static:
                    quantization.quantize_static(
                        ready,
                        made,
                        _reader(quantization, calibration_NCSS, batch or CALIBRATION_BATCH),
                        quant_format=quantization.QuantFormat.QDQ,
                        activation_type=quantization.QuantType.QInt8,
                        extra_options={} if recipe.operators is None else FLOAT_OUTPUTS,
                        **common,
                    )
                else:
                    quantization.quantize_dynamic(ready, made, **common)
                finished = onnx.load(made)
                onnx.helper.set_model_props(finished, about | {"int8": recipe.name})
                onnx.save_model(finished, made)
        except Exception as error:  # whatever the quantiser raises over a graph
            yield recipe.name, error
        else:
            yield recipe.name, made


def _reader(quantization: Any, images_NCSS: Images, batch: int) -> Any:
    whole = len(images_NCSS) // batch * batch
    if not whole:
        raise SretNasError(f"{len(images_NCSS)} images to calibrate with; allowed: {batch} or more")
    batches = iter(np.split(images_NCSS[:whole], whole // batch))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Images] | None:
            images = next(batches, None)
            return None if images is None else {INPUT: images}

    return Reader()


def has_int8_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies int8 without overflow (VNNI); where not told, it is assumed.

    Without it, AVX2 and AVX-512 saturate sums of two products, and 7 bits must do.

    Args:
        cpuinfo: What Linux tells of the CPU.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return "vnni" in text or "avx2" not in text


@contextmanager
def _without_log() -> Iterator[None]:
    """Without the quantiser's advice, which it gives to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
