"""A model of ours as timm sees it: what it says of itself, sizes, layers, modes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

import sret_nas
from sret_nas import Architecture
from sret_nas.errors import ArchitectureError, UsageError
from sret_nas.model import SReT, create_model

SMALL = Architecture.load(
    {
        "image_size": 48,
        "stem_stride": 4,
        "num_classes": 7,
        "stages": [
            {"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]},
            {"heads": 4, "head_dim": 4, "recursions": 3, "groups": [1, 4, 2], "order": "cyclic"},
        ],
    }
)


def config(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return found


def image(size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_a_model_says_what_images_it_takes() -> None:
    assert config(create_model(SMALL)) == {
        "input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.9,
        "crop_mode": "center", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
    }  # fmt: skip
    grey = create_model(SMALL, in_chans=1, img_size=64, num_classes=3)
    assert config(grey)["input_size"] == (1, 64, 64)
    assert config(grey)["mean"] == (sum(IMAGENET_DEFAULT_MEAN) / 3,)
    assert grey.pretrained_cfg["num_classes"] == 3
    assert grey.pretrained_cfg["pool_size"] == (8, 8)
    own = create_model(SMALL, pretrained_cfg_overlay={"mean": (0.5,) * 3, "crop_pct": 1.0})
    assert config(own)["mean"] == (0.5, 0.5, 0.5)
    assert config(own)["crop_pct"] == 1.0
    assert config(timm.create_model("sret_t", img_size=64))["input_size"] == (3, 64, 64)


def test_it_says_so_after_a_change_too() -> None:
    model = create_model(SMALL, pretrained_cfg_overlay={"label_names": tuple("abcdefg")})
    model.set_input_size(64)
    assert config(model)["input_size"] == (3, 64, 64)
    assert model.pretrained_cfg["label_names"] == tuple("abcdefg")
    model.reset_classifier(3)
    assert model.pretrained_cfg["num_classes"] == 3
    assert "label_names" not in model.pretrained_cfg
    assert model.default_cfg is model.pretrained_cfg


def test_timm_builds_any_architecture(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "mine.yaml")
    for architecture in (SMALL, SMALL.to_dict(), str(tmp_path / "mine.yaml"), "sret_t"):
        model = timm.create_model("sret", architecture=architecture)
        assert isinstance(model, SReT)
        assert model.arch == Architecture.load(architecture)
        assert model.pretrained_cfg["architecture"] == "sret"
    other = timm.create_model("sret", architecture=SMALL, num_classes=3, in_chans=1, img_size=64)
    assert other.arch == SMALL.at(num_classes=3, in_chans=1, image_size=64)
    with pytest.raises(UsageError, match="no architecture given"):
        timm.create_model("sret")
    with pytest.raises(ArchitectureError, match="neither a preset nor a file"):
        timm.create_model("sret", architecture="sret_x")


def test_another_input_size() -> None:
    model = create_model(SMALL, drop_path_rate=0.0).eval()
    before = model(image(48))
    for size in (64, 40, 96):
        model.set_input_size((size, size))
        assert model.arch == SMALL.at(image_size=size)
        fresh = create_model(SMALL, img_size=size).eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(model(image(size)), fresh(image(size)))
    model.set_input_size()
    assert model.arch.image_size == 96
    model.set_input_size(48)
    assert model.arch == SMALL  # the slices of the design are back
    assert model(image(48)).shape == before.shape
    frozen = create_model(SMALL)
    frozen.pos_embed.requires_grad_(False)
    frozen.set_input_size(64)
    assert not frozen.pos_embed.requires_grad


@pytest.mark.parametrize("size", [0, -3, 3, 4097, (48, 64)])
def test_an_impossible_input_size_changes_nothing(size: Any) -> None:
    model = create_model(SMALL).eval()
    expected = model(image(48))
    with pytest.raises(sret_nas.SretNasError):
        model.set_input_size(size)
    assert model.arch == SMALL
    assert torch.equal(model(image(48)), expected)


def layers(model: SReT, coarse: bool = False) -> dict[str, int]:
    found: dict[str, int] = timm.models.group_parameters(
        model, model.group_matcher(coarse=coarse), reverse=True
    )
    return found


def test_a_layer_is_a_block_application() -> None:
    model = create_model(SMALL)
    layer = layers(model)
    assert set(layer) == {name for name, _ in model.named_parameters()}
    assert layer["stem.0.weight"] == layer["pos_embed"] == 0
    assert [layer[f"stages.0.nll.{i}.fc1.weight"] for i in range(4)] == [1, 2, 3, 4]
    assert [layer[f"stages.1.nll.{i}.fc1.weight"] for i in range(3)] == [5, 6, 7]
    # A A B B: what loops share belongs to the first of them.
    assert layer["stages.0.attention.0.qkv.weight"] == layer["stages.0.mlp.0.fc2.bias"] == 1
    assert layer["stages.0.attention.1.qkv.weight"] == layer["stages.0.mlp.1.norm.weight"] == 3
    assert layer["pools.0.weight"] == layer["stages.1.attention.0.residual.skip"] == 5
    assert layer["norm.weight"] == 7
    assert layer["head.weight"] == 8
    coarse = layers(model, coarse=True)
    assert sorted(set(coarse.values())) == [0, 1, 2, 3]
    assert coarse["pools.0.weight"] == coarse["stages.1.mlp.0.fc1.weight"] == 2


def test_layers_of_other_schedules() -> None:
    data = SMALL.to_dict()
    data["stages"][0] |= {"order": "cyclic", "share": "mlp", "nll_ratio": 0.0}
    layer = layers(create_model(Architecture.load(data)))
    # A B A B: the MLPs are those of the first two, every attention is its own.
    assert [layer[f"stages.0.attention.{i}.qkv.weight"] for i in range(4)] == [1, 2, 3, 4]
    assert [layer[f"stages.0.mlp.{i}.fc1.weight"] for i in range(2)] == [1, 2]
    assert layer["pools.0.weight"] == 5


@pytest.mark.parametrize("mode", ["fixed", "random", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_fx_and_script_compute_the_same_in_every_mode(mode: str, training: bool) -> None:
    arch = Architecture.load(SMALL.to_dict() | {"permute": mode})
    model = create_model(arch, drop_path_rate=0.3, proj_drop_rate=0.1, attn_drop_rate=0.1)
    model.train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = (torch.fx.symbolic_trace(model), torch.jit.script(model))
    for other in made:
        results = []
        for call in (model, other):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                results.append(call(image(48)))
        assert torch.equal(*results)


def test_fx_graphs_serve_other_batches_and_moves() -> None:
    model = create_model(SMALL).eval()
    traced = torch.fx.symbolic_trace(model)
    for size in (1, 3):
        batch = image(48)[:1].expand(size, -1, -1, -1)
        assert torch.equal(traced(batch), model(batch))
    assert dict(traced.named_buffers()).keys() >= {"stages.0.permutations"}
    traced.load_state_dict(create_model(SMALL).state_dict())


def test_a_model_on_meta_takes_weights_from_a_file(tmp_path: Path) -> None:
    usual = create_model(SMALL).eval()
    torch.save(usual.state_dict(), tmp_path / "w.pth")
    with torch.device("meta"):
        model = create_model(SMALL).eval()
    model.load_pretrained(tmp_path / "w.pth")
    assert torch.equal(model(image(48)), usual(image(48)))
    other = create_model(SMALL, num_classes=3, device="meta")
    with pytest.raises(UsageError, match="on meta"):
        other.load_pretrained(tmp_path / "w.pth")
