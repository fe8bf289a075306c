"""Model folders: ``sret_nas.save`` and ``sret_nas.load``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import sret_nas
from sret_nas import Architecture
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import SReT, create_model, load_checkpoint

SMALL = Architecture.load(
    {
        "image_size": 32,
        "stem_stride": 4,
        "num_classes": 4,
        "stages": [{"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]}],
    }
)
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def out(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(IMAGE)
    return result


def test_a_folder_is_read_by_us_and_by_timm(tmp_path: Path) -> None:
    model = create_model(SMALL)
    folder = sret_nas.save(
        model, tmp_path / "models" / "x", label_names=list("abcd"),
        pretrained_cfg={"mean": (0.1, 0.2, 0.3), "crop_pct": 1.0},
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "config.json", "architecture.yaml", "preprocessing.json",
    }  # fmt: skip
    written = json.loads((folder / "config.json").read_text())
    assert written["architecture"] == "sret"
    assert written["label_names"] == list("abcd")
    assert Architecture.load(written["model_args"]["architecture"]) == SMALL
    assert Architecture.load(str(folder / "architecture.yaml")) == SMALL
    images = json.loads((folder / "preprocessing.json").read_text())
    assert images["input_size"] == [3, 32, 32]
    assert images["mean"] == [0.1, 0.2, 0.3]
    assert images["crop_pct"] == 1.0
    for again in (
        sret_nas.load(folder),
        sret_nas.load(str(folder)),
        timm.create_model(f"local-dir:{folder}", pretrained=True),
        load_checkpoint(folder / "model.safetensors"),
    ):
        assert isinstance(again, SReT)
        assert again.arch == SMALL
        assert torch.equal(out(again), out(model))
    assert tuple(timm.data.resolve_model_data_config(sret_nas.load(folder))["mean"]) == (
        0.1,
        0.2,
        0.3,
    )


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_whoever_reads_the_folder_reads_its_weights(tmp_path: Path) -> None:
    folder = sret_nas.save(create_model(SMALL), tmp_path / "x")
    (other,) = {path.stat().st_mode for path in folder.iterdir() if path.suffix != ".safetensors"}
    assert (folder / "model.safetensors").stat().st_mode == other


def test_at_another_number_of_classes_and_size(tmp_path: Path) -> None:
    sret_nas.save(create_model(SMALL), tmp_path, label_names=list("abcd"))
    model = sret_nas.load(tmp_path, num_classes=7, img_size=96, in_chans=1)
    assert model(torch.zeros(1, 1, 96, 96)).shape == (1, 7)
    assert model.pretrained_cfg["input_size"] == (1, 96, 96)
    assert not model.pretrained_cfg.get("label_names")
    sret_nas.save(model, tmp_path / "again")
    again = sret_nas.load(tmp_path / "again")
    assert again.arch == model.arch


@pytest.mark.parametrize("name", ["sret_t", "sret_t_384"])
def test_a_published_model_of_timm(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=3, img_size=32)
    sret_nas.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "sret"
    assert torch.equal(out(sret_nas.load(tmp_path)), out(model))


CHANGED: dict[str, Callable[[SReT], Any]] = {
    "channels last": lambda m: m.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "half": lambda m: m.to(torch.bfloat16),
    "another size": lambda m: m.set_input_size(48) or m,
    "another head": lambda m: m.reset_classifier(9) or m,
    "without a head": lambda m: m.reset_classifier(0) or m,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", CHANGED)
def test_models_in_every_state_are_saved(change: str, tmp_path: Path) -> None:
    model = create_model(SMALL)
    sret_nas.save(CHANGED[change](model), tmp_path)
    again = sret_nas.load(tmp_path)
    assert again.arch == model.arch
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.to(again.state_dict()[key].dtype)), key


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with torch.device("meta"):
        on_meta = create_model(SMALL)
    for model, said in (
        (nn.Linear(1, 1), "given a Linear"),
        (on_meta, "on meta"),
        (SReT(SMALL), "bare SReT"),
    ):
        with pytest.raises(UsageError, match=said):
            sret_nas.save(model, folder)
    assert not folder.exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file: not a folder to write to: File exists"):
        sret_nas.save(create_model(SMALL), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = create_model(SMALL)
    sret_nas.save(old, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(Architecture, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        sret_nas.save(create_model(SMALL), tmp_path)
    assert torch.equal(out(sret_nas.load(tmp_path)), out(old))
    assert len([*tmp_path.iterdir()]) == 5  # nothing temporary is left, and the notes are there


def broken(folder: Path, name: str, text: str | None) -> None:
    (folder / name).unlink() if text is None else (folder / name).write_text(text)


BROKEN = {
    "no config": ("config.json", None, "neither a model folder"),
    "no JSON": ("config.json", "{", "config.json"),
    "a list": ("config.json", "[]", "config.json"),
    "no name": ("config.json", "{}", "config.json"),
    "another model": ("config.json", '{"architecture": "resnet18"}', "ResNet"),
    "an unknown model": ("config.json", '{"architecture": "sret_zz"}', "Unknown model"),
    "an impossible one": (
        "config.json",
        '{"architecture": "sret", "pretrained_cfg": {}, "model_args": {"architecture": {}}}',
        "stages: required key is missing",
    ),
    "no weights": ("model.safetensors", None, "no weights"),
    "broken weights": ("model.safetensors", "x", "not a safetensors file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_one_line(kind: str, tmp_path: Path) -> None:
    sret_nas.save(create_model(SMALL), tmp_path)
    name, text, said = BROKEN[kind]
    broken(tmp_path, name, text)
    with pytest.raises(ConfigError, match=said) as caught:
        sret_nas.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither"):
        sret_nas.load(tmp_path / "gone")
