"""Checkpoints as usual trainers write them, at other sizes; and what is none, in one line."""

from __future__ import annotations

import argparse
import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.utils
import torch
from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

from sret_nas import Architecture, SretNasError, convert_official_state_dict
from sret_nas.errors import ConfigError
from sret_nas.model import SReT, create_model, load, load_checkpoint

SMALL = Architecture.load(
    {
        "image_size": 32,
        "stem_stride": 4,
        "num_classes": 7,
        "stages": [
            {"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]},
            {"heads": 4, "head_dim": 4, "recursions": 2},
        ],
    }
)
State = dict[str, Tensor]
Wrap = Callable[[State, State], Any]


def states() -> tuple[State, State]:
    """Weights, and others that stand for their moving average."""
    weights, average = create_model(SMALL), create_model(SMALL)
    with torch.no_grad():
        weights.norm.weight.fill_(2.0)
        average.norm.weight.fill_(3.0)
    return dict(weights.state_dict()), dict(average.state_dict())


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def inside(name: str, state: State) -> State:
    """As FSDP, activation checkpointing or compiled blocks name what is inside them."""
    return {key.replace("stages.0.", f"stages.0.{name}."): value for key, value in state.items()}


REST = {
    "epoch": 3, "arch": "sret", "args": argparse.Namespace(lr=0.1, out=Path("runs")),
    "best": np.float64(0.5), "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
    "metric": None,
}  # fmt: skip
WRITTEN: dict[str, Wrap] = {
    "plain": lambda w, _: w,
    "DDP": lambda w, _: behind("module.", w),
    "compiled": lambda w, _: behind("_orig_mod.", w),
    "compiled DDP": lambda w, _: behind("_orig_mod.module.", w),
    "DDP compiled": lambda w, _: behind("module._orig_mod.", w),
    "timm": lambda w, _: REST | {"state_dict": w, "version": 2},
    "DeiT": lambda w, _: REST | {"model": behind("module.", w), "scaler": {"scale": 1.0}},
    "torchvision": lambda w, _: REST | {"model": w, "lr_scheduler": {"last_epoch": 3}},
    "tutorial": lambda w, _: REST | {"model_state_dict": w, "optimizer_state_dict": {}},
    "net": lambda w, _: REST | {"net": behind("module.", w), "acc": 81.2},
    "Lightning": lambda w, _: REST | {
        "state_dict": behind("model.", w) | {"criterion.weight": torch.ones(7)},
        "pytorch-lightning_version": "2.5",
    },
    "compiled Lightning": lambda w, _: {"state_dict": behind("net._orig_mod.", w)},
    "Fabric": lambda w, _: {"model": behind("_forward_module.", w)},
    "DeepSpeed": lambda w, _: REST | {"module": w, "ds_version": "0.15"},
    "nested": lambda w, _: {"checkpoint": {"state_dict": behind("module.backbone.", w)}},
    "FSDP": lambda w, _: behind("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module", w)),
    "activation checkpoints": lambda w, _: inside("_checkpoint_wrapped_module", w),
    "compiled blocks": lambda w, _: {"model": inside("_orig_mod", w)},
}  # fmt: skip
AVERAGED: dict[str, Wrap] = {
    "timm": lambda w, e: REST | {"state_dict": w, "state_dict_ema": e},
    "DeiT": lambda w, e: REST | {"model": w, "model_ema": e},
    "torchvision": lambda w, e: {
        "model": w,
        "model_ema": behind("module.", e) | {"n_averaged": torch.tensor(4)},
    },
    "a key of its own": lambda w, e: {"state_dict": w, "ema": {"decay": 0.99, "params": e}},
    "Lightning": lambda w, e: {"state_dict": behind("model.", w) | behind("ema_model.module.", e)},
    "inside the model": lambda w, e: {"model": w | behind("ema.", e)},
    "SWA": lambda w, e: {"model_state_dict": w, "swa_model": behind("module.", e)},
}


def put(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("trainer", WRITTEN)
def test_what_trainers_write_is_read(trainer: str, tmp_path: Path) -> None:
    weights, average = states()
    path = put(WRITTEN[trainer](weights, average), tmp_path / "w.pth")
    for model in (
        load_checkpoint(path, SMALL),
        load(path, arch=SMALL),
        timm.create_model(
            "sret", pretrained=True, architecture=SMALL, pretrained_cfg_overlay={"file": str(path)}
        ),
    ):
        got = model.state_dict()
        assert all(torch.equal(got[key], weights[key]) for key in weights)


@pytest.mark.parametrize("trainer", AVERAGED)
def test_the_moving_average_is_taken_by_choice(trainer: str, tmp_path: Path) -> None:
    weights, average = states()
    path = put(AVERAGED[trainer](weights, average), tmp_path / "w.pth")
    for use_ema, expected in ((True, average), (False, weights)):
        got = load_checkpoint(path, SMALL, use_ema=use_ema).state_dict()
        assert all(torch.equal(got[key], expected[key]) for key in expected)
    from_timm = timm.create_model(
        "sret", pretrained=True, architecture=SMALL, pretrained_cfg_overlay={"file": str(path)}
    )
    assert torch.equal(from_timm.norm.weight, average["norm.weight"])  # timm's own default


def test_timms_own_saver_is_read(tmp_path: Path) -> None:
    model = create_model(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    saver = timm.utils.CheckpointSaver(
        model, optimizer, argparse.Namespace(model="sret"), timm.utils.ModelEmaV3(model),
        checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(0, metric=0.5)
    again = load_checkpoint(tmp_path / "last.pth.tar", SMALL)
    assert torch.equal(again.norm.weight, model.norm.weight)


def test_several_sets_of_weights_are_refused(tmp_path: Path) -> None:
    weights, average = states()
    path = put({"one": weights, "two": average}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"w\.pth: several sets of weights: one\., two\."):
        load_checkpoint(path, SMALL)
    path = put({"student": weights, "teacher": average}, tmp_path / "w.pth")
    assert load_checkpoint(path, SMALL).norm.weight[0] == 2


# --- other sizes ------------------------------------------------------------------------------


def by_function(path: Path, **options: int) -> SReT:
    return load_checkpoint(path, SMALL, **options)


def by_timm(path: Path, **options: int) -> Any:
    return timm.create_model(
        "sret", pretrained=True, architecture=SMALL, **options,
        pretrained_cfg_overlay={"file": str(path)},
    )  # fmt: skip


def by_loading(path: Path, **options: int) -> SReT:
    return load(path, arch=SMALL, **options)


@pytest.mark.parametrize("by", [by_function, by_timm, by_loading])
def test_another_size_head_and_input(
    by: Callable[..., SReT], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, _ = states()
    path = put({"state_dict": behind("module.", weights)}, tmp_path / "w.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = create_model(SMALL, num_classes=3, in_chans=1, img_size=48)
        torch.manual_seed(0)
        model = by(path, num_classes=3, in_chans=1, img_size=48)
    got = model.state_dict()
    grid = resample_abs_pos_embed_nhwc(weights["pos_embed"].permute(0, 2, 3, 1), [12, 12])
    torch.testing.assert_close(got["pos_embed"], grid.permute(0, 3, 1, 2))
    torch.testing.assert_close(got["stem.0.weight"], weights["stem.0.weight"].sum(1, keepdim=True))
    assert torch.equal(got["head.weight"], fresh.head.weight)  # type: ignore[arg-type]
    assert torch.equal(got["norm.weight"], weights["norm.weight"])
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the head is left as it was initialised: 7 classes in the checkpoint, 3" in said[-1]
    assert "first convolution adapted from 3 to 1 input channels" in said[0]
    assert model.pretrained_cfg["input_size"] == (1, 48, 48)


def test_a_checkpoint_without_a_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights, _ = states()
    bare = {key: value for key, value in weights.items() if not key.startswith("head.")}
    model = load_checkpoint(put(bare, tmp_path / "w.pth"), SMALL)
    assert model.head.out_features == 7
    assert "no head in the checkpoint, 7 classes in the model" in caplog.text
    caplog.clear()
    model = load_checkpoint(put(weights, tmp_path / "w.pth"), SMALL, num_classes=0)
    assert isinstance(model.head, nn.Identity)
    assert "head" not in caplog.text


def test_safetensors_know_their_architecture_at_other_sizes(tmp_path: Path) -> None:
    from sret_nas.model import save_checkpoint

    save_checkpoint(create_model(SMALL), tmp_path / "w.safetensors")
    model = load_checkpoint(tmp_path / "w.safetensors", num_classes=3, img_size=48)
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 3)


def test_nothing_is_loaded_where_something_does_not_fit(tmp_path: Path) -> None:
    weights, _ = states()
    model = create_model(SMALL)
    before = copy.deepcopy(model.state_dict())
    for key, problem in (
        ("norm.weight", "missing norm.weight"),
        ("pos_embed", r"pos_embed \(3,\) instead of \(1, 8, 8, 8\)"),
        ("stem.0.weight", r"stem.0.weight \(3,\) instead of"),
    ):
        wrong = {k: v for k, v in weights.items() if k != key}
        if "missing" not in problem:
            wrong[key] = torch.zeros(3)
        with pytest.raises(ConfigError, match=problem):
            model.load_pretrained(put(wrong, tmp_path / "w.pth"))
    for extra, value in (("more", torch.zeros(1)), ("text", "words")):
        with pytest.raises(ConfigError, match=rf"(unexpected|not a tensor:) {extra}"):
            model.load_pretrained(put(weights | {extra: value}, tmp_path / "w.pth"))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


# --- what is none -----------------------------------------------------------------------------


class Own:
    pass


NONE: dict[str, Any] = {
    "a tensor": torch.zeros(3),
    "a list": [torch.zeros(3)],
    "a number": 3,
    "nothing": None,
    "empty": {},
    "names without tensors": {"model": "sret_t"},
    "numbers for names": {0: torch.zeros(1), 1: {2: torch.zeros(1)}},
    "another network": {"state_dict": {"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}},
    "a class of its own": {"model": Own()},
    "half of one": {"model": {"stem.0.weight": None}},
}


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_checkpoint_is_one_line(kind: str, tmp_path: Path) -> None:
    path = put(NONE[kind], tmp_path / "w.pth")
    for read in (by_function, by_timm):
        with pytest.raises(ConfigError, match=r"w\.pth: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    if kind != "a class of its own":
        with pytest.raises(SretNasError):
            convert_official_state_dict(NONE[kind])


METADATA = ["", "{", "[]", "null", "3", '{"stages": 3}', '{"a": 1, "a": 2}', "[" * 100_000, "NaN"]


@pytest.mark.parametrize("text", METADATA, ids=range(len(METADATA)))
def test_bad_metadata_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(states()[0], path, {"architecture": text})
    with pytest.raises(ConfigError, match=r"w\.safetensors: the architecture in its header") as it:
        load_checkpoint(path)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("cut", [0, 4, 8, 40, 2000, -5])
def test_a_damaged_safetensors_file_is_one_line(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(states()[0], path, {"architecture": SMALL.to_json()})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match="not a safetensors file") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    header = json.dumps({"stem.0.weight": {"dtype": "X9", "shape": [-1], "data_offsets": [0, 4]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"0000")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_distorted_official_checkpoint_is_refused(seed: int, official: State) -> None:
    """One entry becomes something else: it is converted whole or refused, never a traceback."""
    rng = np.random.default_rng(seed)
    keys = ["pos_embed", "patch_embed.conv1.weight", "head.weight", *rng.permutation([*official])]
    key = str(keys[seed % 20])
    distortions: list[Any] = [
        torch.tensor(1.0), torch.zeros(0), torch.zeros(1, 2, 3, 4, 5), None, "text", 3, [1.0],
        {"a": 1}, torch.zeros(official[key].shape, dtype=torch.int8),
    ]  # fmt: skip
    wrong: dict[Any, Any] = official | {key: distortions[seed % len(distortions)]}
    for arch in (None, "sret_t", Architecture.load("sret_t_384")):
        with pytest.raises(ConfigError):
            convert_official_state_dict(wrong, arch)


def test_an_official_checkpoint_of_other_classes_channels_and_size(
    official: State, tmp_path: Path
) -> None:
    path = put({"model": behind("module.", official)}, tmp_path / "w.pth")
    model = load_checkpoint(path, "sret_t", num_classes=3, in_chans=1, img_size=96)
    assert model(torch.zeros(1, 1, 96, 96)).shape == (1, 3)
    converted = convert_official_state_dict({"state_dict": official}, "sret_t")
    assert torch.equal(model.norm.weight, converted["norm.weight"])
