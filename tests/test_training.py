"""The training loop: learns, repeats itself, fails with a reason, leaves no trace."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, Resident, load_data
from sret_nas.errors import TrainingError
from sret_nas.proxy import PRESETS
from sret_nas.recipe import Recipe
from sret_nas.training import (
    DivergedError,
    EpochResult,
    NotFiniteError,
    OutOfMemoryError,
    Trainer,
    failures,
    schedule,
)
from sret_nas.training import trainer as trainer_module
from sret_nas.training.feeding import NOBODY, fill, smoothed
from sret_nas.training.randomness import Random

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(epochs=3, batch=16, lr=2e-3, pad=1)


def arch(**changes: Any) -> Architecture:
    """Two stages; the second loop of the first is permuted and sliced."""
    stages = (
        Stage(heads=2, head_dim=4, recursions=2, groups=(2, 4), mlp_ratio=1.0),
        Stage(heads=2, head_dim=8, mlp_ratio=1.0, nll_ratio=0.0),
    )
    settings = {"image_size": 16, "stem_stride": 4, "in_chans": 1, "num_classes": 10}
    return Architecture(stages=stages, **(settings | changes))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(image_size=16, subset=160, val_images=60)


def without_time(results: list[EpochResult]) -> list[EpochResult]:
    return [replace(result, seconds=0.0) for result in results]


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_learns(data: DataSet):
    results = list(Trainer(arch(), data, RECIPE.model_copy(update={"epochs": 12})).epochs())
    assert [result.epoch for result in results] == list(range(1, 13))
    assert all(result.images == 160 and result.seconds > 0 for result in results)
    assert results[-1].val_loss < 1.6 < math.log(10) and results[-1].val_accuracy > 0.4
    assert results[-1].train_loss < results[0].train_loss


@pytest.mark.parametrize("permute", ["fixed", "random"])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_a_seed_repeats_bit_by_bit_whatever_happens_outside(
    data: DataSet, permute: str, mixup: float
):
    recipe = RECIPE.model_copy(update={"mixup": mixup, "drop_path": 0.2})
    one = Trainer(arch(permute=permute), data, recipe, seed=7)
    first = list(one.epochs())
    torch.rand(3)
    two = Trainer(arch(permute=permute), data, recipe, seed=7)
    second = []
    for result in two.epochs():
        second.append(result)
        torch.rand(5)
    assert without_time(first) == without_time(second)
    assert torch.equal(weights(one), weights(two))
    other = Trainer(arch(permute=permute), data, recipe, seed=8)
    assert next(other.epochs()).val_loss != first[0].val_loss


def test_two_trainings_in_turn_do_not_disturb_each_other(data: DataSet):
    alone = without_time(list(Trainer(arch(), data, RECIPE, seed=1).epochs()))
    pair = [Trainer(arch(), data, RECIPE, seed=seed).epochs() for seed in (1, 2)]
    turns = [(next(pair[0]), next(pair[1]))[0] for _ in range(3)]
    assert without_time(turns) == alone


def test_stopped_and_continued_equals_uninterrupted(data: DataSet):
    whole = without_time(list(Trainer(arch(), data, RECIPE).epochs()))
    trainer = Trainer(arch(), data, RECIPE)
    parts = list(itertools.islice(trainer.epochs(), 1))
    parts += trainer.epochs()
    assert without_time(parts) == whole


def test_global_generators_are_left_alone(data: DataSet):
    torch.manual_seed(3)
    np_before = np.random.get_state()[1].copy()  # noqa: NPY002
    before = torch.get_rng_state()
    list(Trainer(arch(permute="random"), data, RECIPE).epochs())
    assert torch.equal(before, torch.get_rng_state())
    assert (np_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_left_alone_after_an_error_too(data: DataSet, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(arch(), data, RECIPE)
    before = torch.get_rng_state()
    monkeypatch.setattr(trainer, "_gradients", lambda: torch.rand(1) / (1 // 0))
    with pytest.raises(ZeroDivisionError):
        trainer.train_epoch()
    assert torch.equal(before, torch.get_rng_state())


def test_weight_decay_spares_vectors_and_what_the_model_names(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    decayed, spared = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        name for name, p in trainer.model.named_parameters() if p.ndim > 1 and name != "pos_embed"
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_learning_rate_warms_up_and_falls_as_a_cosine(data: DataSet):
    recipe = Recipe(epochs=4, batch=16, lr=0.5, warmup=0.1, final_lr=0.01)
    rates = [schedule(recipe, step, 40) for step in range(41)]
    trainer = Trainer(arch(), data, recipe)
    for epoch in range(4):
        trainer.train_epoch()
        expected = torch.tensor(rates[10 * epoch : 10 * epoch + 10]) / 2
        torch.testing.assert_close(trainer.rates_T, expected)
        assert all(group["lr"] == trainer.rates_T[-1] for group in trainer.optimizer.param_groups)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[22] == pytest.approx(0.505) and rates[40] == pytest.approx(0.01)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_drop_path_is_the_architectures_unless_the_recipe_says_otherwise(data: DataSet):
    def rates(recipe: Recipe) -> set[float]:
        model = Trainer(arch(), data, recipe).model
        return {m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")}

    assert max(rates(RECIPE)) == pytest.approx(0.1 * 2 / 3)
    assert rates(RECIPE.model_copy(update={"drop_path": 0.0})) == set()


def test_what_the_cpu_is_suited_with_computes_the_same(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE, seed=4)
    plain = Trainer(arch(), data, RECIPE, seed=4)
    plain.model.set_fused_attn(True)
    for pool in plain.model.pools:
        pool.__dict__.pop("forward", None)
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(x), plain.model.eval()(x))


def test_nan_is_a_failure_with_its_reason(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    with torch.no_grad():
        trainer.model.head.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="epoch 1: the training loss is nan") as caught:
        next(trainer.epochs())
    assert isinstance(caught.value, TrainingError) and caught.value.reason == "NaN"
    with pytest.raises(NotFiniteError, match="the validation loss is nan"):
        trainer.validate(data.val)


def test_divergence_is_a_failure_with_its_reason(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    with torch.no_grad():
        trainer.model.head.bias[0] = 1e4
    with pytest.raises(DivergedError, match=r"that of guessing 2\.3") as caught:
        next(trainer.epochs())
    assert caught.value.reason == "diverged"


class Small:
    """Memory for so many images: a larger batch through the network fails."""

    def __init__(self, trainer: Trainer, images: int, error: Exception) -> None:
        self.images, self.error, self.sizes = images, error, []
        trainer.model.register_forward_pre_hook(self)

    def __call__(self, _: Any, inputs: tuple[Tensor]) -> None:
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.images:
            raise self.error


LACK_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", LACK_OF_MEMORY)
def test_out_of_memory_goes_on_in_parts_with_the_same_batch(data: DataSet, error: Exception):
    """No normalisation over the batch but the stem's: in eval mode, parts change nothing."""

    def run(memory: int) -> tuple[Trainer, Small, Tensor]:
        trainer = Trainer(arch(permute="none"), data, RECIPE.model_copy(update={"drop_path": 0.0}))
        trainer.bf16 = False
        trainer.model.eval()
        small = Small(trainer, memory, error)
        next(trainer.feed.epoch(1))
        trainer._train_step_as_memory_allows()
        return trainer, small, trainer.loss

    whole, _, expected = run(16)
    parts, small, loss = run(5)
    assert small.sizes == [16, 8, 4, 4, 4, 4] and parts.parts == 4
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)
    assert parts.at.item() == whole.at.item() == 1


def test_out_of_memory_in_the_end_has_its_reason(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    small = Small(trainer, 0, LACK_OF_MEMORY[0])
    with pytest.raises(OutOfMemoryError, match="with one image at a time") as caught:
        next(trainer.epochs())
    assert caught.value.reason == "out of memory" and small.sizes == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("error", LACK_OF_MEMORY)
def test_out_of_memory_where_nothing_can_be_smaller_has_its_reason(
    data: DataSet, error: Exception, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise error

    trainer = Trainer(arch(), data, RECIPE)
    monkeypatch.setattr(trainer.optimizer, "step", full)
    with pytest.raises(OutOfMemoryError, match="epoch 1, in the optimiser: out of memory on cpu"):
        next(trainer.epochs())
    monkeypatch.setattr(Resident, "to", full)
    with pytest.raises(OutOfMemoryError, match="the network and its data: out of memory") as caught:
        Trainer(arch(), data, RECIPE)
    assert caught.value.reason == "out of memory"


def test_validation_out_of_memory_takes_smaller_batches(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    expected = trainer.validate(data.val)
    Small(trainer, 7, LACK_OF_MEMORY[0])
    loss, accuracy = trainer.validate(data.val)
    assert loss == pytest.approx(expected[0], rel=1e-2) and accuracy == expected[1]


def test_other_errors_pass_through(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    Small(trainer, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        next(trainer.epochs())


def test_validation_is_plain_cross_entropy(data: DataSet):
    trainer = Trainer(arch(), data, RECIPE)
    trainer.bf16 = False
    assert isinstance(data.val, Resident)
    x = (data.val.images / 255 - data.mean[0]) / data.std[0]
    with torch.no_grad():
        logits = trainer.model.eval()(x)
    loss, accuracy = trainer.validate(data.val)
    expected = torch.nn.functional.cross_entropy(logits, data.val.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == data.val.labels).double().mean().item()


class OneLayer(nn.Module):
    """Dispatches three operations: a product with a bias; backward, a product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16 * 16, 10))
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(1), self.weight)

    def no_weight_decay(self) -> set[str]:
        return set()


def test_a_step_is_few_operations_beside_the_network(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    count = importlib.import_module("operations").Operations()
    monkeypatch.setattr("sret_nas.training.trainer.create_model", lambda *_, **__: OneLayer())
    trainer = Trainer(arch(), data, PRESETS["standard"], device=torch.device("cpu"))
    trainer.bf16 = False
    trainer.train_epoch()
    trainer.at.zero_()
    with count:
        trainer._train_step()
    assert count.counts["aten.addmm"] == count.counts["aten.mm"] == 1
    assert 20 < count.counts.total() - 3 <= 35, count.counts


@pytest.mark.cuda
def test_learns_on_a_gpu(data: DataSet):
    recipe = RECIPE.model_copy(update={"epochs": 12})
    before = torch.cuda.get_rng_state()
    trainer = Trainer(arch(), data, recipe, device=torch.device("cuda"))
    assert list(trainer.epochs())[-1].val_loss < 1.6
    assert torch.equal(before, torch.cuda.get_rng_state())


# -- in figures and words ----------------------------------------------------------------------


def test_seconds_of_an_epoch_are_those_between_two_looks_at_the_clock(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([100.0, 103.0, 200.0, 207.0])
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: next(looks))
    recipe = RECIPE.model_copy(update={"epochs": 2})
    assert [result.seconds for result in Trainer(arch(), data, recipe).epochs()] == [3.0, 7.0]


def test_a_loss_is_the_mean_over_the_steps(data: DataSet) -> None:
    trainer = Trainer(arch(), data, RECIPE)
    losses: list[float] = []
    real = trainer._update

    def update(loss: Tensor) -> None:
        losses.append(loss.item())
        real(loss)

    trainer._update = update  # type: ignore[method-assign]
    loss, images = trainer.train_epoch()
    assert len(losses) == 10 and images == 160
    assert loss == pytest.approx(sum(losses) / 10)
    assert (trainer.epoch, trainer.step) == (1, 10)


def test_a_batch_that_does_not_divide_the_images_leaves_some_out(data: DataSet) -> None:
    trainer = Trainer(arch(), data, RECIPE.model_copy(update={"batch": 48}))
    assert (trainer.feed.batch, trainer.feed.steps) == (48, 3)
    assert trainer.train_epoch()[1] == 144
    whole = Trainer(arch(), data, RECIPE.model_copy(update={"batch": 1000}))
    assert (whole.feed.batch, whole.feed.steps) == (160, 1)


def test_as_many_are_validated_at_once_as_a_batch_or_256(data: DataSet) -> None:
    many = replace(data, val=load_data(image_size=16, subset=160, val_images=600).val)
    assert Trainer(arch(), many, RECIPE).scored == 256
    large = RECIPE.model_copy(update={"batch": 300})
    longer = replace(many, train=load_data(image_size=16, subset=400, val_images=600).train)
    assert Trainer(arch(), longer, large).scored == 300
    assert Trainer(arch(), data, RECIPE).scored == 60


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (math.nan, NotFiniteError, "epoch 3: the training loss is nan"),
        (math.inf, NotFiniteError, "epoch 3: the training loss is inf"),
        (7.0, DivergedError, "epoch 3: the training loss is 7, that of guessing 2.3"),
    ],
)
def test_a_loss_that_is_none_is_told_with_what_helps(
    loss: float, error: type[TrainingError], message: str
) -> None:
    with pytest.raises(error) as caught:
        failures.checked(loss, 3, 10)
    assert (str(caught.value), caught.value.hint) == (message, "a lower lr")


def test_a_loss_up_to_three_times_that_of_guessing_is_one() -> None:
    assert failures.checked(6.9, 3, 10) == 6.9 < 3 * math.log(10)


def test_while_the_rate_rises_a_loss_may_be_larger(data: DataSet) -> None:
    assert failures.checked(9.0, 1, 2, begun=True) == 9.0 > 3 * math.log(2)
    with pytest.raises(NotFiniteError):
        failures.checked(math.nan, 1, 2, begun=True)
    for warmup, ends in ((0.5, False), (0.0, True)):
        trainer = Trainer(arch(), data, RECIPE.model_copy(update={"epochs": 2, "warmup": warmup}))
        trainer.loss = Large()
        with pytest.raises(DivergedError) if ends else contextlib.nullcontext():
            trainer.train_epoch()


class Large:
    """A sum of losses that is far above guessing, whatever is added."""

    def zero_(self) -> None: ...

    def add_(self, _: Tensor) -> None: ...

    def item(self) -> float:
        return 1e6


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        *((error, True) for error in LACK_OF_MEMORY),
        (RuntimeError("not enough memory: you tried to allocate"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_what_a_lack_of_memory_is(error: Exception, lack: bool) -> None:
    assert failures.is_out_of_memory(error) is lack


def test_after_the_end_the_rate_stays_where_it_is() -> None:
    recipe = Recipe(epochs=4, warmup=0.5, final_lr=0.25)
    assert schedule(recipe, 8, 8) == schedule(recipe, 30, 8) == 0.25
    assert schedule(recipe, 6, 8) == pytest.approx(0.625)
    assert schedule(recipe, 3, 8) == schedule(recipe, 4, 8) == 1.0
    late = recipe.model_copy(update={"warmup": 0.99})  # of ten steps, ten
    assert [schedule(late, step, 10) for step in (4, 9, 10, 11)] == [0.5, 1.0, 1.0, 0.25]


def test_generators_of_a_gpu_are_swapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"cuda:1": "outside"}
    random = Random(3, torch.device("cpu"))
    random.device, random.cuda = torch.device("cuda:1"), "inside"  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[str(device)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda new, device: states.update({str(device): new})
    )
    cpu = torch.get_rng_state()
    with random:
        assert states == {"cuda:1": "inside"}
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(3).get_state())
        assert torch.equal(random.cpu, cpu)
        states["cuda:1"] = "later"
    assert (states, random.cuda) == ({"cuda:1": "outside"}, "later")
    assert torch.equal(torch.get_rng_state(), cpu)


@pytest.mark.parametrize("bf16", [True, False])
def test_only_for_bf16_a_cpu_has_what_suits_it(
    data: DataSet, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, torch.device]] = []

    def has_dtype(dtype: str, device: torch.device) -> bool:
        asked.append((dtype, device))
        return bf16

    monkeypatch.setattr(trainer_module, "has_dtype", has_dtype)
    trainer = Trainer(arch(), data, RECIPE)
    convolutions = [m for m in trainer.model.modules() if isinstance(m, nn.Conv2d)]
    grouped = [m for m in convolutions if m.groups > 1]
    assert asked == [("bf16", torch.device("cpu"))]
    assert grouped and all(("forward" in vars(m)) == bf16 for m in grouped)
    strided = [m for m in convolutions if m.groups == 1 and m.stride != (1, 1)]
    assert strided and all(("forward" in vars(m)) == bf16 for m in strided)
    others = [m for m in convolutions if m not in (*grouped, *strided)]
    assert others and not any("forward" in vars(m) for m in others)
    stem = next(m for m in convolutions if m.weight.shape[1] > 1)
    assert stem.weight.is_contiguous(memory_format=torch.channels_last) == bf16
    dtypes: set[torch.dtype] = set()
    hooks = [m.register_forward_hook(lambda _m, _i, out: dtypes.add(out.dtype)) for m in grouped]
    with trainer._autocast(), torch.no_grad():
        out = trainer.model(torch.zeros(2, 1, 16, 16))
    assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert hooks and dtypes == {torch.float32}


def test_a_batch_in_parts_stays_in_parts(data: DataSet) -> None:
    trainer = Trainer(arch(), data, RECIPE)
    small = Small(trainer, 6, LACK_OF_MEMORY[0])
    trainer.train_epoch()
    assert trainer.parts == 4
    assert small.sizes[:2] == [16, 8] and set(small.sizes[2:]) == {4}


def test_smoothing_spreads_its_share_over_all_classes() -> None:
    found = smoothed(torch.tensor([3, 0]), 10, 0.2)
    expected = torch.full((2, 10), -0.02 / 2)
    expected[0, 3] = expected[1, 0] = -(0.8 + 0.02) / 2
    torch.testing.assert_close(found, expected)


def test_images_that_are_no_tensor_are_trained_on_alike(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sret_nas.data.dataset.RESIDENT_BYTES", 0)
    streamed = load_data(image_size=16, subset=160, val_images=60)
    assert isinstance(data.train, Resident) and not isinstance(streamed.train, Resident)
    streamed = replace(streamed, mean=data.mean, std=data.std)  # its own are those of a sample
    one, other = Trainer(arch(), data, RECIPE), Trainer(arch(), streamed, RECIPE)
    assert one.feed.place is None and other.feed.place is not None
    one.bf16 = other.bf16 = False
    assert other.train_epoch() == (pytest.approx(one.train_epoch()[0]), 160)
    torch.testing.assert_close(weights(other), weights(one))
    assert other.validate(streamed.val) == pytest.approx(one.validate(data.val))


def test_no_room_to_validate_one_image_has_its_reason(data: DataSet) -> None:
    trainer = Trainer(arch(), data, RECIPE)
    small = Small(trainer, 0, LACK_OF_MEMORY[0])
    with pytest.raises(OutOfMemoryError, match="epoch 0, with one image at a time"):
        trainer.validate(data.val)
    assert small.sizes == [60, 30, 15, 7, 3, 1]


def test_a_batch_is_put_to_where_a_step_reads_it_and_the_rest_is_nobodys() -> None:
    place = torch.full((3, 1, 2, 2), 9, dtype=torch.uint8), torch.full((3,), 9)
    batch = torch.full((2, 1, 2, 2), 5, dtype=torch.uint8), torch.tensor([7, 8])
    fill(place, batch)
    assert place[0][:, 0, 0, 0].tolist() == [5, 5, 9]
    assert place[1].tolist() == [7, 8, NOBODY]


class Repeating:
    """Records a step as itself."""

    def __init__(self) -> None:
        self.recorded = 0

    def running(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def observe(self) -> None: ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        return step


def test_who_records_steps_is_asked_for_both_kinds_unless_something_is_drawn_on_the_cpu(
    data: DataSet,
) -> None:
    recorder = Repeating()
    trainer = Trainer(arch(), data, RECIPE, graphs=recorder)
    assert not trainer.graphed and not trainer.settled
    for _ in range(3):
        trainer.train_epoch()
        for _ in range(5):
            trainer.validate(data.val)
    assert trainer.graphed and trainer.settled and trainer.why_eager is None
    assert recorder.recorded == 2
    random = Trainer(arch(permute="random"), data, RECIPE, graphs=Repeating())
    assert random.recorder is None
    assert random.why_eager == "permute: random draws on the CPU at every call"
    for graphs in (False, True):
        nobody = Trainer(arch(permute="random"), data, RECIPE, graphs=graphs)
        assert nobody.recorder is None and nobody.why_eager is None
    plain = Trainer(arch(permute="none"), data, RECIPE, graphs=Repeating())
    assert plain.recorder is not None and plain.why_eager is None


def test_sums_over_many_images_are_exact(data: DataSet) -> None:
    trainer = Trainer(arch(), data, RECIPE)
    assert (trainer.loss.dtype, trainer.right.dtype) == (torch.float64, torch.long)
    assert trainer.feed.plan_T4B.shape == (10, 4, 16) and trainer.feed.plan_T4B.dtype == torch.long
    assert trainer.rates_T.shape == trainer.feed.shares_T.shape == (10,)
