"""A proxy keeps the relations of the image sizes and stem strides that are searched."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture, Stage
from sret_nas.cost import cost
from sret_nas.data import Resident, Split, load_data
from sret_nas.errors import ConfigError
from sret_nas.evaluators import proxy as evaluators_proxy
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.proxy import PRESETS, Proxy, Reference
from sret_nas.space import SearchSpace, bundled
from sret_nas.training import Trainer

from .tiny import TINY

STRIDES = (1, 2, 4, 8)
quick = settings(max_examples=200, deadline=None)


def design(image_size: int, stem_stride: int, stages: int = 2) -> Architecture:
    stage = Stage(heads=1, head_dim=8)
    return Architecture(image_size=image_size, stem_stride=stem_stride, stages=(stage,) * stages)


def proxies() -> st.SearchStrategy[Proxy]:
    return st.builds(
        lambda size, stride, of, of_stride: Proxy.load(
            {
                "image_size": size,
                "stem_stride": stride,
                "epochs": 1,
                "reference": {"image_size": of, "stem_stride": of_stride},
            }
        ),
        st.integers(8, 96),
        st.sampled_from(STRIDES),
        st.integers(16, 512),
        st.sampled_from(STRIDES),
    )


@pytest.mark.parametrize("name", bundled())
@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_choice_nothing_changes(name: str, preset: str) -> None:
    """Neither what is trained, beside the rule that was there before, nor what is written down."""
    space = SearchSpace.load(name)
    before = PRESETS[preset]
    proxy = before.referring(space.choices("image_size"), space.choices("stem_stride"))
    data = load_data(image_size=8, subset=10, val_images=10)
    searched = len(space.choices("image_size")) > 1
    assert (proxy is before) == (not searched)
    assert ("reference" in proxy.model_dump(mode="json")) == searched
    for arch in space.sample(8, 0):
        if not searched or arch.image_size == max(space.choices("image_size")):
            scale = {"image_size": before.image_size, "stem_stride": before.stem_stride}
            usual = arch.at(**scale, width=before.width, num_classes=10, in_chans=1)
            assert proxy.apply(arch, data).id == usual.id


@quick
@given(proxies(), st.integers(16, 600), st.integers(16, 600), *[st.sampled_from(STRIDES)] * 2)
def test_the_order_is_kept(proxy: Proxy, size: int, other: int, stride: int, fine: int) -> None:
    """A larger image or a smaller stride has no fewer tokens at any stage."""
    (small, large), (fine, stride) = sorted([size, other]), sorted([stride, fine])
    a, a_stride = proxy.scale(small, stride)
    b, b_stride = proxy.scale(large, fine)
    assert a <= b and a_stride >= b_stride
    assert proxy.scale(small, fine)[0] == a  # the image is by the image alone
    assume(a >= 2 * a_stride)
    sides = [design(*scale).sides for scale in ((a, a_stride), (b, b_stride))]
    assert all(x <= y for x, y in zip(*sides, strict=True))
    assert cost(design(a, a_stride)).macs <= cost(design(b, b_stride)).macs


@quick
@given(proxies(), st.integers(16, 600), st.sampled_from(STRIDES))
def test_nothing_exceeds_the_reference(proxy: Proxy, size: int, stride: int) -> None:
    of = proxy.reference
    assert of is not None
    assert proxy.scale(of.image_size, of.stem_stride) == (proxy.image_size, proxy.stem_stride)
    image, scaled = proxy.scale(size, stride)
    if size <= of.image_size:
        assert image <= proxy.image_size
    assert scaled in STRIDES
    exact = proxy.stem_stride * stride / of.stem_stride
    assert scaled == min(max(exact, 1), 8)
    tokens = -(-image // proxy.stem_stride)
    whole = -(-proxy.image_size // proxy.stem_stride)
    proportion = whole * -(-size // of.stem_stride) / -(-of.image_size // of.stem_stride)
    assert tokens == 1 or abs(tokens - proportion) <= max(0.5, proportion / 16)


@pytest.mark.parametrize("preset", PRESETS)
def test_where_it_can_be_the_proportion_is_exact_at_every_stage(preset: str) -> None:
    proxy = PRESETS[preset].referring([112, 168, 224], STRIDES)
    for size, stride in product([112, 224], [4, 8]):
        arch, small = design(size, stride, 3), design(*proxy.scale(size, stride), 3)
        largest = design(proxy.image_size, proxy.stem_stride, 3)
        ratios = {side / whole for side, whole in zip(small.sides, largest.sides, strict=True)}
        assert ratios == {arch.sides[0] / design(224, 8, 3).sides[0]}


def test_odd_grids_are_avoided_where_even_ones_are_near() -> None:
    """Of 11 × 11 tokens 11 alone is a divisor, of 12 × 12 nearly any group count."""
    proxy = PRESETS["standard"].referring([160, 192, 224], [8])
    assert [proxy.scale(size, 8)[0] // 2 for size in (160, 192, 224)] == [12, 14, 16]
    fast = PRESETS["fast"].referring([160, 192, 224], [8])
    assert [fast.scale(size, 8)[0] // 4 for size in (160, 192, 224)] == [6, 7, 8]


def test_a_stride_that_can_be_no_smaller_costs_no_more() -> None:
    proxy = PRESETS["standard"].referring([224], STRIDES)
    assert [proxy.scale(224, stride) for stride in STRIDES] == [(32, 1), (32, 1), (32, 1), (32, 2)]


def test_a_reference_of_ones_own_stays() -> None:
    given_ = {"image_size": 32, "epochs": 1, "reference": {"image_size": 448, "stem_stride": 8}}
    proxy = Proxy.load(given_)
    assert proxy.referring([160, 224], [8]) is proxy
    assert proxy.scale(224, 8) == (16, 4)
    assert Proxy.load(yaml.safe_load(yaml.safe_dump(proxy.model_dump(mode="json")))) == proxy
    assert proxy.reference == Reference(image_size=448, stem_stride=8)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"image_size": 224}, "reference.stem_stride: required key is missing"),
        ({"image_size": 0, "stem_stride": 8}, "reference.image_size: given 0"),
        ({"image_size": 224, "stem_stride": 3}, "reference.stem_stride: given 3; allowed: 1, 2"),
    ],
)
def test_impossible_references_are_refused(reference: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Proxy.load({"image_size": 32, "epochs": 1, "reference": reference})


@pytest.mark.usefixtures("few_test_images")
def test_each_size_is_trained_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ``load_data`` gives of that size, in the same splits; moved as far."""
    proxy = Proxy.load(TINY | {"pad": 4}).referring([112, 224], [8, 4])
    data = load_data(**proxy.load_options())
    seen: list[tuple[Architecture, Any, Any, list[int]]] = []

    class Spy(Trainer):
        def __init__(self, network: Any, data: Any, recipe: Any, **options: Any) -> None:
            super().__init__(network, data, recipe, **options)
            self.scored_on: list[int] = []
            seen.append((network, data, recipe, self.scored_on))

        def validate(self, split: Split) -> tuple[float, float]:
            assert isinstance(split, Resident)
            self.scored_on.append(split.images.shape[-1])
            return super().validate(split)

    monkeypatch.setattr(evaluators_proxy, "Trainer", Spy)
    evaluator = ProxyEvaluator(proxy, data)
    sizes = [(224, 8), (224, 4), (112, 8), (112, 4)]
    found = [evaluator.confirm(design(*size, 1)) for size in sizes]
    assert all({"test_loss", "test_accuracy"} == set(one.tests) for one in found)
    assert [(a.image_size, a.stem_stride) for a, *_ in seen] == [(28, 4), (28, 2), (16, 4), (16, 2)]
    assert [recipe.pad for _, _, recipe, _ in seen] == [4, 4, 2, 2]
    assert [sides for *_, sides in seen] == [[28] * 3, [28] * 3, [16] * 3, [16] * 3]
    plain = load_data(**proxy.load_options() | {"image_size": 16})
    _, small, _, _ = seen[2]
    assert small is seen[3][1]  # once for all of a size
    assert small.fingerprint == data.fingerprint
    for split in ("train", "val"):
        mine, theirs = getattr(small, split), getattr(plain, split)
        assert torch.equal(mine.images, theirs.images) and torch.equal(mine.labels, theirs.labels)


def test_work_is_measured_at_the_size_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy.load(TINY).referring([112, 224], [8])
    timed: list[int] = []

    class Spy(Trainer):
        def train_epoch(self, *arguments: Any) -> tuple[float, int]:
            assert isinstance(self.feed.train_split, Resident)  # type: ignore[attr-defined]
            timed.append(self.feed.train_split.images.shape[-1])  # type: ignore[attr-defined]
            return super().train_epoch(*arguments)

    monkeypatch.setattr(evaluators_proxy, "Trainer", Spy)
    evaluator = ProxyEvaluator(proxy, load_data(**proxy.load_options()))
    large, small = (evaluator.work(design(size, 8, 1)) for size in (224, 112))
    assert set(timed) == {28, 16} and large.amount == small.amount
