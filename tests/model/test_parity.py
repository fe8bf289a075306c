"""Our network against what the published code computes, and against a naive one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import sret_nas
from sret_nas import Architecture
from sret_nas.model import SReT, create_model

PUBLISHED = {  # parameters and multiply-adds of the published code
    "sret_t": (4_755_979, 1_112_444_672),
    "sret_t_wo_slice": (4_755_979, 1_365_682_944),
    "sret_lt": (4_988_024, 1_164_477_184),
    "sret_lt_wo_slice": (4_988_024, 1_417_715_456),
    "sret_lt_16_14": (4_988_024, 1_224_537_856),
    "sret_s": (20_899_692, 4_172_819_112),
    "sret_s_wo_slice": (20_899_692, 4_671_381_960),
}


def official_state(fill: ModuleType, case: dict[str, Any]) -> dict[str, Tensor]:
    """The golden weights; a repeated block takes the value of its first key."""
    state = {}
    for key, shape in case["state_dict"].items():
        parts = key.split(".")
        if parts[0] == "transformers" and int(parts[3]) % 4 == 2:
            parts[3] = str(int(parts[3]) - 2)
        state[key] = torch.from_numpy(fill.value(".".join(parts), tuple(shape)))
    return state


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["sret_t", "sret_t_wo_slice"])
def test_golden_case(
    name: str, fused: bool, fill: ModuleType, golden_cases: dict[str, dict[str, Any]]
) -> None:
    case = golden_cases[name]
    arch = Architecture.load(Architecture.load(name).to_dict() | {"permute": "random"})
    model = create_model(arch, fused_attn=fused).eval()
    state = official_state(fill, case)
    model.load_state_dict(sret_nas.convert_official_state_dict({"model": state}))
    image = torch.from_numpy(fill.image(2, 3, 224))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.no_grad():
            logits = model(image)
        torch.manual_seed(0)
        loss = F.cross_entropy(model(image), torch.tensor([1, 2]))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.testing.assert_close(logits, torch.from_numpy(case["logits"]), atol=1e-4, rtol=0)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert norm.item() == pytest.approx(case["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, fused_attn=False).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    params = sum(p.numel() for p in model.parameters())
    assert (params, counter.get_total_flops() / 2) == PUBLISHED[name]


# --- every feature, against a network written out plainly -------------------------------------


def plain(model: SReT, x: Tensor) -> Tensor:
    """The forward pass in eval mode, application by application, from the weights alone.

    Reads the loops from the architecture file's fields, not from the schedule that
    the model is built from.
    """
    arch, w = model.arch, model.state_dict()

    def norm(name: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def join(name: str, y: Tensor, branch: Tensor) -> Tensor:
        if not arch.residual_scale:
            return y + branch
        return w[f"{name}.residual.skip"] * y + w[f"{name}.residual.branch"] * branch

    def mlp(name: str, y: Tensor) -> Tensor:
        hidden = F.gelu(linear(f"{name}.fc1", norm(f"{name}.norm", y)))
        return join(name, y, linear(f"{name}.fc2", hidden))

    def attend(name: str, y: Tensor, heads: int, groups: int, order: Tensor | None) -> Tensor:
        _, N, C = y.shape
        z = norm(f"{name}.norm", y)
        z = z if order is None else z[:, order]
        out = torch.empty_like(z)
        for piece in range(groups):
            here = slice(piece * N // groups, (piece + 1) * N // groups)
            q, k, v = linear(f"{name}.qkv", z[:, here]).chunk(3, dim=-1)
            for head in range(heads):
                h = slice(head * C // heads, (head + 1) * C // heads)
                weights = (q[..., h] @ k[..., h].mT / (C // heads) ** 0.5).softmax(-1)
                out[:, here, h] = weights @ v[..., h]
        if order is not None:
            unpermuted = torch.empty_like(out)
            unpermuted[:, order] = out
            out = unpermuted
        return join(name, y, linear(f"{name}.proj", out))

    for i in range(3):
        at, bn = f"stem.{3 * i}", f"stem.{3 * i + 1}"
        stride = 2 if arch.stem_stride >= 2 ** (i + 1) else 1
        x = F.conv2d(x, w[f"{at}.weight"], w[f"{at}.bias"], stride, 1)
        x = F.batch_norm(
            x, w[f"{bn}.running_mean"], w[f"{bn}.running_var"], w[f"{bn}.weight"], w[f"{bn}.bias"]
        ).relu()
    x = x + w["pos_embed"]
    for i, stage in enumerate(arch.stages):
        if i:
            pool = f"pools.{i - 1}"
            x = F.conv2d(x, w[f"{pool}.weight"], w[f"{pool}.bias"], 2, 1, groups=x.shape[1])
        _, C, H, W = x.shape
        y = x.flatten(2).mT
        loops = [(b, r) for b in range(stage.blocks) for r in range(stage.recursions)]
        if stage.order == "cyclic":
            loops = [(b, r) for r in range(stage.recursions) for b in range(stage.blocks)]
        for t, (block, loop) in enumerate(loops):
            groups, order = stage.groups[loop], None
            if arch.permute == "fixed" and loop > 0 and 1 < groups < H * W:
                module: Any = model.stages[i]
                order = module.permutations[module.row[t]]
            attention = block if stage.share in ("all", "attention") else t
            own_mlp = block if stage.share in ("all", "mlp") else t
            y = attend(f"stages.{i}.attention.{attention}", y, stage.heads, groups, order)
            y = mlp(f"stages.{i}.mlp.{own_mlp}", y)
            if stage.nll_ratio:
                y = mlp(f"stages.{i}.nll.{t}", y)
        x = y.mT.reshape(-1, C, H, W)
    pooled = norm("norm", x.mean(dim=(2, 3)))
    return linear("head", pooled) if arch.num_classes else pooled


@given(
    st.fixed_dictionaries(
        {
            "blocks": st.integers(1, 3),
            "recursions": st.integers(1, 3),
            "order": st.sampled_from(["adjacent", "cyclic"]),
            "share": st.sampled_from(["all", "attention", "mlp", "none"]),
            "nll_ratio": st.sampled_from([0.0, 0.5, 2.0]),
            "mlp_ratio": st.sampled_from([1.0, 3.3]),
        }
    ),
    st.lists(st.sampled_from([1, 2, 8, 16]), min_size=3, max_size=3),
    st.sampled_from(["fixed", "none"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(32, 8), (16, 4), (7, 2), (4, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_every_feature_against_a_plain_network(
    stage: dict[str, Any],
    groups: list[int],
    permute: str,
    scaled: bool,
    fused: bool,
    size: tuple[int, int],
) -> None:
    arch = Architecture.load(
        {
            "image_size": size[0],
            "stem_stride": size[1],
            "in_chans": 2,
            "num_classes": 5,
            "residual_scale": scaled,
            "permute": permute,
            "stages": [
                {"heads": 2, "head_dim": 3, **stage, "groups": groups[: stage["recursions"]]},
                {"heads": 2, "head_dim": 6, "recursions": 2, "groups": [1, 4]},
            ],
        }
    )
    generator = torch.Generator().manual_seed(0)
    model = create_model(arch, fused_attn=fused).eval()
    for parameter in model.parameters():  # coefficients and norms away from their start
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    image = torch.randn(2, 2, size[0], size[0], generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(model(image), plain(model, image), atol=2e-5, rtol=1e-4)
    expected = sret_nas.cost(arch)
    assert sum(p.numel() for p in model.parameters()) == expected.params


def test_drop_path_is_as_published() -> None:
    """Unique block u takes rate · (first application of its stage + u) / applications."""
    model = create_model("sret_t", drop_path_rate=0.2)
    for stage, first in zip(model.stages, (0, 4, 14), strict=True):
        for kind in ("attention", "mlp"):
            for u, unit in enumerate(getattr(stage, kind)):
                drop = unit.residual.drop_path
                assert (drop.drop_prob if drop else 0.0) == pytest.approx(0.2 * (first + u) / 20)
        assert all(unit.residual.drop_path is None for unit in stage.nll)


@pytest.mark.parametrize(("name", "rate"), [("sret_t", 0.1), ("sret_t_wo_slice", 0.0)])
def test_default_drop_path_is_as_published(name: str, rate: float) -> None:
    last = create_model(name).stages[-1].attention[-1].residual.drop_path
    assert (last.drop_prob if last else 0.0) == pytest.approx(rate * 16 / 20)
