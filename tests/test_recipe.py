"""Every field of a recipe changes the training as it says: beside a loop written out plainly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, Resident, load_data
from sret_nas.recipe import Recipe
from sret_nas.training import Trainer, feeding, trainer

STEPS = 3
PLAIN: dict[str, Any] = {
    "epochs": STEPS, "batch": 64, "lr": 0.01, "weight_decay": 0.05, "warmup": 0.0, "final_lr": 0.01,
    "label_smoothing": 0.1, "clip": 1.0, "mixup": 0.0, "flip": False, "pad": 0, "drop_path": 0.0,
}  # fmt: skip
"""One batch an epoch, and nothing random in it."""


@pytest.fixture(scope="module")
def data() -> DataSet:
    found = load_data(image_size=8, subset=64, val_images=20)
    assert len(found.train) == 64
    return found


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and fp32."""
    monkeypatch.setattr(trainer, "has_dtype", lambda *_: False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arch() -> Architecture:
    return Architecture(
        stages=(Stage(heads=2, head_dim=4, blocks=2, mlp_ratio=1.0),),
        image_size=8, stem_stride=2, in_chans=1, num_classes=10, permute="none",
    )  # fmt: skip


def ours(data: DataSet, recipe: Recipe) -> tuple[Trainer, list[float]]:
    """Trained, and the loss of each step."""
    found = Trainer(arch(), data, recipe, seed=3)
    return found, [found.train_epoch()[0] for _ in range(STEPS)]


def plain(data: DataSet, recipe: Recipe) -> tuple[nn.Module, list[float]]:
    """The same as a page of a textbook has it."""
    model = Trainer(arch(), data, recipe, seed=3).model
    assert isinstance(data.train, Resident)
    images: Tensor = data.train.images.float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    x, y = (images - mean) / std, data.train.labels
    spared = model.no_weight_decay()
    groups: list[dict[str, Any]] = [
        {"params": [p], "weight_decay": recipe.weight_decay * (p.ndim > 1 and name not in spared)}
        for name, p in model.named_parameters()
    ]
    optimiser = torch.optim.AdamW(groups)
    losses = []
    warm = round(recipe.warmup * STEPS)
    for step in range(STEPS):
        if step < warm:
            rate = (step + 1) / warm
        else:
            cosine = (1 + math.cos(math.pi * (step - warm) / (STEPS - warm))) / 2
            rate = recipe.final_lr + (1 - recipe.final_lr) * cosine
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * rate
        optimiser.zero_grad()
        model.train()
        loss = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        losses.append(loss.item())
    return model, losses


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "lr": {"lr": 0.003},
    "weight_decay": {"weight_decay": 1.0},
    "warmup": {"warmup": 0.67},
    "final_lr": {"final_lr": 0.9},
    "label_smoothing": {"label_smoothing": 0.5},
    "clip": {"clip": 1e-6},  # gradients near the epsilon of AdamW: else it hardly matters
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_is_the_textbooks(data: DataSet, name: str) -> None:
    recipe = Recipe(**PLAIN | CHANGES[name])
    (found, losses), (model, expected) = ours(data, recipe), plain(data, recipe)
    assert losses == pytest.approx(expected, rel=1e-4)
    # In training: a bias before a batch norm has no gradient but noise, and no effect.
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.model.train()(x), model.train()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CHANGES if CHANGES[name]])
def test_each_field_makes_a_difference(data: DataSet, name: str) -> None:
    """Else the comparison above would hold without it."""
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    usual, other = (
        ours(data, Recipe(**PLAIN | changes))[0].model.train()(x) for changes in ({}, CHANGES[name])
    )
    assert (usual - other).abs().max() > 3e-3


@pytest.mark.parametrize(
    "changes",
    [{"flip": True}, {"pad": 1}, {"mixup": 0.5}, {"drop_path": 0.9}, {"batch": 32}],
    ids=str,
)
def test_what_is_drawn_changes_what_is_trained_on(data: DataSet, changes: dict[str, Any]) -> None:
    usual, other = (ours(data, Recipe(**PLAIN | c))[1] for c in ({}, changes))
    assert usual != other


def test_flip_is_left_to_data_that_allow_it(data: DataSet) -> None:
    seen: list[bool] = []

    class Spy(feeding.Augment):
        def __init__(self, *args: Any, flip: bool, **options: Any) -> None:
            seen.append(flip)
            super().__init__(*args, flip=flip, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeding, "Augment", Spy)
        for flip in (True, False):
            Trainer(arch(), data, Recipe(**PLAIN | {"flip": flip}))
    assert seen == [data.mirror, False]


def test_epochs(data: DataSet) -> None:
    results = list(Trainer(arch(), data, Recipe(**PLAIN | {"epochs": 2})).epochs())
    assert [result.epoch for result in results] == [1, 2]
