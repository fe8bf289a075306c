"""What of a space an evaluator can see, and a space without the rest."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ArchitectureError, ConfigError
from sret_nas.proxy import PRESETS, Proxy
from sret_nas.space import SearchSpace, bundled
from sret_nas.space import sight as module
from sret_nas.space.restricting import restricted
from sret_nas.space.sight import Sight, look
from sret_nas.units import parse_budgets
from sret_nas.zoo import PUBLISHED

from .test_any_file import COMMON, any_file, read

DATA: Any = SimpleNamespace(num_classes=10, in_chans=1)
SPACE: dict[str, Any] = {
    "schema": 1,
    "name": "sizes",
    "image_size": [160, 192, 224],
    "num_classes": 10,
    "in_chans": 1,
    "stem_stride": [4, 8],
    "all_stages": {"head_dim": [8, 12], "nll_ratio": 0.0},
    "each_stage": {"mlp_ratio": [2.0, 3.0], "recursions": [1, 2]},
    "stages": [
        {"heads": 1, "groups": {"loop1": [1, 4, 8], "each_loop": [1, 4]}},
        {"heads": [2, 3], "blocks": {"from": 1, "to": 3, "step": 1}},
    ],
}
PROXY = Proxy.load({"image_size": 32, "epochs": 1})


def tried(proxy: Proxy) -> Any:
    return lambda arch: proxy.apply(arch, DATA)


def seen(sight: Sight) -> dict[str, tuple[Any, ...]]:
    return {one.name: one.searched for one in sight.choices}


def everything(space: SearchSpace) -> dict[str, tuple[Any, ...]]:
    return {d.name: d.choices for d in space.coordinates}


@pytest.mark.parametrize("name", ["sret", "sret_tiny", "smoke"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_see_the_bundled_spaces(name: str, preset: str) -> None:
    space = SearchSpace.load(name).fitted(num_classes=10, in_chans=1)
    assert set(bundled()) == {"sret", "sret_tiny", "smoke", "deep"}
    sizes = space.choices("image_size"), space.choices("stem_stride")
    now, sight = look(space, tried(PRESETS[preset].referring(*sizes)))
    assert now is space and sight.said("the proxy") == []
    assert sight.seen == len(sight.choices) == len(space.coordinates)
    assert seen(sight) == everything(space)
    if name == "sret_tiny":  # as it was: the same images for all sizes
        blind, sight = look(space, tried(PRESETS[preset]))
        assert everything(space)["image_size"] == (160, 192, 224)
        assert blind.choices("image_size") == (160,) and sight.seen == len(space.coordinates) - 1


def test_what_is_never_told_apart_is_frozen_at_the_cheapest_and_said() -> None:
    space = SearchSpace.load(SPACE)
    now, sight = look(space, tried(PROXY))
    assert sight.said("the proxy") == [
        "the proxy cannot tell image_size 160 from 192 and 224: "
        "only 160, the cheapest, is searched",
        "the proxy cannot tell stem_stride 8 from 4: only 8, the cheaper, is searched",
    ]
    frozen = {"image_size": (160,), "stem_stride": (8,)}
    assert seen(sight) == everything(space) | frozen
    assert sight.seen == len(space.coordinates) - 2
    assert {one.name: one.share for one in sight.choices if not one.share} == {
        "image_size": 0,
        "stem_stride": 0,
    }
    assert now.choices("image_size") == (160,) and now.choices("stem_stride") == (8,)
    assert everything(now) == {k: v for k, v in everything(space).items() if k not in frozen}
    written = now.file.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert everything(SearchSpace.load(written)) == everything(now)


def test_relations_make_them_seen() -> None:
    space = SearchSpace.load(SPACE)
    now, sight = look(space, tried(PROXY.referring((160, 192, 224), (4, 8))))
    assert now is space and sight.seen == len(space.coordinates)


@pytest.mark.parametrize("by", [[], ["macs"], ["latency_ms"]])
def test_the_cheapest_is_by_the_objectives_then_by_parameters(by: list[str]) -> None:
    """Weights of one's own in each loop cost parameters and no MACs: then parameters decide."""
    choices: dict[str, Any] = {"recursions": 2, "share": ["none", "attention", "mlp", "all"]}
    space = SearchSpace.load(SPACE | {"each_stage": choices})

    def blind(arch: Architecture) -> Architecture:
        data = arch.at(stem_stride=4, image_size=160).to_dict()
        return Architecture.load(data | {"stages": [s | {"share": "all"} for s in data["stages"]]})

    _, sight = look(space, blind, costs=by)
    found = {one.name: one.values for one in sight.alike}
    assert found.pop("image_size") == (160, 192, 224) and found.pop("stem_stride") == (8, 4)
    assert set(found) == {"stage1.share", "stage2.share"}
    for values in found.values():
        assert set(values) == set(choices["share"])
        assert (values[0], values[-1]) == ("all", "none")


def test_some_values_of_a_choice_may_be_one() -> None:
    """At 7 × 7 tokens 4 and 8 slices both become 7."""
    space = SearchSpace.load(SPACE | {"image_size": 224, "stem_stride": 8})
    now, sight = look(space, tried(Proxy.load({"image_size": 28, "epochs": 1})))
    (said,) = sight.said("the proxy")
    assert said == (
        "the proxy cannot tell stage1.groups.loop1 8 from 4: only 8, the cheaper, is searched"
    )
    assert seen(sight)["stage1.groups.loop1"] == (1, 8)
    assert sight.seen == len(space.coordinates)
    assert str(sight.alike[0]) == "stage1.groups.loop1 8 = 4"
    groups = {arch.stages[0].groups[0] for arch in now.sample(100, 0)}
    assert groups == {1, 8}


def test_what_is_told_apart_in_some_designs_stays_and_is_counted() -> None:
    space = SearchSpace.load(SPACE | {"stem_stride": 8, "image_size": [112, 224]})

    def coarse(arch: Architecture) -> Architecture:
        return arch.at(image_size=56 if arch.image_size == 224 else 112, num_classes=10)

    now, sight = look(space, coarse)
    (groups,) = (one for one in sight.choices if one.name == "stage1.groups.loop1")
    assert now is space and groups.searched == (1, 4, 8)
    assert groups.share is not None and 0 < groups.share < 1


@settings(COMMON, max_examples=60)
@given(any_file(), st.integers(6, 16), st.sampled_from([0.25, 1.0]))
def test_after_one_look_nothing_more_is_alike(
    data: dict[str, Any], size: int, width: float
) -> None:
    """But for what has to stay."""
    space = read(data, most=10**30)
    fits = tried(Proxy.load({"image_size": size, "epochs": 1, "width": width}))
    now, sight = look(space, fits)
    again, rest = look(now, fits)
    assert again is now
    assert {one.name for one in rest.alike} <= {one.name for one in sight.alike if one.kept}
    assert now.size == math.prod(len(one.searched) for one in sight.choices)
    for one in sight.choices:
        assert set(one.searched) <= set(one.values) and 0 <= one.apart <= one.pairs


@pytest.mark.parametrize("found", [None, True, "fits"])
def test_an_evaluator_that_looks_at_the_architecture_itself_sees_all(found: object) -> None:
    space = SearchSpace.load(SPACE)
    now, sight = look(space, lambda _: found)
    assert now is space and sight.seen == len(space.coordinates) and not sight.alike


def test_what_exists_at_no_scale_is_not_taken_for_seen_or_one() -> None:
    space = SearchSpace.load(SPACE)

    def none(arch: Architecture) -> Architecture:
        raise ArchitectureError("too small")

    now, sight = look(space, none)
    assert now is space and not sight.alike
    assert {one.share for one in sight.choices} == {None}


def test_only_what_is_feasible_is_looked_at() -> None:
    """Of a budget that leaves the smallest images alone, what is alike there is one."""
    space = SearchSpace.load(SPACE | {"stem_stride": 8})
    looked_at: list[Architecture] = []

    def note(arch: Architecture) -> None:
        looked_at.append(arch)

    (budget,) = parse_budgets([f"{int(space.extremes['macs'].low * 1.2)} MACs"])
    look(space, note, [budget])
    feasible = [arch for arch in looked_at if cost(arch).macs <= budget.limit]
    one_away = {arch.id for arch in looked_at} - {arch.id for arch in feasible}
    assert feasible and one_away  # one choice away from those
    assert {arch.image_size for arch in feasible} == {160}


def test_what_cannot_be_left_out_is_searched_and_said() -> None:
    """Without 3 heads in stage 2, no width follows on the 12 channels of stage 1."""
    stages = [{"heads": 1, "head_dim": [8, 12]}, {"heads": [2, 3], "head_dim": 8}]
    space = SearchSpace.load(
        {"schema": 1, "image_size": 32, "stem_stride": 4, "num_classes": 10, "stages": stages}
    )

    def blind(arch: Architecture) -> Architecture:
        first, last = arch.to_dict()["stages"]
        return Architecture.load(arch.to_dict() | {"stages": [first, last | {"heads": 3}]})

    now, sight = look(space, blind)
    assert now is space
    assert sight.said("it") == [
        "it cannot tell stage2.heads 2 from 3: no other choice fits without them, "
        "so all are searched and look alike"
    ]
    assert seen(sight) == everything(space) and sight.seen == 1


def test_published_designs_that_are_left_out_are_named() -> None:
    space = SearchSpace.load("sret").fitted(num_classes=10, in_chans=1)
    now, sight = look(space, tried(Proxy.load({"image_size": 28, "epochs": 1})))
    assert sight.left_out
    for name, arch in PUBLISHED.items():
        fitted = arch.at(num_classes=10, in_chans=1)
        assert (name in sight.left_out) == (fitted in space and fitted not in now)
    assert sight.said("the proxy")[-1].endswith(f"not tried: {', '.join(sight.left_out)}")
    kept = sight.keeping("so it is")
    assert seen(kept) == everything(space) and not kept.left_out
    assert all("so it is, so all are searched" in line for line in kept.said("the proxy"))


def test_it_is_the_same_every_time() -> None:
    space = SearchSpace.load("sret").fitted(num_classes=10, in_chans=1)
    fits = tried(Proxy.load({"image_size": 28, "epochs": 1}))
    (one, first), (two, second) = (look(space, fits, parse_budgets(["2G MACs"])) for _ in "ab")
    assert first == second and one.file == two.file


def test_few_architectures_are_tried_unless_something_is_blind() -> None:
    space = SearchSpace.load("sret").fitted(num_classes=10, in_chans=1)
    asked: list[str] = []
    look(space, lambda arch: asked.append(arch.id))
    choices = sum(len(d.choices) for d in space.coordinates)
    assert len(asked) <= 4 * module.FEW * choices


@settings(COMMON, max_examples=100)
@given(any_file(), st.data())
def test_a_restricted_file_is_the_space_without_those_choices(
    data: dict[str, Any], draw: st.DataObject
) -> None:
    space = read(data, most=10**30)
    kept = {}
    for d in space.coordinates:
        if draw.draw(st.booleans()):
            kept[d.name] = tuple(
                sorted(
                    draw.draw(st.sets(st.sampled_from(d.choices), min_size=1)),
                    key=d.choices.index,
                )
            )
    try:
        smaller = SearchSpace(restricted(space.file, kept))
    except ConfigError:
        # What is left cannot hold together, or loops of which something is said went.
        names = {name.rpartition(".")[2] for name in kept}
        assert names & {"heads", "head_dim", "recursions", "loop1", "loop2", "loop3", "loops"} or (
            names & {"image_size", "stem_stride"}
        )
        return
    now = everything(smaller)
    for name, choices in everything(space).items():
        left = kept.get(name, choices)
        if name in now:
            assert now[name] == left
        else:
            dimension = [d for d in smaller.coding.dimensions if d.name == name]
            assert all(d.choices == left for d in dimension) and (dimension or "loop" in name)
    for arch in smaller.decode_many(smaller.coding.random_codes(4, np.random.default_rng(0))):
        assert arch in space


def test_each_stage_and_each_loop_are_restricted_alone() -> None:
    space = SearchSpace.load(SPACE)
    kept = {
        "stage1.recursions": (2,),
        "stage2.mlp_ratio": (2.0,),
        "stage1.groups.loop2": (4,),
        "all.head_dim": (8,),
        "stage2.blocks": (1, 3),
    }
    smaller = SearchSpace(restricted(space.file, kept))
    left = {k: v for k, v in everything(space).items() if k not in kept}
    assert everything(smaller) == left | {"stage2.blocks": (1, 3)}
    both = SearchSpace(restricted(space.file, {f"stage{i}.recursions": (2,) for i in (1, 2)}))
    assert "recursions" not in both.file.each_stage.model_fields_set
    assert list(itertools.chain(both.file.stages)) and everything(both) == {
        k: v for k, v in everything(space).items() if "recursions" not in k
    }
