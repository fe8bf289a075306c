"""Steps that are recorded and repeated: without a GPU, by a recorder of tensor operations."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, Resident, load_data
from sret_nas.data.splits import Stream
from sret_nas.graphs import WARM_UP, CudaRecorder, Repeated, Step
from sret_nas.recipe import Recipe
from sret_nas.training import EpochResult, NotFiniteError, Trainer

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch=16, lr=2e-3, pad=1, mixup=0.5, drop_path=0.2)


class Tape(TorchDispatchMode):
    """What a CUDA graph is: operations on the very tensors that the recording saw.

    Numbers of Python are as they were then, tensors are read and written where they lay.
    As a capture does, it refuses what would wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        given = kwargs or {}
        outs = func(*args, **given)
        self.calls.append(lambda: self._again(func, args, given, outs))
        return outs

    @staticmethod
    def _again(func: Any, args: Any, kwargs: Any, outs: Any) -> None:
        for old, new in zip(tree_leaves(outs), tree_leaves(func(*args, **kwargs)), strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)

    @torch.no_grad()
    def replay(self) -> None:
        """Run all of it once more."""
        for call in self.calls:
            call()


class TapeRecorder:
    """Records on tapes.

    Args:
        fails: Raised at the recording of that number, from 0.
    """

    def __init__(self, fails: dict[int, Exception] | None = None) -> None:
        self.fails = fails or {}
        self.tapes: list[Tape] = []
        self.ran = 0
        self.inside = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Nothing here waits for anything."""
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def observe(self) -> None:
        """The run that follows is the last before a recording."""

    def record(self, step: Step) -> Step:
        """Run the step while it is taped; that run is the first of the recording's."""
        assert self.inside
        number, tape = len(self.tapes), Tape()
        self.tapes.append(tape)
        if number in self.fails:
            raise self.fails[number]
        with tape:
            step()
        first = True

        def replay() -> None:
            nonlocal first
            assert self.inside
            self.ran += 1
            if not first:
                tape.replay()
            first = False

        return replay


def arch(**changes: Any) -> Architecture:
    stages = (
        Stage(heads=2, head_dim=4, recursions=2, groups=(2, 4), mlp_ratio=1.0),
        Stage(heads=2, head_dim=8, mlp_ratio=1.0),
    )
    settings = {"image_size": 16, "stem_stride": 4, "in_chans": 1, "num_classes": 10}
    return Architecture(**({"stages": stages} | settings | changes))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(image_size=16, subset=160, val_images=300)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(data: DataSet, graphs: Any, recipe: Recipe = RECIPE, **changes: Any) -> Trainer:
    return Trainer(arch(**changes), data, recipe, seed=5, device=CPU, graphs=graphs)


def without_time(results: list[EpochResult]) -> list[EpochResult]:
    return [replace(result, seconds=0.0) for result in results]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# -- the mechanism -----------------------------------------------------------------------


def test_runs_count_before_during_and_after_the_recording() -> None:
    total, plus = torch.zeros(()), torch.ones(())

    def step() -> None:
        total.add_(plus)

    recorder = TapeRecorder()
    repeated = Repeated(recorder)
    with recorder.running():
        for run in range(1, WARM_UP + 4):
            repeated(step)
            assert total.item() == run
            assert repeated.recorded == repeated.settled == (run > WARM_UP)
        plus.fill_(10.0)
        repeated(step)
    assert total.item() == WARM_UP + 13 and len(recorder.tapes) == 1 and recorder.ran == 4
    assert repeated.recording_s is not None


def test_the_tape_is_as_strict_as_a_capture() -> None:
    """A number of Python stays what it was at the recording, as it would in a graph."""
    total, number = torch.zeros(()), 1.0

    def step() -> None:
        total.add_(number)

    recorder = TapeRecorder()
    repeated = Repeated(recorder)
    with recorder.running():
        for _ in range(WARM_UP + 1):
            repeated(step)
        number = 10.0
        repeated(step)
    assert total.item() == WARM_UP + 2


def test_what_waits_for_the_device_is_not_recorded_and_says_so() -> None:
    total = torch.zeros(())

    def waits() -> None:
        if total.item() >= 0:
            total.add_(1)

    recorder = TapeRecorder()
    repeated = Repeated(recorder)
    with recorder.running():
        for _ in range(WARM_UP + 3):
            repeated(waits)
    assert not repeated.recorded and repeated.settled and len(recorder.tapes) == 1
    assert repeated.recording_s is None
    assert repeated.failure == "operation not permitted when stream is capturing"
    assert total.item() == WARM_UP + 3


def test_the_first_of_several_errors_is_the_reason() -> None:
    class Breaks(TapeRecorder):
        def record(self, step: Step) -> Step:
            try:
                raise ValueError("what went wrong")
            finally:
                raise RuntimeError("capture_end: the capture was broken")

    repeated = Repeated(Breaks())
    for _ in range(WARM_UP + 1):
        repeated(lambda: None)
    assert repeated.failure == "what went wrong"


def test_a_gpu_too_full_for_a_graph_is_known_before_the_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step took 2 GiB over the 1 GiB that was there before it."""
    gib, cuda = 2**30, torch.cuda
    said = {"memory_allocated": gib, "max_memory_allocated": 3 * gib, "mem_get_info": (2 * gib, 0)}
    monkeypatch.setattr("sret_nas.graphs._stream", lambda _: None)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(cuda, name, lambda *_: None)
    for name, value in said.items():
        monkeypatch.setattr(cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(cuda, "graph_pool_handle", lambda: (0, 1))
    runs: list[int] = []
    repeated = Repeated(CudaRecorder(torch.device("cuda:0")))
    for _ in range(WARM_UP + 2):
        repeated(lambda: runs.append(1))
    assert repeated.failure == "out of memory: 2.2 GiB for a graph, 2.0 GiB free"
    assert len(runs) == WARM_UP + 2


# -- training ----------------------------------------------------------------------------


@pytest.mark.parametrize("permute", ["fixed", "none"])
def test_recorded_training_equals_eager_bit_by_bit(data: DataSet, permute: str) -> None:
    """Order, augmentation, mixup, learning rate, drop-path and permutations go on changing."""
    eager = trainer(data, False, permute=permute)
    expected = without_time(list(eager.epochs()))
    recorder = TapeRecorder()
    recorded = trainer(data, recorder, permute=permute)
    found = without_time(list(recorded.epochs()))
    # A recorded validation pads its last batch, and some CPUs round by the size of the batch.
    assert [one.val_loss for one in found] == pytest.approx(
        [one.val_loss for one in expected], rel=1e-6
    )
    assert [replace(one, val_loss=0.0) for one in found] == [
        replace(one, val_loss=0.0) for one in expected
    ]
    assert torch.equal(weights(recorded.model), weights(eager.model))
    assert recorded.graphed and recorded.scoring.recorded and recorded.why_eager is None
    steps = RECIPE.epochs * recorded.feed.steps - WARM_UP
    scored = RECIPE.epochs * 2 - WARM_UP  # 300 images: a whole batch, and a part of one
    assert recorder.ran == steps + scored and len(recorder.tapes) == 2


def test_streamed_images_are_copied_to_where_the_recording_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sret_nas.data.dataset.RESIDENT_BYTES", 0)
    streamed = load_data(image_size=16, subset=80, val_images=40)
    assert isinstance(streamed.train, Stream)
    expected = without_time(list(trainer(streamed, False).epochs()))
    recorder = TapeRecorder()
    assert without_time(list(trainer(streamed, recorder).epochs())) == expected
    assert recorder.ran == RECIPE.epochs * 5 - WARM_UP


def test_the_learning_rate_of_a_recording_is_read_from_its_tensor(data: DataSet) -> None:
    recipe = RECIPE.model_copy(update={"warmup": 0.0, "final_lr": 1.0, "weight_decay": 0.0})
    recorded = trainer(data, TapeRecorder(), recipe)
    recorded.train_epoch()
    assert recorded.graphed
    before = weights(recorded.model)
    recorded.rates_T[:] = 0
    recorded.at.zero_()
    with recorded._running():
        recorded.training(recorded._train_step)
    assert torch.equal(weights(recorded.model), before)
    recorded.rates_T[:] = 1e-3
    with recorded._running():
        recorded.training(recorded._train_step)
    assert not torch.equal(weights(recorded.model), before)


def test_stopped_and_continued_equals_uninterrupted_when_recorded(data: DataSet) -> None:
    whole = without_time(list(trainer(data, TapeRecorder()).epochs()))
    stopped = trainer(data, TapeRecorder())
    first = next(stopped.epochs())
    torch.rand(5)
    assert without_time([first, *stopped.epochs()]) == whole


@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_recorded_is_trained_eagerly_and_says_why(data: DataSet, which: int) -> None:
    expected = without_time(list(trainer(data, False).epochs()))
    recorder = TapeRecorder({which: torch.OutOfMemoryError("out of memory: 3.1 GiB for a graph")})
    falls_back = trainer(data, recorder)
    assert without_time(list(falls_back.epochs())) == expected
    assert (
        falls_back.why_eager == ["", "validation: "][which] + "out of memory: 3.1 GiB for a graph"
    )
    assert falls_back.graphed == (which == 1) and len(recorder.tapes) == 2


def test_permutations_drawn_on_the_cpu_are_not_recorded(data: DataSet) -> None:
    recorder = TapeRecorder()
    random = trainer(data, recorder, permute="random")
    next(random.epochs())
    assert random.why_eager == "permute: random draws on the CPU at every call"
    assert not random.graphed and not recorder.tapes
    nothing = (Stage(heads=2, head_dim=4, mlp_ratio=1.0),)
    assert trainer(data, recorder, permute="random", stages=nothing).recorder is recorder


def test_where_nothing_could_be_recorded_nothing_is_said(data: DataSet) -> None:
    eager = trainer(data, True)
    assert eager.recorder is None and eager.why_eager is None and not eager.settled
    next(eager.epochs())
    assert eager.settled and not eager.graphed


def test_a_recording_keeps_the_parts_that_memory_asked_for(data: DataSet) -> None:
    def run(graphs: Any) -> tuple[Trainer, list[int]]:
        made, sizes = trainer(data, graphs), []

        def small(_: nn.Module, inputs: tuple[Tensor]) -> None:
            sizes.append(len(inputs[0]))
            if made.model.training and len(inputs[0]) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")

        made.model.register_forward_pre_hook(small)
        made.train_epoch()
        return made, sizes

    eager, _ = run(False)
    recorded, sizes = run(TapeRecorder())
    assert recorded.parts == 4 and recorded.graphed
    assert sizes == [16, 8] + [4] * 4 * (WARM_UP + 1)  # later ones are replays
    assert torch.equal(weights(recorded.model), weights(eager.model))


def test_a_loss_that_is_not_finite_is_found_in_a_recording_too(data: DataSet) -> None:
    recorded = trainer(data, TapeRecorder())
    recorded.train_epoch()
    recorded.validate(data.val)
    with torch.no_grad():
        recorded.model.head.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="epoch 2: the training loss is nan"):
        recorded.train_epoch()
    with pytest.raises(NotFiniteError, match="the validation loss is nan"):
        recorded.validate(data.val)


def test_places_that_no_image_takes_count_nothing(data: DataSet) -> None:
    """The same static batch serves splits of any size, after larger ones too."""
    recorded, eager = trainer(data, TapeRecorder()), trainer(data, False)
    assert isinstance(data.val, Resident)
    for count in (300, 7, 300, 256, 1):
        some = data.val.first(count)
        assert recorded.validate(some) == pytest.approx(eager.validate(some), rel=1e-6)
    assert recorded.scoring.recorded


def test_a_recording_goes_with_its_trainer(data: DataSet) -> None:
    """A graph holds memory of the card: none may wait for the garbage collector."""
    recorder = TapeRecorder()
    recorded = trainer(data, recorder)
    recorded.train_epoch()
    recorded.validate(data.val)
    assert recorded.graphed and recorded.training.replay is not None
    gone = [weakref.ref(recorded), weakref.ref(recorded.training.replay)]
    gc.disable()
    try:
        del recorded
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_clipping_and_smoothing_are_the_textbooks(data: DataSet) -> None:
    """Against torch's own clipping, loss and plain AdamW."""
    recipe = RECIPE.model_copy(
        update={"clip": 0.05, "mixup": 0.0, "drop_path": 0.0, "label_smoothing": 0.2, "epochs": 1}
    )
    ours = trainer(data, False, recipe, permute="none")
    ours.bf16 = False
    plain = trainer(data, False, recipe, permute="none")
    optimizer = torch.optim.AdamW(
        [
            {k: group[k] for k in ("params", "weight_decay")}
            for group in plain.optimizer.param_groups
        ],
        lr=1.0,
    )
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    losses, norms = [], []
    plain.model.train()
    plain.epoch = 1
    rates, feed = plain._rates(), plain.feed
    for step, _ in enumerate(feed.epoch(1)):
        order_B, *draws_3B = feed.plan_T4B[step]
        assert isinstance(data.train, Resident)
        x = feed.augment(data.train.images[order_B], *draws_3B)
        found = loss(plain.model(x), data.train.labels[order_B])
        optimizer.zero_grad()
        found.backward()
        norms.append(nn.utils.clip_grad_norm_(plain.model.parameters(), 0.05).item())
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        losses.append(found.item())
    assert min(norms) > 0.05  # all are clipped, each by another factor
    assert ours.train_epoch()[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    start = weights(trainer(data, False, recipe, permute="none").model)
    moved, apart = weights(plain.model) - start, weights(ours.model) - weights(plain.model)
    assert apart.norm() < 0.01 * moved.norm()  # AdamW enlarges what rounding does to tiny gradients


# -- on a GPU ----------------------------------------------------------------------------


@pytest.mark.cuda
def test_a_gpu_records_both_steps_and_draws_as_the_eager_steps_do(data: DataSet) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 4})
    runs = []
    for graphs in (True, False):
        made = Trainer(arch(), data, recipe, seed=5, device=torch.device("cuda"), graphs=graphs)
        found = list(made.epochs())
        assert made.why_eager is None and made.graphed == graphs == made.scoring.recorded
        runs.append(([one.train_loss for one in found], [one.val_loss for one in found]))
    (train, val), (eager_train, eager_val) = runs
    # Kernels that add in any order leave the last bits open; other draws would change more.
    assert train == pytest.approx(eager_train, rel=0.02) and val == pytest.approx(
        eager_val, rel=0.05
    )


@pytest.mark.cuda
def test_a_gpu_whose_capture_breaks_goes_on_and_later_captures_work(data: DataSet) -> None:
    device = torch.device("cuda")
    broken = Trainer(arch(), data, RECIPE, seed=5, device=device)

    def waits(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if broken.model.training:
            inputs[0].sum().item()

    hook = broken.model.register_forward_pre_hook(waits)
    before = torch.cuda.get_rng_state()
    found = list(broken.epochs())
    assert not broken.graphed and broken.why_eager and len(found) == RECIPE.epochs
    assert torch.equal(before, torch.cuda.get_rng_state())
    hook.remove()
    whole = Trainer(arch(), data, RECIPE, seed=5, device=device)
    assert next(whole.epochs()).train_loss == pytest.approx(found[0].train_loss, rel=0.02)
    assert whole.graphed


@pytest.mark.cuda
def test_memory_of_a_recording_is_given_back(data: DataSet) -> None:
    device = torch.device("cuda")

    def held() -> int:
        made = Trainer(arch(), data, RECIPE, device=device)
        next(made.epochs())
        assert made.graphed
        del made
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = held()
    assert max(held() for _ in range(8)) < first + 4 * 2**20  # a pool is 2 MiB or more
