"""Counters: each number, what explains it, what it misses, and no trace left behind."""

from __future__ import annotations

import logging
import random
import sys
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sret_nas
from sret_nas import Architecture, zoo
from sret_nas.counters import COUNTERS, Count, count
from sret_nas.errors import UsageError


@pytest.fixture(scope="module")
def sret_t() -> dict[str, Count]:
    return count(zoo.PUBLISHED["sret_t"])


def test_published_model(sret_t: dict[str, Count]) -> None:
    macs = 1_112_444_672
    assert list(sret_t) == list(COUNTERS)
    assert (sret_t["torch"].value, sret_t["torch"].unit) == (2 * macs, "FLOPs")
    # What fvcore says of the published code, less its average-pooling module: 49 × 256.
    assert sret_t["fvcore"].value == 1_121_653_248
    assert sret_t["fvcore"].terms == {"batch_norm": 1_304_576, "layer_norm": 7_904_000}
    assert sret_t["ptflops-aten"].value == macs + 6_272_510
    for result in sret_t.values():
        assert result.analytic == macs
        assert result.unexplained == 0, result
    for name in ("torch", "fvcore", "ptflops-aten"):
        assert not sret_t[name].uncounted


def test_gap_stands_beside_the_number(sret_t: dict[str, Count]) -> None:
    blind = sret_t["ptflops-pytorch"]
    assert blind.uncounted == {"@": 40}
    assert blind.note.startswith("did not count @ ×40; analytic -154,303,468: bias additions")
    assert blind.terms["attention products"] == -167_186_432
    assert sret_t["torch"].note == "equals the analytic count"


def test_dictionary(sret_t: dict[str, Count]) -> None:
    data = {name: result.to_dict() for name, result in sret_t.items()}
    assert data["torch"]["flops"] == 2_224_889_344
    assert "macs" not in data["torch"]
    assert data["fvcore"]["macs"] == 1_121_653_248
    for row in data.values():
        assert row["unit"].lower() in row
        assert row["convention"]
        assert row["note"]


@pytest.mark.parametrize("seed", range(12))
def test_every_difference_is_explained_to_the_unit(seed: int) -> None:
    rng = random.Random(seed)
    stages = [
        {
            "heads": 2,
            "head_dim": 3 << i,
            "blocks": rng.randint(1, 2),
            "recursions": 2,
            "share": rng.choice(["all", "attention", "mlp", "none"]),
            "groups": [rng.choice([1, 2, 4]), rng.choice([1, 4])],
            "mlp_ratio": rng.uniform(1, 4),
            "nll_ratio": rng.choice([0.0, 1.5]),
        }
        for i in range(rng.randint(1, 2))
    ]
    arch = Architecture.load(
        {
            "image_size": 8 * rng.choice([4, 8]),
            "num_classes": rng.choice([0, 7]),
            "residual_scale": rng.random() < 0.5,
            "permute": rng.choice(["fixed", "random", "none"]),
            "stages": stages,
        }
    )
    for result in count(arch).values():
        assert result.analytic == sret_nas.cost(arch).macs
        assert result.unexplained == 0, result


def test_foreign_models() -> None:
    found = count(timm.create_model("deit_tiny_patch16_224", depth=2))
    tokens, dim = 197, 192
    attention = 2 * (2 * tokens**2 * dim)
    macs = 196 * 768 * dim + 2 * 12 * tokens * dim**2 + attention + dim * 1000
    assert found["torch"].value == 2 * macs
    assert found["fvcore"].value == macs + 5 * (5 * tokens * dim)
    assert found["fvcore"].note == "of this layer_norm +945,600"
    assert found["ptflops-aten"].value is not None
    assert found["ptflops-aten"].value > macs
    # Its formula of timm's attention hides the linear layers inside.
    assert found["ptflops-pytorch"].uncounted == {"linear": 4}
    for result in found.values():
        assert result.analytic is None
        assert result.difference is None
        assert "analytic" not in result.note


class Odd(nn.Module):
    """Operators that some counters do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(self.pool(x))[0]
        batched = torch.baddbmm(x, x, x)
        attended = F.scaled_dot_product_attention(batched, batched, batched)
        return torch.cdist(attended, attended) @ batched


def test_unknown_is_not_zero() -> None:
    found = count(Odd(), input_size=(3, 8, 8))
    assert found["torch"].uncounted == {"aten::_cdist_forward": 1}
    assert found["fvcore"].uncounted == {"aten::cdist": 1}
    assert found["fvcore"].terms == {"adaptive_avg_pool2d": 3 * 8 * 8}
    products = 3 * (4**3 * 5)  # linear, baddbmm, two of attention, @; three channels
    assert found["fvcore"].value == products + 3 * 8 * 8
    assert found["torch"].value == 2 * products
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in found["ptflops-aten"].uncounted
    assert found["ptflops-pytorch"].uncounted == {"scaled_dot_product_attention": 1, "@": 1}
    assert "did not count aten::cdist ×1" in found["fvcore"].note


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing")


def test_failure_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = count(Failing(), input_size=(3, 8, 8))
    assert all(result.value is None for result in found.values())
    assert all("no such thing" in result.note for result in found.values())
    assert capsys.readouterr() == ("", "")


def test_refuses() -> None:
    with pytest.raises(UsageError, match="'thop'; allowed: torch, fvcore"):
        count(zoo.PUBLISHED["sret_t"], ["thop"])
    with pytest.raises(UsageError, match="Linear does not say how large its images are"):
        count(nn.Linear(1, 1))


def test_leaves_no_trace(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stage = {"heads": 2, "head_dim": 4, "recursions": 2, "groups": [2, 2]}
    arch = Architecture.load({"image_size": 32, "permute": "random", "stages": [stage]})
    model = sret_nas.create_model(arch).train()
    places = [F, torch, torch.Tensor]
    before = [dict(vars(place)) for place in places]
    filters = list(warnings.filters)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.DEBUG):
        count(model)
    assert [dict(vars(place)) for place in places] == before
    assert warnings.filters == filters
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(m.fused for m in model.modules() if hasattr(m, "fused"))
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert "fvcore" in sys.modules
