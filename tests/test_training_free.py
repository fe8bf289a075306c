"""Scores without a training, against the definition written out plainly."""

from __future__ import annotations

import math

import pytest
import torch

from sret_nas import zoo
from sret_nas.arch import Architecture, Stage
from sret_nas.cost import cost
from sret_nas.data import load_data
from sret_nas.evaluate import Evaluator
from sret_nas.evaluators.registry import load
from sret_nas.evaluators.training_free import dss
from sret_nas.model import create_model
from sret_nas.proxy import PRESETS
from sret_nas.training.randomness import Random

SMALL = Architecture(
    image_size=32,
    num_classes=10,
    stages=(
        Stage(heads=1, head_dim=8, blocks=1, recursions=2, groups=(4, 1), mlp_ratio=2.0),
        Stage(heads=2, head_dim=8, blocks=2, mlp_ratio=2.0, nll_ratio=1.0),
    ),
)


def made(name: str) -> Evaluator:
    plan = PRESETS["fast"]
    data = load_data(**plan.load_options() | {"subset": 64, "val_images": 30})
    return load(name)(plan, data, torch.device("cpu"))


def by_hand(arch: Architecture, seed: int) -> float:
    """The definition, by names of the parameters and singular values."""
    with Random(seed, torch.device("cpu")):
        model = create_model(arch).eval()
        weights = {name: p.detach().abs().requires_grad_() for name, p in model.named_parameters()}
        image = torch.ones(1, arch.in_chans, arch.image_size, arch.image_size)
        output = torch.func.functional_call(model, weights, (image,)).sum()
    used = {n: w for n, w in weights.items() if n.endswith(".weight") and w.dim() > 1}
    gradients = torch.autograd.grad(output, list(used.values()))
    total = 0.0
    for (name, weight), gradient in zip(used.items(), gradients, strict=True):
        w, g = weight.detach().double(), gradient.double()
        if ".attention." in name:
            total += float(torch.linalg.svdvals(g).sum() * torch.linalg.svdvals(w).sum())
        else:
            total += float((g * w).abs().sum())
    return total


@pytest.mark.parametrize("seed", [0, 7])
def test_dss_is_its_definition(seed: int) -> None:
    found = made("dss").evaluate(SMALL, seed=seed).metrics["dss"]
    assert found == pytest.approx(by_hand(SMALL, seed), rel=1e-4)


def test_every_layer_with_weights_counts() -> None:
    torch.manual_seed(0)
    model = create_model(SMALL).eval()
    whole = dss(model, SMALL.in_chans, SMALL.image_size)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            kept = layer.weight.detach().clone()
            layer.weight.data.zero_()
            model.zero_grad()
            assert dss(model, SMALL.in_chans, SMALL.image_size) != whole, name
            layer.weight.data.copy_(kept)


def test_params_are_counted_exactly() -> None:
    found = made("params").evaluate(zoo.PUBLISHED["sret_t"]).metrics["log_params"]
    assert found == math.log10(cost(zoo.PUBLISHED["sret_t"]).params)
