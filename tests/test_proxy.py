"""What a short training is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import run
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture, Stage
from sret_nas.data import load_data
from sret_nas.errors import ConfigError
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.proxy import PRESETS, Proxy, choose
from sret_nas.recipe import Recipe
from sret_nas.training import Trainer, trainer
from sret_nas.zoo import PUBLISHED

quick = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_yaml(name: str, tmp_path: Path):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PRESETS[name].model_dump(mode="json")))
    assert Proxy.load(path) == PRESETS[name] == Proxy.load(name)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_try_every_published_design_with_its_slices(name: str):
    data = load_data(image_size=PRESETS[name].image_size, subset=10, val_images=10)
    for arch in PUBLISHED.values():
        small = PRESETS[name].apply(arch, data)
        assert (small.in_chans, small.num_classes) == (1, 10)
        assert small.depth == arch.depth
        sliced = [[g > 1 for g in stage.groups] for stage in arch.stages]
        assert [[g > 1 for g in stage.groups] for stage in small.stages] == sliced


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (27, (7, 14, 27))]
)
def test_rungs_left_out_are_geometric(epochs: int, rungs: tuple[int, ...]):
    assert Proxy.load({"image_size": 32, "epochs": epochs}).rungs == rungs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rungs": [2, 1, 4]}, r"rungs: given \[2, 1, 4\]; allowed: ascending"),
        ({"rungs": [1, 2]}, "the last being epochs = 4"),
        ({"stem_stride": 3}, "stem stride|stem_stride"),
        ({"epochs": 0}, "epochs: given 0; allowed: at least 1"),
        ({"lr": float("nan")}, "lr: .*finite"),
        ({"epoch": 4}, "did you mean 'epochs'"),
        ({"subset": 1.5}, "subset"),
        ({"mixup": 2}, "mixup: given 2; allowed: at most 1"),
    ],
)
def test_impossible_proxies_are_refused(wrong: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Proxy.load({"image_size": 32, "epochs": 4} | wrong)


def test_file_errors_name_the_line(tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text("image_size: 32\nepochs: 4\nbatch: 1\n")
    with pytest.raises(ConfigError, match=r"p\.yaml:3: batch: given 1; allowed: at least 2"):
        Proxy.load(path)
    with pytest.raises(ConfigError, match="did you mean 'fast'"):
        Proxy.load("fats")


def test_auto_is_by_device_and_says_so():
    assert choose("auto", "cpu") == (PRESETS["fast"], "fast (auto: for a CPU)")
    assert choose("auto", "cuda:0") == (PRESETS["standard"], "standard (auto: for cuda:0)")
    assert choose("thorough", "cpu") == (PRESETS["thorough"], "thorough")


def test_work_of_a_search_by_hand():
    data = load_data(image_size=8, subset=4_000, val_images=300)
    proxy = PRESETS["fast"]
    per_epoch = 4_000 + 100
    assert proxy.images(2, data) == 2 * per_epoch
    # 20 candidates: all do one epoch, half a second one, a quarter two more;
    # then 3 members of the front twice again.
    epochs = 20 * 1 + 10 * 1 + 5 * 2 + 3 * 2 * 4
    assert proxy.declaration.evaluations(20, 0.5, 3) * proxy.images(4, data) == epochs * per_epoch


def test_needs_no_torch():
    code = "import sys, sret_nas.proxy; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


TINY = {
    "image_size": 8, "stem_stride": 2, "width": 1.0, "subset": 48, "val_images": 20, "epochs": 4,
    "rungs": (1, 2, 4), "seeds": 3, "batch": 16,
}  # fmt: skip
"""Of every field of a proxy that a recipe has not, and the epochs that rungs are of."""
DESIGN = Architecture(
    stages=(Stage(heads=1, head_dim=8, mlp_ratio=1.0), Stage(heads=2, head_dim=8, mlp_ratio=1.0)),
    image_size=64, stem_stride=8, in_chans=3, num_classes=1000,
)  # fmt: skip


@dataclass
class Trained:
    """What one training of ``DESIGN`` was."""

    arch: Architecture
    image_size: int
    train: int
    val: int


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Train for an epoch by ``TINY`` with changes."""

    def train(**changes: Any) -> Trained:
        proxy = Proxy.load(TINY | changes)
        built: list[Architecture] = []
        validated: list[int] = []

        def create_model(arch: Architecture, **options: Any) -> Any:
            built.append(arch)
            return create(arch, **options)

        def validate(self: Trainer, split: Any) -> tuple[float, float]:
            validated.append(len(split))
            return real(self, split)

        create, real = trainer.create_model, Trainer.validate
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "create_model", create_model)
            patch.setattr(Trainer, "validate", validate)
            data = load_data(**proxy.load_options())
            found = ProxyEvaluator(proxy, data).evaluate(DESIGN, report=lambda _: False)
        return Trained(built[0], data.image_size, found.curve[0].images, validated[0])

    return train


def test_each_field_of_a_proxy_changes_what_is_trained(trained: Callable[..., Trained]) -> None:
    usual = trained()
    assert (usual.image_size, usual.train, usual.val) == (8, 48, 20)
    assert (usual.arch.image_size, usual.arch.stem_stride) == (8, 2)
    assert usual.arch.tokens == (16, 4)
    assert [stage.dim for stage in usual.arch.stages] == [8, 16]
    assert (usual.arch.in_chans, usual.arch.num_classes) == (1, 10)  # those of the data

    larger = trained(image_size=16)
    assert (larger.image_size, larger.arch.image_size) == (16, 16)
    assert larger.arch.tokens == (64, 16)
    coarser = trained(stem_stride=4)
    assert coarser.image_size == 8
    assert coarser.arch.tokens == (4, 1)
    assert [stage.dim for stage in trained(width=2.0).arch.stages] == [16, 32]
    assert [stage.dim for stage in trained(width=0.5).arch.stages] == [4, 8]
    assert trained(width=0.5).arch.tokens == usual.arch.tokens
    assert trained(subset=64) == replace(usual, train=64)
    assert trained(val_images=30) == replace(usual, val=30)


def test_without_limits_all_images_are_taken() -> None:
    options = Proxy.load(TINY | {"subset": None, "val_images": None}).load_options()
    some, every = load_data(image_size=8, subset=48, val_images=20), load_data(**options)
    assert len(every.train) > 1000 * 5 and len(every.val) > 1000
    assert (len(some.train), len(some.val)) == (48, 20)


def test_fields_of_a_proxy_are_all_named_here() -> None:
    """A new field needs a test that it changes the training as it says."""
    own = set(Proxy.model_fields) - set(Recipe.model_fields)
    assert own == set(TINY) - {"epochs", "batch"} | {"reference"}


@quick
@given(
    trials=st.integers(0, 64),
    rungs=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True).map(sorted),
    kept=st.floats(0, 1),
    front=st.integers(0, 6),
    seeds=st.integers(1, 4),
)
def test_work_of_a_search_is_that_of_its_trainings(
    trials: int, rungs: list[int], kept: float, front: int, seeds: int
) -> None:
    """Beside a sum over the epochs: of each, the share of the candidates that is left."""
    data: Any = SimpleNamespace(train=range(100), val=range(30))  # 110 images of work an epoch
    proxy = Proxy(image_size=8, epochs=rungs[-1], rungs=tuple(rungs), seeds=seeds)
    left = [kept ** sum(rung < epoch for rung in rungs) for epoch in range(1, rungs[-1] + 1)]
    epochs = trials * sum(left) + front * (seeds - 1) * rungs[-1]
    found = proxy.declaration.evaluations(trials, kept, front)
    assert found * proxy.images(proxy.epochs, data) == pytest.approx(110 * epochs, rel=1e-9)
