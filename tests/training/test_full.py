"""Full training: everything in a recipe does something, and a training goes on as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.data import create_transform
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, load_data
from sret_nas.device import dtypes
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import create_model
from sret_nas.recipe import PICTURE_LEVEL, FullRecipe, presets
from sret_nas.training import checkpoints, full
from sret_nas.training.feeding import DeviceFeed, Feed
from sret_nas.training.full import FullTrainer
from sret_nas.training.pictures import PictureFeed

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
BASE: dict[str, Any] = {"epochs": 2, "batch": 16, "lr": 2e-3, "dtype": "fp32"}
PICTURES: dict[str, Any] = {"scale": [0.5, 1.0]}
CHANGES: dict[str, dict[str, Any]] = {
    "batch": {"batch": 32},
    "lr": {"lr": 1e-3},
    "lr_batch": {"lr_batch": 64},
    "weight_decay": {"weight_decay": 0.5},
    "warmup": {"warmup": 0.5},
    "final_lr": {"final_lr": 0.5},
    "label_smoothing": {"label_smoothing": 0.3},
    "clip": {"clip": 0.1},
    "drop_path": {"drop_path": 0.3},
    "flip": {"flip": False},
    "pad": {"pad": 2},
    "mixup": {"mixup": 0.8},
    "cutmix": PICTURES | {"cutmix": 1.0},
    "mix_prob": PICTURES | {"cutmix": 1.0, "mix_prob": 0.3},
    "switch_prob": PICTURES | {"cutmix": 1.0, "mixup": 0.8, "switch_prob": 0.0},
    "scale": {"scale": [0.2, 0.4]},
    "auto_augment": PICTURES | {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "jitter": PICTURES | {"jitter": 0.5},
    "erasing": PICTURES | {"erasing": 0.9},
    "repeats": PICTURES | {"repeats": 3},
    "dtype": {"dtype": "bf16"},
}
"""Of each field another value; those of the same pictures are compared with ``PICTURES``."""
ELSEWHERE = {"epochs", "image_size", "ema", "accumulate", "compile", "graphs", "distill",
             "temperature"}  # fmt: skip
"""Fields with tests of their own."""


def arch(**changes: Any) -> Architecture:
    stages = (
        Stage(heads=2, head_dim=4, recursions=2, groups=(2, 4), mlp_ratio=1.0),
        Stage(heads=2, head_dim=8, mlp_ratio=1.0, nll_ratio=0.0),
    )
    settings = {"image_size": 16, "stem_stride": 4, "in_chans": 1, "num_classes": 10}
    return Architecture(stages=stages, **(settings | changes))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(image_size=16, subset=64, val_images=40)


def trainer(data: DataSet, changes: dict[str, Any] | None = None, **options: Any) -> FullTrainer:
    recipe = FullRecipe.load({**BASE, **(changes or {})})
    feed: Feed = DeviceFeed(data, recipe, CPU, (1, 2))
    if recipe.on_pictures:
        feed = PictureFeed(data, recipe, CPU, 3)

    def network() -> nn.Module:
        return create_model(arch(), drop_path_rate=recipe.drop_path)

    return FullTrainer(network, data, recipe, feed, seed=4, device=CPU, **options)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def trained(data: DataSet, changes: dict[str, Any] | None = None) -> Tensor:
    made = trainer(data, changes)
    for _ in range(made.recipe.epochs):
        made.train_epoch()
    return weights(made.model)


def test_every_field_is_tried() -> None:
    assert set(CHANGES) | ELSEWHERE == set(FullRecipe.model_fields)


@pytest.fixture(scope="module")
def usual(data: DataSet) -> dict[bool, Tensor]:
    return {False: trained(data), True: trained(data, PICTURES)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_changes_the_training(
    data: DataSet, usual: dict[bool, Tensor], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtypes, "has_dtype", lambda *_: True)
    changes = CHANGES[field]
    on_pictures = any(key in PICTURE_LEVEL for key in changes)
    found = trained(data, changes)
    assert not torch.equal(found, usual[on_pictures]), field
    assert torch.equal(found, trained(data, changes))  # and is the same each time


# -- what each does ------------------------------------------------------------------------------


def test_the_moving_average_is_timms_and_is_what_is_validated(data: DataSet) -> None:
    made = trainer(data, {"ema": 0.5})
    plain = trainer(data)
    average = ModelEmaV3(plain.model, decay=0.5, use_warmup=True)
    for _ in range(2):
        made.train_epoch()
        plain.train_epoch(lambda: average.update(plain.model, step=plain.step))
    assert torch.equal(weights(made.model), weights(plain.model))
    assert torch.equal(weights(made.judged), weights(average.module))
    assert not torch.equal(weights(made.judged), weights(made.model))
    assert made.validate(data.val) != plain.validate(data.val)
    plain.model.load_state_dict(average.module.state_dict())
    assert made.validate(data.val) == plain.validate(data.val)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(data: DataSet) -> None:
    """In eval mode: the stem's BatchNorm normalises over what it is given."""
    found = []
    for parts in (1, 4):
        made = trainer(data, {"accumulate": parts, "drop_path": 0.0})
        made.model.eval()
        next(made.feed.epoch(1))
        sizes: list[int] = []
        made.model.register_forward_pre_hook(lambda _m, x, sizes=sizes: sizes.append(len(x[0])))
        loss = made._gradients()
        assert sizes == [16 // parts] * parts
        found.append((loss, [p.grad for p in made.model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_fp16_scales_the_loss_and_leaves_out_steps_that_overflow(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "torch_dtype", lambda *_: torch.float16)
    made = trainer(data, {"dtype": "fp16"})
    assert made.scaler is not None
    next(made.feed.epoch(1))
    made.rates_T.fill_(1e-3)
    before = weights(made.model)
    made.model.train()
    kinds: set[torch.dtype] = set()
    made.model.stages[0].mlp[0].fc1.register_forward_hook(lambda *a: kinds.add(a[2].dtype))
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # gradients become infinite
    made._train_step()
    assert torch.equal(weights(made.model), before) and made.scaler.get_scale() < 2.0**120
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    made.at.zero_()
    made._train_step()
    assert kinds == {torch.float16}
    assert not torch.equal(weights(made.model), before) and weights(made.model).isfinite().all()
    assert "scale" in made.state_dict()["scaler"]


def test_a_type_that_the_device_has_not_is_refused(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtypes, "has_dtype", lambda dtype, _: dtype == "fp32")
    with pytest.raises(UsageError, match="cpu has no bf16 arithmetic"):
        trainer(data, {"dtype": "bf16"})


def test_compiled_steps_are_those_of_the_network(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []

    def compiled(model: nn.Module) -> Any:
        asked.append(model)
        return torch.compiler.disable(model)  # what a compiler makes of it is torch's own matter

    monkeypatch.setattr(torch, "compile", compiled)
    assert torch.equal(trained(data, {"compile": True}), trained(data))
    assert len(asked) == 1


class Fixed:
    """A teacher that always says the same."""

    def __init__(self, probabilities_K: Tensor) -> None:
        self.probabilities_K = probabilities_K

    def targets(self, x: Tensor, labels: Tensor, kind: str, temperature: float) -> Tensor:
        self.asked = (labels, kind, temperature)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
        if kind == "soft":
            return self.probabilities_K.expand(len(x), -1)
        return labels / 2 + F.one_hot(self.probabilities_K.argmax(), 10) / 2


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 4.0), ("hard", 1.0)])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_teachers_loss_is_the_published_one(
    data: DataSet, kind: str, temperature: float, parts: int
) -> None:
    teacher = Fixed(torch.arange(10.0).softmax(0))
    changes = {"distill": kind, "drop_path": 0.0, "label_smoothing": 0.0, "accumulate": parts}
    made = trainer(data, changes, teacher=teacher, temperature=temperature)
    made.model.eval()
    next(made.feed.epoch(1))
    loss = made._gradients()
    x, weights_BK = made.feed.read(made.at)
    logits = made.model(x)
    labels = weights_BK.argmin(1)
    if kind == "soft":
        logs = F.log_softmax(logits / temperature, 1)
        expected = -(teacher.probabilities_K * logs).sum(1).mean()
    else:
        guesses = torch.full_like(labels, 9)
        expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits, guesses)) / 2
    torch.testing.assert_close(loss, expected, check_dtype=False)
    assert teacher.asked[1:] == (kind, temperature)


def test_a_training_learns(data: DataSet) -> None:
    made = trainer(data, PICTURES | {"epochs": 12, "lr": 5e-3, "ema": 0.8})
    results = list(made.epochs())
    assert results[-1].val_loss < results[0].val_loss and results[-1].val_accuracy > 0.2


# -- states ------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(
    "changes",
    [
        {"pad": 1, "mixup": 0.5, "drop_path": 0.2, "ema": 0.9},
        {"scale": [0.4, 1.0], "auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.3,
         "cutmix": 1.0, "drop_path": 0.2, "ema": 0.9, "repeats": 2},
    ],
    ids=["device", "pictures"],
)  # fmt: skip
@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_a_training_goes_on_bit_by_bit(
    data: DataSet, tmp_path: Path, changes: dict[str, Any], killed_at: int
) -> None:
    whole = trainer(data, changes)
    expected = [(one.train_loss, one.val_loss) for one in whole.epochs()]
    first = trainer(data, changes)

    def after() -> None:
        if first.step == killed_at:
            checkpoints.save(first.state_dict(), tmp_path, first.step)
            raise KilledError

    with pytest.raises(KilledError):
        while True:
            first.train_epoch(after)
            first.validate(data.val)
    second = trainer(data, changes)
    state = checkpoints.latest(tmp_path)
    assert state is not None
    second.load_state_dict(state)
    assert second.step == killed_at
    found = []
    while second.epoch < 2 or second.done:
        loss, _ = second.train_epoch()
        found.append((loss, second.validate(data.val)[0]))
    assert found == expected[-len(found) :]
    assert torch.equal(weights(second.model), weights(whole.model))
    assert torch.equal(weights(second.judged), weights(whole.judged))


def test_the_last_two_states_are_kept_and_a_broken_one_is_passed_over(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoints.save({"number": number, "x": torch.ones(3)}, tmp_path, number)
    kept = sorted(tmp_path.iterdir())
    assert [int(path.name[:9]) for path in kept] == [2, 3]
    content = bytearray(kept[1].read_bytes())
    content[len(content) // 2] ^= 1
    kept[1].write_bytes(content)
    told: list[str] = []
    state = checkpoints.latest(tmp_path, told.append)
    assert state is not None and state["number"] == 2
    assert len(told) == 1 and str(kept[1]) in told[0]
    kept[0].write_bytes(b"")
    assert checkpoints.latest(tmp_path, told.append) is None and len(told) == 3


def test_a_state_that_cannot_be_written_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoints.save({"x": 1}, tmp_path, 1)

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoints.save({"x": 2}, tmp_path, 2)
    assert str(tmp_path) in str(raised.value.filename)
    assert list(tmp_path.iterdir()) == [first]


# -- recipes -----------------------------------------------------------------------------------


def test_the_recipes_that_come_along() -> None:
    assert list(presets()) == ["finetune", "short", "sret"]
    found = {name: FullRecipe.load(name) for name in presets()}
    published = found["sret"]
    assert (published.epochs, published.rate, published.warmup * published.epochs) == (
        300, 2e-3, 30.0,
    )  # fmt: skip
    assert published.image_size is None and found["finetune"].image_size is None
    assert not found["short"].on_pictures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_augment": "rnd-m9"}, "auto_augment: given 'rnd-m9'; allowed: a policy of timm's"),
        (
            {"auto_augment": "rand-x9"},
            "given 'x9' in 'rand-x9'; allowed with rand: m 0 to 10, mstd",
        ),
        ({"auto_augment": "rand-"}, "given '' in 'rand-'"),
        ({"auto_augment": "rand-m9-mstd"}, "given 'mstd' in"),
        ({"auto_augment": "rand-m99"}, "given 'm99' in"),
        ({"auto_augment": "rand-n1.5"}, "given 'n1.5' in"),
        ({"auto_augment": "rand-tnone"}, "given 'tnone' in .* tweights, t3a, t3aw"),
        ({"auto_augment": "original-m9"}, "given 'm9' in .* allowed with original: mstd 0 to"),
        ({"auto_augment": "augmix-w0"}, "given 'w0' in"),
        ({"scale": [0.5, 0.2]}, "scale: given .* ascending"),
        ({"pad": 2, "cutmix": 1.0}, "pad: given 2; allowed with cutmix: 0"),
        ({"accumulate": 32}, "accumulate: given 32; allowed: up to the batch"),
        ({"epoch": 3}, "epoch: unknown key; did you mean 'epochs'"),
        ({"dtype": "int8"}, "dtype: given 'int8'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FullRecipe.load({**BASE, **changes})


@pytest.mark.parametrize(
    "policy",
    ["rand", "rand-m10-n3-p0.5-mstd101-mmax10-inc1", "rand-m9-t3aw", "augmix-m5-w4-d2-a0.5-b1",
     "original-mstd0.5", "originalr", "v0", "v0r-mstd1", "3a"],
)  # fmt: skip
def test_a_policy_of_timms_is_one_for_timm(policy: str) -> None:
    recipe = FullRecipe.load({**BASE, "auto_augment": policy})
    assert recipe.auto_augment is not None
    create_transform(32, is_training=True, auto_augment=recipe.auto_augment)
