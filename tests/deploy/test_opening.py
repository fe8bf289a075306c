"""Models opened, whatever they are stored as."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf

from sret_nas.data import load_data
from sret_nas.data.embedded import CLASSES
from sret_nas.deploy.opening import Opened, Prepared, eval_views, open_model
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.model import SReT, create_model, load_checkpoint, save_checkpoint
from sret_nas.training.teacher_fit import Fit
from sret_nas.training.teacher_models import open_member

from .conftest import IMAGES, SMALL

IMAGE = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def logits(opened: Opened) -> torch.Tensor:
    found = opened(IMAGE)
    assert found.dtype == torch.float32
    return found


def test_a_folder_of_ours(folder: Path, model: SReT) -> None:
    opened = open_model(folder)
    assert (opened.name, opened.kind, opened.device) == ("small", "folder", "cpu")
    assert (opened.num_classes, opened.in_chans, opened.side) == (10, 1, 28)
    assert opened.classes == CLASSES
    assert opened.label(1) == "trouser"
    assert opened.arch == SMALL
    assert opened.preprocessing == resolve_model_data_config(
        timm.create_model(f"local-dir:{folder}")
    )
    assert opened.preprocessing["mean"] == IMAGES["mean"]
    assert not opened.notes
    with torch.no_grad():
        assert torch.equal(logits(opened), model(IMAGE))
    assert torch.equal(logits(open_model(f"local-dir:{folder}")), logits(opened))


def test_a_folder_of_timm(timm_folder: Path) -> None:
    opened = open_model(timm_folder)
    assert opened.kind == "folder"
    assert opened.arch is None
    assert opened.classes == CLASSES
    known = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    x = torch.randn(2, 3, opened.side, opened.side)
    with torch.no_grad():
        assert torch.equal(opened(x), known(x))


def test_a_checkpoint_says_its_classes_itself(tmp_path: Path) -> None:
    """A head of other classes than the architecture's is the checkpoint's, not a fresh one."""
    model = create_model(SMALL, num_classes=7, in_chans=3).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    SMALL.save(tmp_path / "small.yaml")
    with pytest.raises(UsageError, match=r"c\.pth: does not say its architecture") as refused:
        open_model(tmp_path / "c.pth")
    assert "--arch" in str(refused.value.hint)
    opened = open_model(tmp_path / "c.pth", arch=str(tmp_path / "small.yaml"))
    assert (opened.kind, opened.num_classes, opened.in_chans) == ("checkpoint", 7, 3)
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(opened(x), model(x))
    assert opened.classes is None
    assert opened.label(3) == "class 3"
    assert "preprocessing is not said" in opened.notes[0]
    save_checkpoint(model, tmp_path / "c.safetensors")
    assert torch.equal(open_model(tmp_path / "c.safetensors")(x), opened(x))


def test_an_official_checkpoint_knows_imagenet(
    tmp_path: Path, fill: Any, golden_cases: Any
) -> None:
    case = golden_cases["sret_t"]
    state = {}
    for key, shape in case["state_dict"].items():
        parts = key.split(".")
        if parts[0] == "transformers" and int(parts[3]) % 4 == 2:  # the same block once more
            parts[3] = str(int(parts[3]) - 2)
        state[key] = torch.from_numpy(fill.value(".".join(parts), tuple(shape)))
    torch.save(state, tmp_path / "official.pth")
    opened = open_model(tmp_path / "official.pth", arch="sret_t")
    assert opened.label(281).startswith("tabby")
    assert opened.classes and opened.classes[0] == "n01440764"
    assert not opened.notes
    x = torch.from_numpy(fill.image(1, 3, 224))
    with torch.no_grad():
        known = load_checkpoint(tmp_path / "official.pth", "sret_t").eval()(x)
    assert torch.equal(opened(x), known)


def test_a_model_of_timm_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model("test_resnet")
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: made)
    opened = open_model("test_resnet")
    assert (opened.kind, opened.name, opened.num_classes) == ("timm", "test_resnet", 1000)
    assert opened.label(281).startswith("tabby")
    monkeypatch.setattr(timm, "create_model", real)


def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("cannot find\nthe files")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no)
    with pytest.raises(SretNasError, match="weights cannot be fetched: cannot find the files"):
        open_model("resnet18")


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("resnet118", "did you mean 'resnet18'", "model folder"),
        ("sret_t", "No pretrained weights exist for sret_t", "--arch sret_t"),
        ("runs/x#3", "an architecture, which has no weights", "sret-nas train runs/x#3"),
        ("a.yaml", "an architecture, which has no weights", "sret-nas train a.yaml"),
        ("nowhere/x.onnx", "no such file", "model folder"),
        ("a\0b", "no such file|not a path", None),
        ("x" * 5000, "too long", None),
        ("", "holds|neither", None),
    ],
)
def test_what_is_no_model_is_refused(name: str, said: str, hint: str | None) -> None:
    with pytest.raises((UsageError, ConfigError), match=said) as refused:
        open_model(name)
    assert hint is None or hint in str(refused.value.hint)


def test_another_number_of_classes_is_refused(folder: Path) -> None:
    assert open_model(folder, classes=10).num_classes == 10
    with pytest.raises(UsageError, match="10 classes, the data 7") as refused:
        open_model(folder, classes=7)
    assert "sret-nas train" in str(refused.value.hint)


def test_an_architecture_beside_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="says its architecture itself"):
        open_model(folder, arch="sret_t")


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_folder_is_executed(folder: Path, timm_folder: Path, tmp_path: Path) -> None:
    for name, source in (("a", folder), ("b", timm_folder)):
        place = Path(shutil.copytree(source, tmp_path / name))
        (place / "model.safetensors").unlink()
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ConfigError):
            open_model(place)
        torch.save(Bomb(), place / "pytorch_model.bin")
        with pytest.raises(ConfigError):
            open_model(place)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"architecture": "resnet118"}'),
        ("config.json", b'{"architecture": "test_resnet", "model_args": {"zz": 1}}'),
        ("config.json", b"\xff\xfe"),
        ("model.safetensors", b""),
        ("model.safetensors", b"junk" * 100),
    ],
)
def test_a_broken_folder_is_named(
    file: str, content: bytes, timm_folder: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(timm_folder, tmp_path / "x"))
    (place / file).write_bytes(content)
    with pytest.raises(ConfigError, match="x"):
        open_model(place)


def test_without_a_head_there_is_nothing_to_ask(tmp_path: Path) -> None:
    save_for_hf(timm.create_model("test_resnet", num_classes=0), tmp_path, safe_serialization=True)
    with pytest.raises(UsageError, match="no head"):
        open_model(tmp_path)


@pytest.mark.parametrize("names", [5, "abc", [None, [1], {}], [["a"]], {"0": {}}])
def test_classes_without_names_are_refused(folder: Path, tmp_path: Path, names: Any) -> None:
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"label_names": names}))
    with pytest.raises(ConfigError, match=r"m: label_names: given .*; allowed: a list of names"):
        open_model(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"label_names: given .*; allowed: a list of names"):
        open_member(str(tmp_path / "m"), Fit(10, 28, 1))


def test_numbers_serve_as_names_of_classes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    changed = config | {"label_names": list(range(10, 20))}
    (tmp_path / "m" / "config.json").write_text(json.dumps(changed))
    assert open_model(tmp_path / "m").classes == tuple(map(str, range(10, 20)))


# --- preprocessing ----------------------------------------------------------------------------


def test_preprocessing_can_be_changed(folder: Path) -> None:
    opened = open_model(folder, preprocessing={"mean": (0.5,), "crop_pct": 0.5, "std": None})
    assert opened.preprocessing["mean"] == (0.5,)
    assert opened.preprocessing["std"] == (0.4,)
    assert opened.preprocessing["crop_pct"] == 0.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "given 3 numbers; allowed: 1"),
        ({"std": (0.0,)}, "more than 0"),
        ({"std": ("x",)}, "one number a channel"),
        ({"interpolation": "cubic"}, "bilinear"),
        ({"crop_pct": 1.5}, "up to 1"),
        ({"crop_pct": 1e-9}, "0.05 up to 1"),
        ({"std": (1e-300,)}, "more than 0"),
        ({"mean": (10**400,)}, "one number a channel"),
        ({"crop_pct": True}, "up to 1"),
        ({"crop_mode": "left"}, "center"),
        ({"side": 3}, "unknown key 'side'"),
    ],
)
def test_impossible_preprocessing_is_refused(
    changed: dict[str, Any], said: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_model(folder, preprocessing=changed)


def test_views_are_those_of_timm(folder: Path, timm_folder: Path) -> None:
    """Grey images become colour for a model of colour, as timm's own reader makes them."""
    split = load_data("demo", image_size=28, subset=20).train
    assert split.items is not None
    for place, mode in ((folder, "L"), (timm_folder, "RGB")):
        opened = open_model(place)
        transform = create_transform(**opened.preprocessing, is_training=False)
        image, label = eval_views(opened, split)[2]
        picture = split.items.picture(int(split.indices[2]))
        assert torch.equal(image, transform(picture.convert(mode)))
        assert image.shape == (opened.in_chans, opened.side, opened.side)
        assert label == split.items.labels[split.indices[2]]
    assert pickle.loads(pickle.dumps(Prepared(opened.preprocessing))).mode == "RGB"


def test_colour_becomes_grey_where_the_model_is_grey(folder: Path) -> None:
    prepared = Prepared(open_model(folder).preprocessing)
    assert prepared(Image.new("RGB", (40, 30), (255, 0, 0))).shape == (1, 28, 28)


def test_metadata_is_json(folder: Path) -> None:
    assert json.loads(json.dumps(open_model(folder).preprocessing))["input_size"] == [1, 28, 28]
