"""Buffers that are functions of the architecture survive every way weights come into being."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sret_nas import Architecture
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
State = dict[str, Tensor]


def on_meta() -> SReT:
    with torch.device("meta"):
        return create_model(SMALL)


def assigned(state: State) -> SReT:
    model = on_meta()
    model.load_state_dict(state, assign=True)
    return model


def emptied(state: State) -> SReT:
    model = on_meta().to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def emptied_then_assigned(state: State) -> SReT:
    model = on_meta().to_empty(device="cpu")
    model.load_state_dict(state, assign=True)
    return model


def emptied_again(state: State) -> SReT:
    model = create_model(SMALL).to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def sent_to_meta(state: State) -> SReT:
    model = create_model(SMALL).to("meta")
    model.load_state_dict(state, assign=True)
    return model


def one_by_one(state: State) -> SReT:
    """As loaders do that put every tensor in its place themselves."""
    model = on_meta()
    for name, value in state.items():
        place, _, leaf = name.rpartition(".")
        module = model.get_submodule(place)
        if leaf in module._buffers:
            module._buffers[leaf] = value
        else:
            setattr(module, leaf, nn.Parameter(value))
    return model


def module_by_module(state: State) -> SReT:
    """As FSDP does: ``to_empty`` without children, then ``reset_parameters``, parents first."""
    model = on_meta()
    for module in model.modules():
        if any(True for _ in (*module.parameters(False), *module.buffers(False))):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()  # type: ignore[operator]
    model.load_state_dict(state)
    return model


def stage_by_stage(state: State) -> SReT:
    model = on_meta()
    for name, child in model.named_children():
        inner = {
            k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")
        }
        child.load_state_dict(inner, assign=True)
    model.pos_embed = nn.Parameter(state["pos_embed"])
    return model


def cast(state: State) -> SReT:
    return assigned(state).to(torch.float64).to(torch.float32)


def copied(state: State) -> SReT:
    model = copy.deepcopy(on_meta())
    model.load_state_dict(state, assign=True)
    return model


@pytest.mark.parametrize(
    "make",
    [
        assigned, emptied, emptied_then_assigned, emptied_again, sent_to_meta, one_by_one,
        module_by_module, stage_by_stage, cast, copied,
    ],
)  # fmt: skip
def test_outputs_are_those_of_an_ordinary_model(make: Callable[[State], SReT]) -> None:
    usual = create_model(SMALL).eval()
    model = make(copy.deepcopy(usual.state_dict())).eval()
    with torch.no_grad():
        outputs = [model(IMAGE) for _ in range(2)]
        assert torch.equal(outputs[0], usual(IMAGE))
        assert torch.equal(outputs[1], outputs[0])
    for stage, other in zip(model.stages, usual.stages, strict=True):
        assert torch.equal(stage.permutations, other.permutations)
        assert torch.equal(stage.inverses, other.inverses)


def test_weights_initialised_after_meta_are_as_usual() -> None:
    model = on_meta().to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    model.init_weights()
    usual = create_model(SMALL).state_dict()
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        if value.numel() > 100:
            assert value.float().std().item() == pytest.approx(usual[name].std().item(), rel=0.3)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert model(IMAGE).isfinite().all()


def test_another_default_device_changes_nothing() -> None:
    with torch.device("cpu"):
        model = create_model(SMALL)
    usual = create_model(SMALL)
    assert torch.equal(model.stages[0].permutations, usual.stages[0].permutations)
    assert on_meta().stages[0].permutations.shape == usual.stages[0].permutations.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_assigned_weights_compile_and_export() -> None:
    usual = create_model(SMALL).eval()
    model = assigned(usual.state_dict()).eval()
    exported = torch.export.export(model, (IMAGE,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(IMAGE), usual(IMAGE))
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(IMAGE), usual(IMAGE), atol=1e-5, rtol=1e-5)


@pytest.mark.cuda
def test_materialised_on_a_gpu() -> None:
    usual = create_model(SMALL).eval()
    with torch.device("cuda"):
        direct = create_model(SMALL)
    assert torch.equal(direct.stages[0].permutations.cpu(), usual.stages[0].permutations)
    model = on_meta()
    model.load_state_dict({k: v.cuda() for k, v in usual.state_dict().items()}, assign=True)
    torch.testing.assert_close(model.eval()(IMAGE.cuda()).cpu(), usual(IMAGE), atol=1e-3, rtol=1e-3)
