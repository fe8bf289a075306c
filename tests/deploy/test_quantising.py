"""Ways to int8: each keeps in float what it says, and says what it is."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sret_nas.data import load_data
from sret_nas.deploy.quantising import RECIPES, Recipe, has_int8_products, quantise
from sret_nas.model import SReT
from sret_nas.model.onnx import write_onnx

Images = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def plain(model: SReT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    write_onnx(model, path, side=28, in_chans=1, classes=[f"c{i}" for i in range(10)])
    return path


@pytest.fixture(scope="module")
def images() -> Images:
    found = load_data("demo", image_size=28, subset=32, val_images=10).train.images
    scaled: Images = ((found.float() / 255 - 0.3) / 0.4).numpy()
    return scaled


@pytest.fixture(scope="module")
def made(
    plain: Path, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path | Exception]:
    place = tmp_path_factory.mktemp("int8")
    few = Recipe("no-conv", static=True, operators=("MatMul",))
    return dict(quantise(plain, images, place, recipes=(*RECIPES, few)))


def in_int8(path: Path | Exception) -> set[str]:
    """Nodes that compute with int8: all that they multiply or add was dequantised."""
    assert isinstance(path, Path), path
    graph = onnx.load(path).graph
    source = {name: node for node in graph.node for name in node.output}
    return {
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Conv", "Gemm", "Add", "Softmax", "Mul")
        and all(i in source and source[i].op_type == "DequantizeLinear" for i in node.input[:2])
    }


def test_all_ways_make_a_file(made: dict[str, Path | Exception]) -> None:
    assert {name for name, path in made.items() if isinstance(path, Path)} == set(made)
    assert list(made)[:4] == [recipe.name for recipe in RECIPES]


def test_what_is_to_stay_in_float_does(made: dict[str, Path | Exception]) -> None:
    every, products, linear = (
        in_int8(made[f"static-{name}"]) for name in ("all", "products", "linear")
    )
    assert any("/Softmax" in name for name in every)
    assert any(".residual/Add" in name for name in every)
    assert not any("/Softmax" in name or ".residual" in name for name in products)
    assert any(name.startswith("stem.") for name in products)
    assert any(name.startswith("stages.0.attention.0/MatMul") for name in products)
    assert not any(name.startswith("stem.") for name in linear)
    assert not any(name.startswith("stages.0.attention.0/MatMul") for name in linear)
    assert any(".mlp.0.fc1/" in name for name in linear)
    assert not any("/Conv" in name for name in in_int8(made["no-conv"]))


def test_weights_are_bytes(plain: Path, made: dict[str, Path | Exception]) -> None:
    def bytes_of(path: Path | Exception, data_type: int) -> int:
        assert isinstance(path, Path)
        tensors = onnx.load(path).graph.initializer
        return sum(math.prod(one.dims) for one in tensors if one.data_type == data_type)

    floats = bytes_of(plain, onnx.TensorProto.FLOAT)
    for path in made.values():
        assert bytes_of(path, onnx.TensorProto.INT8) > 0.3 * floats
        assert bytes_of(path, onnx.TensorProto.FLOAT) < 0.8 * floats


def test_the_dynamic_way_leaves_convolutions_and_attention(
    made: dict[str, Path | Exception],
) -> None:
    path = made["dynamic"]
    assert isinstance(path, Path)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "MatMulInteger" in operators and "ConvInteger" not in operators
    assert operators.count("MatMul") == 4  # attention's own two, in two loops


def test_the_file_still_says_all_of_itself(plain: Path, made: dict[str, Path | Exception]) -> None:
    before = {one.key: one.value for one in onnx.load(plain).metadata_props}
    for name, path in made.items():
        assert isinstance(path, Path)
        after = {one.key: one.value for one in onnx.load(path).metadata_props}
        assert after == before | {"int8": name}


def test_files_run_and_say_nearly_the_same(
    plain: Path, made: dict[str, Path | Exception], images: Images
) -> None:
    def run(path: Path) -> Images:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found: Images = session.run(["logits"], {"images": images})[0]
        return found

    wanted = run(plain)
    for path in made.values():
        assert isinstance(path, Path)
        off = np.abs(run(path) - wanted)
        assert off.max() > 0 and off.mean() < 0.2 * np.abs(wanted).max()


def test_a_way_that_fails_is_told_and_the_others_go_on(
    plain: Path, images: Images, tmp_path: Path
) -> None:
    few = dict(quantise(plain, images[:3], tmp_path, recipes=(RECIPES[2], RECIPES[0])))
    assert "3 images to calibrate with; allowed: 16 or more" in str(few["static-products"])
    assert isinstance(few["dynamic"], Path)
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [("fpu avx2 avx512_vnni", True), ("fpu avx2 avx_vnni", True), ("fpu avx2", False), ("", True)],
)
def test_a_cpu_with_avx2_and_without_vnni_saturates(
    tmp_path: Path, flags: str, wanted: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags: {flags}\n")
    assert has_int8_products(tmp_path / "cpuinfo") is wanted
    assert has_int8_products(tmp_path / "none")
