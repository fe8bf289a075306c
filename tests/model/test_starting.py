"""Where a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from sret_nas import Architecture, convert_official_state_dict
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import create_model, initialise, save, save_checkpoint
from sret_nas.model.starting import open_relative, start_from

TINY: dict[str, Any] = {
    "image_size": 16,
    "stem_stride": 4,
    "num_classes": 3,
    "stages": [{"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]}],
}
SAME = "same function: yes"


def tiny(**changes: Any) -> Architecture:
    data = {**TINY, "stages": [{**TINY["stages"][0]}]}
    for key, value in changes.items():
        (data if key in ("image_size", "num_classes", "in_chans") else data["stages"][0])[key] = (
            value
        )
    return Architecture.load(data)


def same_outputs(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.allclose(one.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored", ["folder", "safetensors", "pth", "wrapped"])
def test_from_a_relative_whatever_it_is_stored_as(stored: str, tmp_path: Path) -> None:
    source = create_model(tiny())
    path = tmp_path / {"folder": "model", "safetensors": "a.safetensors"}.get(stored, "a.pth")
    if stored == "folder":
        save(source, path)
    elif stored == "safetensors":
        save_checkpoint(source, path)
    elif stored == "pth":
        torch.save(source.state_dict(), path)
    else:
        torch.save({"epoch": 3, "model": source.state_dict()}, path)
    plain = stored in ("pth", "wrapped")  # such a file does not say its architecture
    model = create_model(tiny() if plain else tiny(share="none", mlp_ratio=5.0))
    said = initialise(model, path)
    assert said.startswith(f"{path}: ")
    assert said.endswith(SAME)
    assert same_outputs(source, model)


def test_what_was_left_behind_is_said(tmp_path: Path) -> None:
    save(create_model(tiny()), tmp_path)
    first, *notes = initialise(create_model(tiny(num_classes=5, blocks=1)), tmp_path).split("\n")
    assert "parameters taken over; same function: no" in first
    assert notes == [
        "  stage 1: keeps 2 of the source's 4 block applications",
        "  5 classes instead of 3: the head is fresh",
    ]


def test_a_head_of_other_classes_is_left_fresh(tmp_path: Path) -> None:
    save(create_model(tiny()), tmp_path, label_names=["ant", "bee", "cat"])
    for classes, kept in (
        (["ant", "bee", "cat"], True),
        (["ant", "bee", "dog"], False),
        (["bee", "ant", "cat"], False),
        (None, True),
    ):
        model = create_model(tiny())
        before = model.head.weight.detach().clone()
        found = start_from(model, tmp_path, classes=classes)
        assert found.exact == kept
        assert torch.equal(model.head.weight, before) != kept


def test_another_size_of_what_does_not_say_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    source = create_model(tiny(image_size=32, num_classes=7, in_chans=1))
    torch.save(source.state_dict(), path)
    found = start_from(create_model(tiny()), path)
    assert found.notes == (
        "in_chans 3 instead of 1: the first convolution is adapted",
        "images of 16 px instead of 32: the position embedding is resampled",
        "3 classes instead of 7: the head is fresh",
    )
    assert found.fresh == 3 * (8 + 1)


def test_the_moving_average_is_taken_unless_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    plain, average = create_model(tiny()), create_model(tiny())
    torch.save({"state_dict": plain.state_dict(), "model_ema": average.state_dict()}, path)
    for use_ema, expected in ((True, average), (False, plain)):
        model = create_model(tiny())
        initialise(model, path, use_ema=use_ema)
        assert torch.equal(model.pos_embed, expected.pos_embed)


def test_an_official_checkpoint(tmp_path: Path, official: dict[str, Tensor]) -> None:
    path = tmp_path / "SReT_T.pth"
    torch.save({"model": official}, path)
    expected = convert_official_state_dict(official)
    for arch, options, exact in (
        ("sret_t", {}, True),
        ("sret_t", {"num_classes": 10, "img_size": 96}, False),
        ("sret_lt", {}, True),  # 4 instead of 3.6 hidden channels: a relative
    ):
        model = create_model(arch, **options)
        found = start_from(model, path)
        assert found.exact == exact, found.notes
        assert torch.equal(model.norm.weight, expected["norm.weight"])
    # Of the published architectures with these weights, the one that slices as the target.
    for target in ("sret_lt", "sret_lt_wo_slice"):
        arch = Architecture.load(target)
        assert open_relative(path, arch).arch.stages[0].groups == arch.stages[0].groups


BROKEN = {
    "nothing": ("no such model folder or checkpoint", "sret-nas train"),
    "model.onnx": ("cannot be trained further", "exported from"),
    "empty": ("neither a model folder", "sret_nas.save"),
    "other.pth": ("neither the model's nor a published one: no weights of an SReT", "save_check"),
    "shapes.pth": ("neither the model's nor a published one: the checkpoint does not", "store"),
    "text.pth": ("checkpoint that loads without running code: it is none, or", "state_dict"),
    "arch.pth": ("checkpoint that loads without running code: it is none, or", "state_dict"),
    "nil.pth": ("checkpoint that loads without running code: it is none, or", "state_dict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_started_from_is_refused_with_the_next_step(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name in ("model.onnx", "text.pth"):
        path.write_bytes(b"hello")
    elif name in ("arch.pth", "nil.pth"):
        path.write_bytes(b'{"schema": 1}' if name == "arch.pth" else b"")
    elif name == "other.pth":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif name == "shapes.pth":
        torch.save(create_model(tiny(blocks=3)).state_dict(), path)
    said, next_step = BROKEN[name]
    model = create_model(tiny())
    before = model.pos_embed.detach().clone()
    with pytest.raises(ConfigError, match=said) as caught:
        initialise(model, path)
    assert str(caught.value).startswith(f"{path}")
    assert next_step in (caught.value.hint or "")
    assert torch.equal(model.pos_embed, before)


def test_models_of_others_are_refused(tmp_path: Path) -> None:
    save(create_model(tiny()), tmp_path)
    with pytest.raises(UsageError, match="given a ResNet; allowed: an SReT model"):
        initialise(timm.create_model("resnet10t"), tmp_path)
