"""Weights in and out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from sret_nas import Architecture, convert_official_state_dict
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import create_model, load_checkpoint, save_checkpoint

SMALL = Architecture.load(
    {
        "image_size": 16,
        "stem_stride": 4,
        "num_classes": 4,
        "stages": [{"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]}],
    }
)


def test_a_published_checkpoint_has_510_keys_and_loads(official: dict[str, Tensor]) -> None:
    assert len(official) == 510
    for wrapped in (official, {"model": official}, {f"module.{k}": v for k, v in official.items()}):
        state = convert_official_state_dict(wrapped)
        create_model("sret_t").load_state_dict(state)  # strict
        create_model("sret_t_wo_slice").load_state_dict(state)  # the same weights, other slices


def test_the_converted_state_is_a_copy(official: dict[str, Tensor]) -> None:
    state = convert_official_state_dict(official)
    before = official["head.bias"].clone()
    state["head.bias"].zero_()
    assert torch.equal(official["head.bias"], before)


def damaged(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key] + 1


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: s.pop("pools.0.conv.bias"), "1 missing: pools.0.conv.bias"),
    "missing block": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("transformers.1.blocks.18.")],
        "missing: transformers.1.blocks.18.norm1.weight",
    ),
    "unexpected": (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
    "shape": (
        lambda s: s.update({"norm.weight": torch.zeros(3)}),
        r"norm.weight \(3,\) instead of \(256,\)",
    ),
    "alias": (
        lambda s: damaged(s, "transformers.0.blocks.2.attn.qkv.weight"),
        "block is shared: transformers.0.blocks.2.attn.qkv.weight",
    ),
    "foreign": (lambda s: s.pop("pos_embed"), "not an official SReT checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_match_is_refused_with_its_keys(
    damage: str, official: dict[str, Tensor]
) -> None:
    act, said = DAMAGE[damage]
    act(official)
    with pytest.raises(ConfigError, match=said):
        convert_official_state_dict(official)


def test_another_architecture_is_refused(official: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="instead of"):
        convert_official_state_dict(official, Architecture.load("sret_s"))
    unshared = Architecture.load("sret_t").to_dict()
    unshared["stages"][0] |= {"blocks": 4, "recursions": 1, "groups": [1]}
    state = convert_official_state_dict(official, Architecture.load(unshared))
    create_model(Architecture.load(unshared)).load_state_dict(state)  # aliases become weights
    without = Architecture.load("sret_t").to_dict()
    without["stages"][0] |= {"nll_ratio": 0.0}
    with pytest.raises(ConfigError, match="NLL"):
        convert_official_state_dict(official, Architecture.load(without))


def test_positions_are_resampled_for_another_image_size(official: dict[str, Tensor]) -> None:
    arch = Architecture.load("sret_t_384")
    state = convert_official_state_dict(official, arch)
    assert state["pos_embed"].shape == (1, 64, 48, 48)
    create_model(arch).load_state_dict(state)
    smooth = torch.linspace(0, 1, 28).expand(1, 64, 28, 28).clone()
    resampled = convert_official_state_dict(official | {"pos_embed": smooth}, arch)["pos_embed"]
    assert resampled.diff(dim=-1).ge(-1e-4).all()  # a ramp stays a ramp
    assert resampled.diff(dim=-2).abs().max() < 1e-4
    same = convert_official_state_dict(official, Architecture.load("sret_t"))["pos_embed"]
    assert torch.equal(same, official["pos_embed"])


def test_timm_loads_an_official_file(tmp_path: Path, official: dict[str, Tensor]) -> None:
    path = tmp_path / "SReT_T.pth"
    torch.save({"model": official}, path)
    model = timm.create_model(
        "sret_t", pretrained=True, num_classes=10, pretrained_cfg_overlay={"file": str(path)}
    )
    expected = convert_official_state_dict(official)
    assert torch.equal(model.state_dict()["norm.weight"], expected["norm.weight"])
    assert model.head.out_features == 10
    assert load_checkpoint(path, Architecture.load("sret_t")).head.out_features == 1000
    with pytest.raises(UsageError, match="does not say its architecture"):
        load_checkpoint(path)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    model = create_model(SMALL).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    again = load_checkpoint(path).eval()
    assert again.arch == model.arch
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(image), model(image))
    stored = sum(p.numel() for p in model.parameters()) * 4
    assert path.stat().st_size < stored * 1.5 + 20_000  # shared weights are stored once


def test_no_code_runs_when_a_file_is_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ConfigError, match="without running code"):
        load_checkpoint(path, SMALL)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["gone.pth", "text.safetensors", "text.pth"])
def test_what_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    if not name.startswith("gone"):
        (tmp_path / name).write_text("not weights")
    with pytest.raises(ConfigError, match=name):
        load_checkpoint(tmp_path / name, SMALL)


def test_nothing_of_the_published_code_is_needed() -> None:
    assert importlib.util.find_spec("SReT") is None
