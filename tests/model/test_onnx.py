"""A model as an ONNX file: the same logits in ONNX Runtime, and all that is needed in one file."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import sret_nas
from sret_nas.data import load_data
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.model import SReT
from sret_nas.model.frozen import frozen
from sret_nas.model.onnx import write_onnx

SLICED: dict[str, Any] = {
    "image_size": 28,
    "in_chans": 1,
    "num_classes": 10,
    "stem_stride": 2,
    "stages": [
        {"heads": 2, "head_dim": 8, "blocks": 1, "recursions": 2, "groups": [7, 4]},
        {"heads": 4, "head_dim": 8, "blocks": 1, "recursions": 2, "groups": [1, 1]},
    ],
}
"""Slices in two ways and a permutation between them, on images of the demo's size."""
CLASSES = [f"class {i}" for i in range(10)]
Logits = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def model() -> SReT:
    torch.manual_seed(0)
    found = sret_nas.create_model(
        SLICED,
        pretrained_cfg_overlay={
            "mean": (0.286,),
            "std": (0.353,),
            "label_names": CLASSES,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
    )
    with torch.no_grad():  # weights of some size, so that logits of images differ
        for parameter in found.parameters():
            noise = torch.randn_like(parameter) * 0.1
            parameter.mul_(2 if parameter.ndim > 1 else 1).add_(noise)
    return found.eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Images of the demo as its models see them."""
    data = load_data(image_size=28, subset=10, val_images=32)
    images, _ = next(data.val.batches(32, torch.device("cpu")))
    return (images.float() / 255 - 0.286) / 0.353


@pytest.fixture(scope="module")
def file(model: SReT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(model, path, side=28, in_chans=1)
    return path


def run(path: Path, images_BCSS: Tensor) -> Logits:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits: Logits = session.run(["logits"], {"images": images_BCSS.numpy()})[0]
    return logits


@torch.no_grad()
def expected(model: nn.Module, images_BCSS: Tensor) -> Logits:
    logits: Logits = model(images_BCSS).numpy()
    return logits


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_onnx_runtime_says_the_same_of_any_number_of_images(
    model: SReT, file: Path, pictures: Tensor, batch: int
) -> None:
    some = pictures[:batch]
    wanted = expected(model, some)
    np.testing.assert_allclose(run(file, some), wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1


def test_images_differ_so_that_equal_logits_mean_something(model: SReT, pictures: Tensor) -> None:
    assert len(set(expected(model, pictures).argmax(1).tolist())) > 1


def test_the_file_says_all_that_its_use_needs(model: SReT, file: Path) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    assert found.pop("name") == "sret"
    said = {key: json.loads(value) for key, value in found.items()}
    assert sret_nas.Architecture.load(said.pop("architecture")) == model.arch
    assert said == {
        "classes": CLASSES,
        "input_size": [1, 28, 28],
        "mean": [0.286],
        "std": [0.353],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }


def test_nodes_are_named_by_their_modules_and_no_path_of_this_machine_is_in_it(
    model: SReT, file: Path
) -> None:
    graph = onnx.load(file).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    modules = {name.rpartition("/")[0] for name in names}
    assert {"stages.0.mlp.0.fc1", "stages.1.attention.0.residual", "head"} <= (modules)
    assert modules - {""} <= {name for name, _ in model.named_modules()}
    assert str(Path(sret_nas.__file__).parent.parent).encode() not in file.read_bytes()


def test_a_shared_weight_is_stored_once_and_as_it_is_multiplied(model: SReT, file: Path) -> None:
    graph = onnx.load(file).graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == 1]
    stored = sum(math.prod(tensor.dims) for tensor in floats)
    assert stored <= sum(parameter.numel() for parameter in model.parameters())
    weights = {tensor.name for tensor in floats}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert sum(node.input[1] in weights for node in products) == 24  # 6 in each of 4 loops
    assert len({node.input[1] for node in products} & weights) == 16  # 2 stages: 4 + 2 · 2


def test_another_size_and_half_precision_and_the_model_stays_as_it_was(
    model: SReT, pictures: Tensor, tmp_path: Path, file: Path
) -> None:
    path = tmp_path / "half.onnx"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    write_onnx(model, path, side=56, in_chans=1, dtype="fp16", dynamic_batch=False, batch=4)
    assert model.training and model.arch.image_size == 28
    model.eval()
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    large = nn.functional.interpolate(pictures[:4], size=56)
    other = sret_nas.create_model(model.arch)
    other.load_state_dict(model.state_dict())
    other.eval().set_input_size(56)
    wanted = expected(other, large)
    found = run(path, large)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    assert not np.array_equal(found, wanted)
    assert path.stat().st_size < file.stat().st_size
    with pytest.raises(Exception, match="Got: 3 Expected: 4"):
        run(path, large[:3])


def test_a_timm_model(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=4, in_chans=1, img_size=32).eval()
    write_onnx(net, tmp_path / "vit.onnx", side=32, in_chans=1, opset=18, classes=list("abcd"))
    x_BCSS = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(run(tmp_path / "vit.onnx", x_BCSS), expected(net, x_BCSS), atol=1e-5)
    stored = onnx.load(tmp_path / "vit.onnx")
    about = {entry.key: entry.value for entry in stored.metadata_props}
    assert [one.version for one in stored.opset_import if not one.domain] == [18]
    assert about["name"] == "test_vit" and "architecture" not in about
    assert json.loads(about["classes"]) == list("abcd")
    assert len(json.loads(about["mean"])) == 1


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.mean(dim=(2, 3))
        return x.amax(dim=(2, 3))


@pytest.mark.parametrize(
    ("change", "options", "error", "message", "hint"),
    [
        ({"permute": "random"}, {}, ConfigError, "permute: random draws", "permute: fixed"),
        ({}, {"opset": 12}, UsageError, "opset: given 12; allowed: 18 to 23", None),
        ({}, {"batch": 0}, UsageError, "batch: given 0", None),
        ({}, {"side": 1}, ConfigError, "an image of 1 px", None),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_and_leaves_nothing(
    tmp_path: Path,
    change: dict[str, Any],
    options: dict[str, Any],
    error: type[SretNasError],
    message: str,
    hint: str | None,
) -> None:
    net = sret_nas.create_model(SLICED | change)
    with pytest.raises(error, match=message) as caught:
        write_onnx(net, tmp_path / "a.onnx", **{"side": 28, "in_chans": 1} | options)
    assert len(str(caught.value).splitlines()) == 1
    assert hint is None or hint in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_random_orders_that_nothing_draws_are_no_obstacle() -> None:
    stages = [stage | {"groups": [1, 1]} for stage in SLICED["stages"]]
    net = sret_nas.create_model(SLICED | {"permute": "random", "stages": stages})
    assert isinstance(frozen(net, 28), SReT)


def test_a_model_that_the_exporter_refuses(tmp_path: Path) -> None:
    with pytest.raises(SretNasError, match="Untraceable: cannot be exported to ONNX: ") as caught:
        write_onnx(Untraceable(), tmp_path / "a.onnx", side=8, in_chans=1)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_where_writing_fails(
    model: SReT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"earlier")

    def fail(proto: object, draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(draft))

    monkeypatch.setattr(onnx, "save_model", fail)
    with pytest.raises(OSError, match="No space left"):
        write_onnx(model, path, side=28, in_chans=1)
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_bytes() == b"earlier"


def test_the_extra_is_named_where_a_package_is_missing(
    model: SReT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match="'onnxscript' is not installed") as caught:
        write_onnx(model, tmp_path / "a.onnx", side=28, in_chans=1)
    assert caught.value.hint == 'pip install "sret_nas[onnx]"'
