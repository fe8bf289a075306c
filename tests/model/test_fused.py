"""The fused path against the plain modules: values, gradients, and when it is not taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.model import SReT, create_model, fused

Result = tuple[Tensor, dict[str, Tensor]]


def tiny(**changes: Any) -> Architecture:
    """Two stages that have everything: slices, permutations, sharing, NLL."""
    stage = {"heads": 2, "head_dim": 6, "blocks": 2, "recursions": 2, "groups": [4, 1]}
    stage |= {"mlp_ratio": 2.5, "nll_ratio": 1.0, **changes.pop("stage", {})}
    stages = [stage, stage | {"heads": 4}]
    return Architecture.load({"image_size": 32, "num_classes": 5, "stages": stages} | changes)


def trained(arch: Architecture, drop_path: float = 0.0) -> SReT:
    """In training mode, with weights that are nowhere 0 or 1."""
    torch.manual_seed(0)
    model = create_model(arch, drop_path_rate=drop_path).train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def step(model: SReT, bf16: bool = False) -> Result:
    """Output and gradients for the same images and random numbers."""
    torch.manual_seed(1)
    images = torch.randn(3, 3, model.arch.image_size, model.arch.image_size, requires_grad=True)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model(images)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return out.detach(), {"images": images.grad} | found


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``step`` without the fused path."""

    def run(model: SReT, bf16: bool = False) -> Result:
        with monkeypatch.context() as patched:
            patched.setattr(fused, "applies", lambda *_: False)
            return step(model, bf16)

    yield run


def off(one: Tensor, other: Tensor) -> float:
    """Relative difference."""
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def assert_equal(one: Result, other: Result, within: float = 2e-4) -> None:
    """Equal up to rounding in fp32: sums of the scalars' gradients cancel, hence ``within``."""
    assert off(one[0], other[0]) < 1e-5
    assert one[1].keys() == other[1].keys()
    scale = max(float(g.abs().max()) for g in other[1].values())
    for name, gradient in other[1].items():
        assert gradient.shape == one[1][name].shape
        wrong = float((one[1][name] - gradient).abs().max())
        assert wrong <= within * float(gradient.abs().max()) + 1e-6 * scale, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("permute", ["fixed", "random", "none"])
@pytest.mark.parametrize("residual_scale", [False, True])
def test_values_and_gradients(
    plainly: Any, residual_scale: bool, permute: str, checkpointing: bool
) -> None:
    model = trained(tiny(residual_scale=residual_scale, permute=permute))
    model.set_grad_checkpointing(checkpointing)
    assert_equal(step(model), plainly(model))


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    share=st.sampled_from(["all", "attention", "mlp", "none"]),
    order=st.sampled_from(["adjacent", "cyclic"]),
    nll_ratio=st.sampled_from([0.0, 1.5]),
    recursions=st.integers(1, 3),
    head_dim=st.integers(3, 9),  # two channels, normalised, are signs: no gradient to compare
    at_once=st.integers(1, 7),
)
def test_whatever_the_stage(
    plainly: Any,
    monkeypatch: pytest.MonkeyPatch,
    share: str,
    order: str,
    nll_ratio: float,
    recursions: int,
    head_dim: int,
    at_once: int,
) -> None:
    monkeypatch.setattr(fused, "AT_ONCE", at_once)
    monkeypatch.setattr(fused, "FOLDED_AT_ONCE", 2 * at_once)
    groups = [4, 1, 2][:recursions]
    stage = {"share": share, "order": order, "nll_ratio": nll_ratio, "head_dim": head_dim}
    model = trained(tiny(stage=stage | {"recursions": recursions, "groups": groups}))
    assert_equal(step(model), plainly(model), within=1e-3)


def test_short_dtype_is_as_good_as_the_plain_path(plainly: Any) -> None:
    model = trained(tiny())
    truth, ours, plain = plainly(model), step(model, bf16=True), plainly(model, bf16=True)
    assert ours[0].dtype == plain[0].dtype
    assert off(ours[0].float(), truth[0]) < 2 * off(plain[0].float(), truth[0]) + 0.01

    def error(of: Result) -> float:
        return sum(off(of[1][name], gradient) for name, gradient in truth[1].items())

    assert error(ours) < 1.25 * error(plain)


def test_drop_path(plainly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(tiny(), drop_path=0.3)
    rows: list[Tensor] = []

    def masks(keep_K111: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        drawn = torch.bernoulli(keep_K111.expand(-1, batch, 1, 1)) / keep_K111
        rows.extend(drawn.unbind(0))
        return drawn.to(dtype)

    monkeypatch.setattr(fused, "drop_path_masks", masks)
    ours = step(model)
    assert any(float(row.min()) == 0 for row in rows)
    assert sum(isinstance(m, DropPath) for m in model.modules()) <= len(rows)

    def replay(self: DropPath, x_BNC: Tensor) -> Tensor:
        return x_BNC * rows.pop(0).view(-1, 1, 1)

    monkeypatch.setattr(DropPath, "forward", replay)
    assert_equal(ours, plainly(model))
    assert not rows


def test_masks_of_drop_path() -> None:
    torch.manual_seed(0)
    keep_K111 = torch.tensor([0.9, 0.5]).view(-1, 1, 1, 1)
    masks = fused.drop_path_masks(keep_K111, 4000, torch.float32)
    assert masks.shape == (2, 4000, 1, 1)
    assert masks.mean(1).flatten().tolist() == pytest.approx([1, 1], abs=0.05)
    assert set(masks[1].flatten().tolist()) == {0.0, 2.0}


def test_rates_that_change_are_seen() -> None:
    model = trained(tiny())
    step(model)
    for module in model.modules():
        if hasattr(module, "drop_path") and module.drop_path is not None:
            module.drop_path.drop_prob = 0.5
    stage = model.stages[0]
    before = stage.planned.rates
    step(model)
    changed = stage.planned.rates
    assert (before != changed) == any(changed)


def test_twice_backwards_through_one_graph() -> None:
    model = trained(tiny())
    images = torch.randn(2, 3, 32, 32)
    loss = model(images).sum()
    once = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def used(model: SReT, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a training step takes the fused path."""
    calls: list[int] = []
    plain = fused.FusedSteps.apply

    def counted(*args: Any) -> Any:
        calls.append(1)
        return plain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(fused.FusedSteps, "apply", counted)
        step(model)
    return bool(calls)


def test_it_is_used_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert used(trained(tiny()), monkeypatch)


def test_listeners_see_what_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(tiny())
    seen: list[torch.Size] = []
    handle = (
        model.stages[0]
        .mlp[0]
        .fc1.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    )
    assert used(model, monkeypatch)  # by the other stage
    assert seen
    handle.remove()
    with torch.nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert not used(model, monkeypatch)


class Wider(nn.Linear):
    """A layer that somebody puts in the place of ours, as LoRA does."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_replaced_layers_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(tiny())
    for stage in model.stages:
        fc1 = stage.mlp[0].fc1
        stage.mlp[0].fc1 = Wider(fc1.in_features, fc1.out_features)
    assert not used(model, monkeypatch)


@pytest.mark.parametrize(
    "options", [{"fused_attn": False}, {"proj_drop_rate": 0.1}, {"attn_drop_rate": 0.1}]
)
def test_what_it_does_not_know_goes_the_plain_path(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not used(create_model(tiny(), **options).train(), monkeypatch)


def test_double_precision_goes_the_plain_path() -> None:
    model = trained(tiny()).double()
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float64 for p in model.parameters())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of vmap
def test_transforms_go_the_plain_path() -> None:
    model = trained(tiny()).eval()
    params = dict(model.named_parameters())

    def loss(params: dict[str, Tensor], image: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(model, params, (image[None],))
        return out.sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    found = each(params, torch.randn(2, 3, 32, 32))
    assert all(g.shape == (2, *params[name].shape) for name, g in found.items())


def test_frozen_weights_have_no_gradient() -> None:
    model = trained(tiny())
    frozen = model.stages[0].mlp[0].fc1.weight.requires_grad_(False)
    step(model)
    assert frozen.grad is None
