"""What works with timm's ``deit_tiny_patch16_224`` works with ours: one list of operations."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import timm.data
import timm.optim
import timm.utils
import torch
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import sret_nas

SIZE = 64
SMALL = {
    "image_size": 48,
    "num_classes": 11,
    "stages": [
        {"heads": 2, "head_dim": 8, "blocks": 2, "recursions": 2, "groups": [4, 2]},
        {"heads": 4, "head_dim": 8, "recursions": 3, "groups": [1, 3, 3], "share": "mlp"},
    ],
}
IMAGE = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
Make = Callable[..., Any]

MAKERS: dict[str, Make] = {
    "deit": lambda **o: timm.create_model("deit_tiny_patch16_224", **({"img_size": SIZE} | o)),
    "sret_t": lambda **o: timm.create_model("sret_t", **({"img_size": SIZE} | o)),
    "ours": lambda **o: sret_nas.create_model(
        SMALL, **({"img_size": SIZE, "num_classes": 1000} | o)
    ),
}


@pytest.fixture(autouse=True)
def one_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def out(model: nn.Module, image: Tensor = IMAGE) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(image)
    return result


def features(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    grid = model.forward_features(IMAGE)
    pooled = model.forward_head(grid, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size) == (2, model.num_features)
    assert torch.equal(model.forward_head(grid), model(IMAGE))
    assert make(num_classes=0)(IMAGE).shape == (2, model.num_features)


def classifier(make: Make, tmp_path: Path) -> None:
    model = make()
    assert model.get_classifier().out_features == model.num_classes == 1000
    model.reset_classifier(7)
    assert out(model).shape == (2, 7)
    assert model.num_classes == 7


def intermediates(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    _, grids = model.forward_intermediates(IMAGE, indices=2)
    assert len(grids) == 2
    assert grids[-1].ndim == 4
    short = model.prune_intermediate_layers(indices=[0])
    assert short == [0]
    assert len(model.forward_intermediates(IMAGE, intermediates_only=True)) == 1


def features_only(make: Make, tmp_path: Path) -> None:
    model = make(features_only=True, out_indices=(0, 1)).eval()
    grids = model(IMAGE)
    assert [grid.shape[1] for grid in grids] == model.feature_info.channels()
    assert [SIZE // grid.shape[-1] for grid in grids] == model.feature_info.reduction()


def features_by_fx_and_hooks(make: Make, tmp_path: Path) -> None:
    for kind in ("fx", "hook"):
        model = make(features_only=True, out_indices=(0, 1), feature_cls=kind).eval()
        assert len(model(IMAGE)) == 2


def input_size(make: Make, tmp_path: Path) -> None:
    model = make()
    model.set_input_size((96, 96))
    assert out(model, torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    fresh = make(img_size=96)
    fresh.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 96, 96)
    assert torch.equal(out(fresh, image), out(model, image))
    with pytest.raises(AssertionError):
        model(IMAGE)


def checkpointing(make: Make, tmp_path: Path) -> None:
    model = make(drop_path_rate=0.0).eval()
    model(IMAGE).sum().backward()
    name, weight = list(model.named_parameters())[5]
    before = weight.grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing(True)
    model(IMAGE).sum().backward()
    torch.testing.assert_close(weight.grad, before, msg=name)


def layer_decay(make: Make, tmp_path: Path) -> None:
    model = make()
    groups = timm.optim.param_groups_layer_decay(
        model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.75
    )
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    layers = len({group["lr_scale"] for group in groups})
    depth = len(model.blocks) if hasattr(model, "blocks") else model.arch.depth
    assert layers == depth + 2  # the stem, every block application, the head
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    assert sum(map(len, coarse.values())) == len(list(model.parameters()))


def optimizer_and_ema(make: Make, tmp_path: Path) -> None:
    model = make()
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.9)
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    model(IMAGE).square().mean().backward()
    optimizer.step()
    average.update(model)
    assert out(average.module).isfinite().all()


def data_config(make: Make, tmp_path: Path) -> None:
    config = timm.data.resolve_model_data_config(make(img_size=224))
    assert config["input_size"] == (3, 224, 224)
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN or len(config["mean"]) == 3
    assert timm.data.create_transform(**config)
    assert set(make().pretrained_cfg) >= {"input_size", "num_classes", "classifier", "first_conv"}


def to_a_folder(make: Make, tmp_path: Path) -> None:
    model = make(num_classes=5)
    timm.models.save_for_hf(
        model, str(tmp_path), safe_serialization=True, model_config={"label_names": list("abcde")}
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_classes"] == 5
    assert config["pretrained_cfg"]["input_size"] == [3, SIZE, SIZE]
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(out(again), out(model))
    assert list(again.pretrained_cfg["label_names"]) == list("abcde")
    other = timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=1, img_size=96
    )
    assert out(other, torch.zeros(1, 1, 96, 96)).shape == (1, 3)
    assert torch.equal(other.norm.weight, model.norm.weight)


def from_a_file(make: Make, tmp_path: Path) -> None:
    model = make()
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    overlay = {"file": str(path), "num_classes": 1000, "input_size": (3, SIZE, SIZE)}
    again = make(pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(out(again), out(model))
    other = make(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    assert out(other, torch.zeros(1, 1, SIZE, SIZE)).shape == (1, 3)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    third = make(checkpoint_path=str(tmp_path / "w.safetensors"))
    assert torch.equal(out(third), out(model))


def traced_by_fx(make: Make, tmp_path: Path) -> None:
    model = make(drop_path_rate=0.2)
    for training in (True, False):
        torch.fx.symbolic_trace(model.train(training))
    traced = torch.fx.symbolic_trace(model.eval())
    assert torch.equal(traced(IMAGE), model(IMAGE))
    assert set(traced.state_dict()) == set(model.state_dict())


def feature_extractor(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    _, nodes = get_graph_node_names(model)
    inner = next(node for node in reversed(nodes) if node.endswith("fc2"))
    for create in (create_feature_extractor, timm.models.create_feature_extractor):
        found = create(model, [inner])(IMAGE)
        assert found[inner].ndim == 3


def scripted(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    script = torch.jit.script(model)
    torch.testing.assert_close(script(IMAGE), model(IMAGE))
    buffer = io.BytesIO()
    torch.jit.save(script, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(IMAGE), model(IMAGE))


def traced_by_jit(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    trace = torch.jit.trace(model, IMAGE)
    torch.testing.assert_close(trace(IMAGE), model(IMAGE))


def exported(make: Make, tmp_path: Path) -> None:
    model = make().eval()
    torch.testing.assert_close(torch.export.export(model, (IMAGE,)).module()(IMAGE), model(IMAGE))


def copies(make: Make, tmp_path: Path) -> None:
    model = make()
    assert torch.equal(out(copy.deepcopy(model)), out(model))
    assert torch.equal(out(pickle.loads(pickle.dumps(model))), out(model))


def devices_and_precisions(make: Make, tmp_path: Path) -> None:
    model = make(device="meta", dtype=torch.bfloat16)
    assert {value.device.type for value in model.parameters()} == {"meta"}
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    usual = make()
    with torch.device("meta"):
        bare = make()
    bare.load_state_dict(usual.state_dict(), assign=True)
    reinit_non_persistent_buffers(bare)
    assert torch.equal(out(bare), out(usual))


def frozen(make: Make, tmp_path: Path) -> None:
    model = make()
    timm.utils.freeze(model, [name for name, _ in model.named_children() if name != "head"])
    model(IMAGE).sum().backward()
    assert model.head.weight.grad is not None
    assert model.norm.weight.grad is None
    assert timm.utils.reparameterize_model(model, inplace=False) is not model


def attributes(make: Make, tmp_path: Path) -> None:
    model = make()
    for name in ("num_classes", "num_features", "embed_dim", "in_chans", "global_pool"):
        assert getattr(model, name) is not None, name
    assert model.feature_info[0].keys() >= {"num_chs", "reduction", "module"}
    assert model.default_cfg is model.pretrained_cfg
    model.init_weights()


OPERATIONS = [
    features, classifier, intermediates, features_only, features_by_fx_and_hooks, input_size,
    checkpointing, layer_decay, optimizer_and_ema, data_config, to_a_folder, from_a_file,
    traced_by_fx, feature_extractor, scripted, traced_by_jit, exported, copies,
    devices_and_precisions, frozen, attributes,
]  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:NOTE. The nodes obtained by tracing", "ignore:`torch.jit", "ignore::FutureWarning"
)
@pytest.mark.filterwarnings("ignore:The TorchScript type system")  # of GraphModule itself
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("maker", MAKERS)
def test_what_works_with_deit_works_with_ours(
    maker: str, operation: Callable[[Make, Path], None], tmp_path: Path
) -> None:
    operation(MAKERS[maker], tmp_path)
