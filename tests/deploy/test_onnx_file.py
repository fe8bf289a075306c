"""ONNX files opened: ours by what they say of themselves, others' by their shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sret_nas.deploy.opening import open_model
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import load
from sret_nas.model.onnx import write_onnx

from .conftest import SMALL

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
ABOUT = {
    "classes": json.dumps(list("abcd")), "mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.5, 0.5]",
    "interpolation": '"bilinear"', "crop_pct": "1.0", "input_size": "[3, 16, 16]",
    "architecture": SMALL.to_json(),
}  # fmt: skip


def write(
    path: Path,
    shape: tuple[Any, ...] = ("B", 3, "S", "S"),
    about: dict[str, str] | None = None,
    tail: str | None = None,
    kind: str = "FLOAT",
    outputs: int = 1,
) -> Path:
    """A file that averages each channel and mixes the means into four classes."""
    helper, of = onnx.helper, getattr(onnx.TensorProto, kind)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Gemm", ["means", "w"], ["mixed"], transB=1),
        helper.make_node(tail or "Identity", ["mixed"], ["y"]),
    ]
    weight = WEIGHT.astype(np.float16 if kind == "FLOAT16" else np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", of, shape)],
        [helper.make_tensor_value_info(name, of, None) for name in ("y", "mixed")[:outputs]],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, about or {})
    onnx.save(model, path)
    return path


IMAGE = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
KNOWN = IMAGE.mean((2, 3)) @ torch.from_numpy(WEIGHT).T


def test_a_file_that_says_what_it_is(tmp_path: Path) -> None:
    opened = open_model(write(tmp_path / "m.onnx", about=ABOUT))
    assert (opened.kind, opened.name, opened.num_classes) == ("onnx", "m.onnx", 4)
    assert opened.classes == tuple("abcd")
    assert opened.arch == SMALL
    assert opened.module is None
    assert opened.preprocessing == {
        "input_size": (3, 16, 16), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center",
    }  # fmt: skip
    assert not opened.notes
    torch.testing.assert_close(opened(IMAGE), KNOWN)


def test_a_file_of_others_is_opened_by_its_shape(tmp_path: Path) -> None:
    opened = open_model(write(tmp_path / "m.onnx", ("B", 3, 16, 16)))
    assert (opened.side, opened.in_chans, opened.classes) == (16, 3, None)
    assert opened.preprocessing["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert "ImageNet's mean" in opened.notes[0]
    changed = {"mean": (0.5,), "std": (0.5,)}
    told = open_model(tmp_path / "m.onnx", preprocessing=changed)
    assert told.preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert not told.notes
    assert open_model(write(tmp_path / "any.onnx")).side == 224


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    opened = open_model(write(tmp_path / "m.onnx", (2, 3, 16, 16)))
    torch.testing.assert_close(opened(IMAGE), KNOWN)


def test_half_precision(tmp_path: Path) -> None:
    opened = open_model(write(tmp_path / "m.onnx", kind="FLOAT16"))
    assert opened(IMAGE).dtype == torch.float32
    torch.testing.assert_close(opened(IMAGE), KNOWN, atol=1e-2, rtol=1e-2)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    opened = open_model(write(tmp_path / "m.onnx", tail="Softmax"))
    assert "probabilities" in opened.notes[0]
    torch.testing.assert_close(opened(IMAGE).softmax(1), KNOWN.softmax(1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": ("B", "S", "S", 3)}, "GlobalAveragePool|channels"),
        ({"shape": (1, 16, 16, 3)}, "not an ONNX file that runs|1 or 3 channels"),
        ({"shape": ("B", 3, 16, 24)}, "side, side"),
        ({"shape": ("B", 3)}, "not an ONNX file that runs|floats"),
        ({"outputs": 2}, "1 inputs and 2 outputs"),
        ({"about": ABOUT | {"mean": "[1]x"}}, "says of itself: mean"),
        ({"about": ABOUT | {"classes": '["a"]'}}, "a list of 4 names"),
        ({"about": ABOUT | {"architecture": "{}"}}, "says of itself"),
        ({"about": ABOUT | {"architecture": '"/etc/hostname"'}}, "given a str; allowed: a mapping"),
        ({"about": ABOUT | {"crop_pct": '"x"'}}, "crop_pct"),
    ],
)
def test_what_is_no_classifier_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, UsageError), match=said):
        open_model(write(tmp_path / "m.onnx", **changes))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08" * 100])
def test_no_onnx_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.onnx: not an ONNX file that runs here"):
        open_model(tmp_path / "m.onnx")


def test_a_file_of_ours_is_the_folder_it_was_made_from(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    write_onnx(load(folder), tmp_path / "m.onnx", side=28, in_chans=1)
    opened, known = open_model(tmp_path / "m.onnx"), open_model(folder)
    assert opened.preprocessing == known.preprocessing
    assert (opened.classes, opened.arch) == (known.classes, known.arch)
    assert not opened.notes
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(opened(x), known(x), atol=1e-4, rtol=1e-4)


def test_its_type_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an ONNX file has its own"):
        open_model(write(tmp_path / "m.onnx"), dtype="bf16")


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="needs onnxruntime") as refused:
        open_model(write(tmp_path / "m.onnx"))
    assert 'sret_nas[onnx]"' in str(refused.value.hint)
