"""What the network promises beside its numbers: modes, memory, timm's conventions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import Tensor, nn

import sret_nas
from sret_nas import Architecture
from sret_nas.errors import SretNasError
from sret_nas.model import SReT, create_model

SMALL = Architecture.load(
    {
        "image_size": 32,
        "stem_stride": 4,
        "num_classes": 7,
        "stages": [
            {"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]},
            {"heads": 4, "head_dim": 4, "recursions": 3, "groups": [1, 4, 2]},
        ],
    }
)
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def permuting(mode: str) -> Architecture:
    return Architecture.load(SMALL.to_dict() | {"permute": mode})


# --- permutations ---------------------------------------------------------------------------


def test_fixed_is_deterministic_in_eval_and_fresh_in_training() -> None:
    model = create_model(SMALL, drop_path_rate=0.0)
    model.eval()
    with torch.random.fork_rng(devices=[]):
        assert torch.equal(model(IMAGE), model(IMAGE))
        model.train()
        assert not torch.equal(model(IMAGE), model(IMAGE))


def test_fixed_permutations_depend_on_the_architecture_alone() -> None:
    a, b = create_model(SMALL).eval(), create_model(SMALL).eval()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(IMAGE), b(IMAGE))
    assert not any("permutation" in key for key in a.state_dict())


def test_random_is_fresh_in_eval_too_and_none_never() -> None:
    with torch.random.fork_rng(devices=[]):
        model = create_model(permuting("random")).eval()
        assert not torch.equal(model(IMAGE), model(IMAGE))
        model = create_model(permuting("none"), drop_path_rate=0.0).train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert torch.equal(model(IMAGE), model(IMAGE))


def test_building_a_model_leaves_numbers_to_the_caller() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        a = create_model(SMALL).state_dict()
        torch.manual_seed(3)
        b = create_model(SMALL).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


# --- compile, export, checkpointing -----------------------------------------------------------


def backends() -> list[str]:
    """Inductor needs a C++ compiler; graph capture is checked without one as well."""
    return ["aot_eager"] + (["inductor"] if shutil.which("g++") else [])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", backends())
def test_compiles_as_one_graph(backend: str) -> None:
    model = create_model(SMALL).eval()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(IMAGE), model(IMAGE), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exports() -> None:
    model = create_model(SMALL).eval()
    exported = torch.export.export(model, (IMAGE,)).module()
    torch.testing.assert_close(exported(IMAGE), model(IMAGE))


def test_checkpointing_changes_no_gradient() -> None:
    gradients: list[list[Tensor]] = []
    model = create_model(SMALL, drop_path_rate=0.3)
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same drops and the same fresh permutations
            model(IMAGE).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_thousand_applications(record_property: Any) -> None:
    """1,000 applications in 13 to 15M parameters: one step on the CPU at 64 px."""
    arch = Architecture.load(
        {
            "image_size": 64,
            "stages": [
                {"heads": h, "head_dim": 20, "blocks": 2, "recursions": r, "nll_ratio": n}
                for h, r, n in ((2, 100, 1.0), (4, 250, 1.0), (8, 150, 0.4))
            ],
        }
    )
    assert arch.depth == 1000
    program = f"""
import re, torch
from pathlib import Path
from sret_nas import Architecture, create_model

def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
model = create_model(Architecture.from_json({arch.to_json()!r}))
model.set_grad_checkpointing()
create_model("sret_t", img_size=32).eval()(torch.zeros(1, 3, 32, 32)).sum().backward()
Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark afresh
before = kib("VmRSS")
model(torch.randn(2, 3, 64, 64)).square().mean().backward()
assert all(torch.isfinite(p.grad).all() for p in model.parameters())
print(sum(p.numel() for p in model.parameters()), kib("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    params, kib = map(int, done.stdout.split())
    record_property("step_mib", kib / 1024)
    print(f"1,000 applications, {params:,} parameters: {kib / 1024:.0f} MiB beside the weights")
    assert 13_000_000 <= params <= 15_000_000
    assert 4 * params < kib * 1024 < 300 * 2**20  # the gradients alone are 4 bytes each


# --- timm's conventions -----------------------------------------------------------------------


def test_every_preset_is_registered() -> None:
    assert set(timm.list_models("sret*")) == {"sret", *sret_nas.zoo.PRESETS}
    model = timm.create_model("sret_t", pretrained=False)
    assert isinstance(model, SReT)
    assert model.arch == Architecture.load("sret_t")
    assert model.default_cfg["input_size"] == (3, 224, 224)
    assert model.default_cfg["classifier"] == "head"
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 224, 224)
    assert timm.create_model("sret_s_384").default_cfg["input_size"] == (3, 384, 384)


@pytest.mark.parametrize("imports", ["import sret_nas, timm", "import timm, sret_nas"])
def test_timm_knows_the_models_in_either_order_of_imports(imports: str) -> None:
    program = f"{imports}\nassert 'sret_t' in timm.list_models()"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_timm_options() -> None:
    model = timm.create_model(
        "sret_t", num_classes=3, in_chans=1, img_size=64, drop_path_rate=0.2, drop_rate=0.5
    ).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    assert model.arch.stages[0].groups == (8, 2)


def test_no_weights_are_hosted() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("sret_t", pretrained=True)


def test_features_and_head() -> None:
    model = create_model(SMALL).eval()
    with torch.no_grad():
        features = model.forward_features(IMAGE)
        assert features.shape == (2, 16, 4, 4)
        assert model.forward_head(features, pre_logits=True).shape == (2, 16)
        assert torch.equal(model.forward_head(features), model(IMAGE))
    assert model.get_classifier() is model.head
    assert model.num_features == model.head_hidden_size == 16


def test_reset_classifier() -> None:
    model = create_model(SMALL).eval()
    model.reset_classifier(11)
    assert model(IMAGE).shape == (2, 11)
    assert model.arch.num_classes == model.num_classes == 11
    model.reset_classifier(0)
    assert model(IMAGE).shape == (2, 16)
    model.reset_classifier(3, "")
    assert model(IMAGE).shape == (2, 4, 4, 3)
    with pytest.raises(SretNasError, match="global_pool"):
        model.reset_classifier(3, "max")


def test_intermediates() -> None:
    model = create_model(SMALL).eval()
    with torch.no_grad():
        last, grids = model.forward_intermediates(IMAGE)
        assert [tuple(grid.shape) for grid in grids] == [(2, 8, 8, 8), (2, 16, 4, 4)]
        assert torch.equal(last, grids[-1])
        assert torch.equal(model.forward_head(last), model(IMAGE))
        (first,) = model.forward_intermediates(
            IMAGE, indices=[0], stop_early=True, intermediates_only=True
        )
        assert torch.equal(first, grids[0])
        (tokens,) = model.forward_intermediates(
            IMAGE, indices=1, output_fmt="NLC", intermediates_only=True
        )
        assert torch.equal(tokens, grids[1].flatten(2).mT)
        normed = model.forward_intermediates(IMAGE, norm=True)
        torch.testing.assert_close(
            normed[1][1], model.norm(grids[1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        )
        assert torch.equal(normed[0], last)


@pytest.mark.parametrize("indices", [(0, 1, 2), (0, 1), (-1,)])
def test_features_only(indices: tuple[int, ...]) -> None:
    model = timm.create_model("sret_t", features_only=True, out_indices=indices, img_size=64)
    model.eval()
    outputs = model(torch.zeros(1, 3, 64, 64))
    assert [output.shape[1] for output in outputs] == model.feature_info.channels()
    sides = [64 // reduction for reduction in model.feature_info.reduction()]
    assert [output.shape[-1] for output in outputs] == sides


def test_weight_decay_leaves_vectors_and_positions_alone() -> None:
    model = create_model(SMALL)
    groups = timm.optim.param_groups_weight_decay(
        model, 0.05, no_weight_decay_list=model.no_weight_decay()
    )
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and name != "pos_embed")


def test_layer_decay_groups_name_every_parameter() -> None:
    model = create_model(SMALL)
    groups = timm.optim.param_groups_layer_decay(model, 0.05, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in groups}) >= 3


def test_half_precision_and_autocast() -> None:
    model = create_model(SMALL).eval()
    with torch.no_grad():
        expected = model(IMAGE)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(IMAGE).float(), expected, atol=0.05, rtol=0.05)
        half = model.to(torch.bfloat16)(IMAGE.to(torch.bfloat16)).float()
    torch.testing.assert_close(half, expected, atol=0.1, rtol=0.1)


def test_drop_rates_act_in_training_alone() -> None:
    options: dict[str, float] = {
        "drop_rate": 0.5, "pos_drop_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5,
    }  # fmt: skip
    plain = create_model(permuting("none"), drop_path_rate=0.0)
    for name, rate in options.items():
        model = create_model(permuting("none"), drop_path_rate=0.0, **{name: rate})
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model.eval()(IMAGE), plain.eval()(IMAGE))
        with torch.random.fork_rng(devices=[]):
            model.train()
            assert not torch.equal(model(IMAGE), model(IMAGE)), name


@pytest.mark.parametrize("rate", [-0.1, 1.0, 7])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(SretNasError, match="drop_path_rate"):
        create_model(SMALL, drop_path_rate=rate)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(AssertionError, match="32×32 px"):
        create_model(SMALL)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(SretNasError, match="square"):
        create_model(SMALL, img_size=(32, 64))


def test_initialisation_is_as_published() -> None:
    model = create_model("sret_t")
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    for name, parameter in model.named_parameters():
        if ".residual." in name or name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter))


def test_no_position_begins_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform draw in float32 can be exactly -1, whose normal value is minus infinity."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low=0, *_, **__: self.fill_(low))
    model = create_model(SMALL)
    assert model.pos_embed.abs().max() <= 6 * 0.02 + 1e-6


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu() -> None:
    model = create_model(SMALL).eval()
    expected = model(IMAGE)
    torch.testing.assert_close(model.cuda()(IMAGE.cuda()).cpu(), expected, atol=1e-3, rtol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        half = model(IMAGE.cuda()).float().cpu()
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0.05)
