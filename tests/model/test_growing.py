"""Models that go on from a trained relative."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sret_nas import Architecture
from sret_nas.errors import UsageError
from sret_nas.model import SReT, create_model, growing
from sret_nas.model.growing import Grown, grow, grow_into

PERMUTED = "permut"
LOOSER = {
    "all": ["attention", "mlp", "none"],
    "attention": ["none"],
    "mlp": ["none"],
    "none": [],
}
SMALL: dict[str, Any] = {
    "image_size": 16,
    "stem_stride": 4,
    "num_classes": 3,
    "stages": [
        {"heads": 2, "head_dim": 3, "blocks": 2, "recursions": 2, "mlp_ratio": 2.0},
        {"heads": 3, "head_dim": 4, "blocks": 1, "recursions": 2, "mlp_ratio": 2.0},
    ],
}
"""4×4 and 2×2 tokens."""


def small(*changes: dict[str, Any], **top: Any) -> Architecture:
    """``SMALL`` with other fields of its first, second, … stage, and of the whole."""
    stages = [
        {**stage, **(changes[i] if i < len(changes) else {})}
        for i, stage in enumerate(SMALL["stages"])
    ]
    return Architecture.load({**SMALL, "stages": stages, **top})


def trained(arch: Architecture, seed: int = 0) -> SReT:
    """A model in which nothing has the value that it was initialised to; fp64, in eval."""
    draw = torch.Generator().manual_seed(seed)
    model = create_model(arch, drop_path_rate=0.0).double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                value.fill_(17 + seed)
                continue
            z = torch.randn(value.shape, generator=draw, dtype=torch.float64)
            if name.endswith("running_var"):
                value.copy_(z.abs() + 0.5)
            elif value.ndim > 1:
                value.copy_(z * value[0].numel() ** -0.5)
            else:
                value.copy_(z * 0.3 + ("norm.weight" in name or "residual" in name))
    return model


def images(arch: Architecture, count: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    shape = (count, arch.in_chans, arch.image_size, arch.image_size)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


@torch.no_grad()
def outputs(model: SReT, x: Tensor) -> Tensor:
    """In eval; random permutations are those of one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        out: Tensor = model.eval()(x)
    return out


def same_function(one: SReT, other: SReT) -> bool:
    x = images(one.arch)
    a, b = outputs(one, x), outputs(other, x)
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-9 * (1 + a.abs().max()))


def grown(source: Architecture, target: Architecture, seed: int = 0) -> tuple[SReT, Grown]:
    one = trained(source, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return one, grow(one, target, generator=torch.Generator().manual_seed(3))


def exactly(source: Architecture, target: Architecture) -> Grown:
    """Grow, and see that the function is kept."""
    one, found = grown(source, target)
    assert found.notes == ()
    assert found.exact
    assert same_function(one, found.model)
    return found


# --- architectures to draw from -------------------------------------------------------------


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    stages: list[dict[str, Any]] = []
    width = 1
    for tokens in (16, 4):
        heads = draw(st.sampled_from([1, 2, 3]))
        size = draw(st.sampled_from([2, 3]))
        recursions = draw(st.integers(1, 3))
        counts = [g for g in (1, 2, 4, 16) if tokens % g == 0]
        stages.append(
            {
                "heads": heads,
                "head_dim": size * width,
                "blocks": draw(st.integers(1, 3)),
                "recursions": recursions,
                "order": draw(st.sampled_from(["adjacent", "cyclic"])),
                "share": draw(st.sampled_from(["all", "attention", "mlp", "none"])),
                "groups": [draw(st.sampled_from(counts)) for _ in range(recursions)],
                "mlp_ratio": draw(st.sampled_from([1.0, 1.6])),
                "nll_ratio": draw(st.sampled_from([0.0, 0.7, 1.0])),
            }
        )
        width *= heads * size
    return Architecture.load(
        {
            **SMALL,
            "residual_scale": draw(st.booleans()),
            "permute": draw(st.sampled_from(["fixed", "none", "random"])),
            "stages": stages,
        }
    )


def permuting(arch: Architecture, stage: int) -> bool:
    return any(use.permuted for use in arch.schedules[stage])


@st.composite
def relatives(draw: st.DrawFn) -> tuple[Architecture, Architecture]:
    """An architecture, and what a few steps that keep its function make of it."""
    source = draw(architectures())
    data = source.to_dict()
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, 1))
        stage = data["stages"][i]
        arch = Architecture.load(data)
        # Further applications shift the numbers by which permutations are drawn.
        deepens = not permuting(arch, 1) and not (i == 0 and permuting(arch, 0))
        step = draw(st.sampled_from(["share", "blocks", "recursions", "ratios", "scale", "wider"]))
        if step == "share" and LOOSER[stage["share"]]:
            stage["share"] = draw(st.sampled_from(LOOSER[stage["share"]]))
        elif step == "blocks" and deepens:
            stage["blocks"] += draw(st.integers(1, 2))
        elif step == "recursions" and deepens and stage["share"] == "none":
            stage["recursions"] += 1
            stage["groups"] += [1]
        elif step == "ratios":
            stage["mlp_ratio"] += 0.7
            stage["nll_ratio"] += draw(st.sampled_from([0.0, 0.6]))
        elif step == "scale":
            data["residual_scale"] = True
        elif step == "wider":
            factor = draw(st.integers(2, 3))
            for later in data["stages"][i:]:
                later[draw(st.sampled_from(["heads", "head_dim"]))] *= factor
    return source, Architecture.load(data)


@settings(max_examples=30, deadline=None)
@given(pair=relatives())
def test_wider_deeper_and_looser_shared_keeps_the_function(
    pair: tuple[Architecture, Architecture],
) -> None:
    exactly(*pair)


@settings(max_examples=40, deadline=None)
@given(source=architectures(), target=architectures())
def test_the_function_is_kept_where_it_is_said_to_be_and_nowhere_else(
    source: Architecture, target: Architecture
) -> None:
    one, found = grown(source, target)
    if not any(PERMUTED in note for note in found.notes):  # permutations may agree by chance
        assert same_function(one, found.model) == found.exact, found.notes
    assert set(found.origins) == {name for name, _ in found.model.named_parameters()}
    assert found.taken + found.fresh == sum(p.numel() for p in found.model.parameters())


@settings(max_examples=20, deadline=None)
@given(source=architectures(), target=architectures())
def test_what_is_said_to_be_taken_is_what_depends_on_the_source(
    source: Architecture, target: Architecture
) -> None:
    (one, found), (_, other) = grown(source, target, 0), grown(source, target, 1)
    pool = torch.cat([value.flatten() for value in one.parameters()])
    same_size = [s.dim for s in source.stages] == [s.dim for s in target.stages]
    moved_only = same_size and source.residual_scale == target.residual_scale
    theirs = dict(other.model.named_parameters())
    for name, value in found.model.named_parameters():
        assert torch.equal(value != theirs[name], found.origins[name]), name
        if moved_only and "qkv" not in name:
            assert torch.isin(value[found.origins[name]], pool).all(), name


# --- single steps ---------------------------------------------------------------------------

STEPS: dict[str, tuple[Architecture, Architecture]] = {
    "the same": (small(), small()),
    "shared: all to none": (small(), small({"share": "none"}, {"share": "none"})),
    "cyclic, all to mlp": (
        small({"order": "cyclic"}),
        small({"order": "cyclic", "share": "mlp"}),
    ),
    "another order of what is not shared": (
        small({"order": "cyclic"}),
        small({"order": "adjacent", "share": "none"}),
    ),
    "one block in four loops as two in two": (
        small({"blocks": 1, "recursions": 4}),
        small({"blocks": 2, "recursions": 2}),
    ),
    "loops as blocks": (small(), small({"blocks": 4, "recursions": 1})),
    "blocks as loops": (
        small({"blocks": 4, "recursions": 1}),
        small({"blocks": 2, "recursions": 2, "share": "none"}),
    ),
    "more blocks": (small(), small({"blocks": 4}, {"blocks": 2})),
    "more blocks, cyclic": (small({"order": "cyclic"}), small({"order": "cyclic", "blocks": 3})),
    "more recursions of what is not shared": (
        small({"share": "none"}),
        small({"share": "none", "recursions": 4}),
    ),
    "a new loop where it fits the slices": (
        small({"share": "none", "groups": [4, 1]}, permute="none"),
        small({"share": "none", "recursions": 3, "groups": [4, 2, 1]}, permute="none"),
    ),
    "an NLL": (small({"nll_ratio": 0.0}), small()),
    "hidden channels": (small(), small({"mlp_ratio": 3.3, "nll_ratio": 1.5})),
    "residual coefficients": (small(residual_scale=False), small()),
    "deeper without them": (
        small(residual_scale=False),
        small({"blocks": 3}, residual_scale=False),
    ),
    "twice the heads": (small(), small({"heads": 4}, {"heads": 6})),
    "thrice the channels per head": (small(), small({"head_dim": 9}, {"head_dim": 12})),
    "heads and channels by other factors": (
        small(),
        small({"heads": 3, "head_dim": 4}, {"heads": 6, "head_dim": 4}),
    ),
    "the last stage alone": (small(), small({}, {"heads": 6})),
    "stages by different factors": (small(), small({"heads": 4}, {"heads": 12})),
    "an odd width": (
        small({"heads": 1, "head_dim": 3}),
        small({"heads": 2, "head_dim": 3}, {"heads": 6}),
    ),
    "heads cut otherwise where slices are single tokens": (
        small({}, {"groups": [4, 4]}),
        small({}, {"heads": 4, "head_dim": 3, "groups": [4, 4]}),
    ),
    "sliced and permuted": (
        small({"groups": [4, 2]}, {"groups": [2, 2]}),
        small(
            {"groups": [4, 2], "share": "none", "heads": 4},
            {"groups": [2, 2], "heads": 6, "blocks": 2},
        ),
    ),
    "no head": (small(num_classes=0), small({"blocks": 3}, num_classes=0)),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_keeps_the_function(step: str) -> None:
    exactly(*STEPS[step])


CHANGES: dict[str, tuple[Architecture, Architecture, list[str]]] = {
    "more recursions of what is shared": (
        small(),
        small({"recursions": 3}),
        [
            "stage 1: attention weights that loops share are applied more often",
            "stage 1: MLP weights that loops share are applied more often",
        ],
    ),
    "more recursions of a shared MLP": (
        small({}, {"share": "mlp"}),
        small({}, {"share": "mlp", "recursions": 3}),
        ["stage 2: MLP weights that loops share are applied more often"],
    ),
    "tighter shared": (
        small({"share": "none"}),
        small({"share": "attention"}),
        [
            "stage 1: loops share one set of attention weights instead of several; "
            "the first is taken"
        ],
    ),
    "shallower": (
        small(),
        small({"blocks": 1}),
        ["stage 1: keeps 2 of the source's 4 block applications"],
    ),
    "another order": (
        small(),
        small({"order": "cyclic"}),
        ["stage 1: the blocks are applied in another order"],
    ),
    "other slices": (
        small(),
        small({"groups": [4, 1]}),
        ["stage 1: attention is sliced otherwise"],
    ),
    "other permutations": (
        small({"groups": [2, 2]}),
        small({"groups": [2, 2]}, permute="none"),
        ["stage 1: tokens are permuted otherwise before they are sliced"],
    ),
    "permutations of shifted applications": (
        small({}, {"groups": [2, 2]}),
        small({"blocks": 3}, {"groups": [2, 2]}),
        ["stage 2: tokens are permuted otherwise before they are sliced"],
    ),
    "further random permutations": (
        small({"groups": [2, 2]}, permute="random"),
        small({"groups": [2, 2], "blocks": 3}, permute="random"),
        ["stage 1: other numbers of random permutations are drawn"],
    ),
    "wider by half": (
        small(),
        small({"heads": 3}, {"heads": 9, "head_dim": 2}),
        [
            "stage 1: width 9 instead of 6: channels are repeated unequally",
            "stage 2: width 18 instead of 12: channels are repeated unequally",
            "stage 2: heads × head_dim 9 × 2 instead of 3 × 4: attention is cut otherwise",
        ],
    ),
    "narrower": (
        small(),
        small({"heads": 1}),
        [
            "stage 1: width 3 instead of 6: keeps 3 of 6 channels",
            "stage 1: heads × head_dim 1 × 3 instead of 2 × 3: attention is cut otherwise",
            "stage 1: MLP of 6 hidden channels instead of 12: the leading ones are kept",
            "stage 1: NLL of 3 hidden channels instead of 6: the leading ones are kept",
            "stage 2: width 12 instead of 12: keeps 6 of 12 channels",
        ],
    ),
    "other heads": (
        small(),
        small({"heads": 3, "head_dim": 2}),
        ["stage 1: heads × head_dim 3 × 2 instead of 2 × 3: attention is cut otherwise"],
    ),
    "no NLL": (
        small(),
        small({}, {"nll_ratio": 0.0}),
        ["stage 2: NLL of 0 hidden channels instead of 12: it is left out"],
    ),
    "no residual coefficients": (
        small(),
        small(residual_scale=False),
        ["residual coefficients: those of the skip connections are left out"],
    ),
    "larger images": (
        small(),
        small(image_size=32),
        ["images of 32 px instead of 16: the position embedding is resampled"],
    ),
    "another stem": (
        small(),
        small(stem_stride=8),
        ["stem_stride 8 instead of 4: the position embedding is resampled"],
    ),
    "grey images": (
        small(),
        small(in_chans=1),
        ["in_chans 1 instead of 3: the first convolution is adapted"],
    ),
    "other classes": (small(), small(num_classes=4), ["4 classes instead of 3: the head is fresh"]),
    "fewer stages": (
        small(),
        Architecture.load({**SMALL, "stages": SMALL["stages"][:1]}),
        ["stages: 1 instead of 2: norm and head are fresh"],
    ),
    "more stages": (
        Architecture.load({**SMALL, "stages": SMALL["stages"][:1]}),
        small(),
        ["stages: 2 instead of 1: norm and head are fresh, and so are further stages"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_does_not_is_named(change: str) -> None:
    source, target, notes = CHANGES[change]
    _, found = grown(source, target)
    assert list(found.notes) == notes
    assert not found.exact
    assert str(found).endswith("parameters taken over; same function: no")


def test_counts_are_said_on_one_line() -> None:
    _, found = grown(small(), small({"mlp_ratio": 4.0}))
    new = 2 * 12 * (6 + 1 + 6)  # two MLP units with 12 hidden channels more
    assert found.fresh == new
    total = found.taken + new
    assert str(found) == (
        f"{found.taken / 1000:.3g}K of {total / 1000:.3g}K parameters taken over; "
        "same function: yes"
    )


def test_of_several_sets_of_weights_that_become_one_the_first_is_taken() -> None:
    source, found = grown(small({"share": "none"}), small())
    assert len(source.stages[0].attention) == 4
    for block in range(2):
        own, theirs = found.model.stages[0].attention[block], source.stages[0].attention[2 * block]
        assert torch.equal(own.qkv.weight, theirs.qkv.weight)
    for step in range(4):  # what every application has of its own stays
        own, theirs = found.model.stages[0].nll[step], source.stages[0].nll[step]
        assert torch.equal(own.fc1.weight, theirs.fc1.weight)


def test_positions_are_resampled_and_channels_adapted() -> None:
    source, found = grown(small(), small(image_size=32, in_chans=1))
    assert found.origins["pos_embed"].all()
    assert found.model.pos_embed.shape == (1, 6, 8, 8)
    assert torch.allclose(found.model.pos_embed.mean(), source.pos_embed.mean(), atol=0.1)
    assert torch.allclose(
        found.model.stem[0].weight, source.stem[0].weight.sum(1, keepdim=True), atol=1e-6
    )


def test_branch_coefficients_go_into_the_weights_where_there_are_none() -> None:
    source, found = grown(small(), small(residual_scale=False))
    unit, own = source.stages[0].mlp[0], found.model.stages[0].mlp[0]
    assert torch.equal(own.fc2.weight, unit.fc2.weight * unit.residual.branch)
    for one in source.modules():
        if hasattr(one, "skip"):
            nn.init.ones_(one.skip)
    again = grow(source, small(residual_scale=False))
    assert same_function(source, again.model)


# --- training goes on -----------------------------------------------------------------------


def stepped(model: SReT, steps: int) -> dict[str, Tensor]:
    """How far each parameter has moved after some steps."""
    before = copy.deepcopy(dict(model.named_parameters()))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    x, model = images(model.arch, 8), model.train()
    goal = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - goal).square().sum().backward()
        optimiser.step()
    return {name: (p - before[name]).detach().abs() for name, p in model.named_parameters()}


@pytest.mark.parametrize("scaled", [True, False])
def test_training_reaches_everything_that_is_new(scaled: bool) -> None:
    source = small({"nll_ratio": 0.0}, residual_scale=scaled)
    wider = {"heads": 6, "head_dim": 4, "mlp_ratio": 3.0, "nll_ratio": 1.0, "blocks": 3}
    target = small(wider, {"heads": 6, "head_dim": 8, "blocks": 2}, residual_scale=scaled)
    found = exactly(source, target)
    for name, moved in stepped(found.model, 3).items():
        if name.endswith("weight") and moved.ndim == 2:
            new = moved[~found.origins[name]]
            assert (new > 0).double().mean() > 0.99 if len(new) else True, name
        elif "bias" not in name:  # some change nothing: before BatchNorm, of keys
            assert moved.max() > 0, name


@pytest.mark.parametrize(("noise", "apart"), [(0.0, False), (0.1, True)])
def test_copies_of_a_channel_learn_different_things(noise: float, apart: bool) -> None:
    found = grow(trained(small()), small({"heads": 4}, {"heads": 6}), noise=noise)
    moved = stepped(found.model, 1)["stages.1.mlp.0.fc2.bias"]
    assert bool((moved[0::2] - moved[1::2]).abs().max() > 1e-6 * moved.max()) == apart


def test_noise_keeps_the_function() -> None:
    source = trained(small())
    target = small({"heads": 6}, {"head_dim": 12})
    weights = []
    for noise in (0.0, 0.5):
        found = grow(source, target, noise=noise, generator=torch.Generator().manual_seed(4))
        assert same_function(source, found.model)
        weights.append(found.model.head.weight)
    assert (weights[0] - weights[1]).abs().mean() > 0.1 * weights[0].abs().mean()


# --- manners --------------------------------------------------------------------------------


def test_the_source_stays_as_it_is_and_shares_nothing() -> None:
    source = trained(small())
    before = copy.deepcopy(source.state_dict())
    found = grow(source, small())
    nn.init.zeros_(found.model.pos_embed)
    stepped(found.model, 1)
    for name, value in source.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not source.training


def test_statistics_of_the_stem_are_taken_over() -> None:
    source, found = grown(small(), small({"heads": 4}, {"heads": 6}))
    theirs, own = source.stem[7], found.model.stem[7]
    assert torch.equal(own.running_var, theirs.running_var.repeat_interleave(2))
    assert own.num_batches_tracked == theirs.num_batches_tracked == 17


def test_precision_and_options() -> None:
    source = trained(small()).float()
    found = grow(source, small({"blocks": 3}), drop_path_rate=0.3)
    assert found.model.pos_embed.dtype == torch.float32
    assert found.model.stages[1].attention[0].residual.drop_path is not None
    x = images(small()).float()
    assert torch.allclose(outputs(source, x), outputs(found.model, x), rtol=1e-4, atol=1e-4)
    assert grow(source, small(), dtype=torch.float64).model.pos_embed.dtype == torch.float64
    assert not grow(source, small(), global_pool="").exact


def test_a_head_of_other_classes_stays_fresh() -> None:
    source, model = trained(small()), create_model(small()).double()
    before = model.head.weight.detach().clone()
    found = grow_into(source, model, keep_head=False)
    assert found.model is model
    assert torch.equal(model.head.weight, before)
    assert found.notes == ("other classes: the head is fresh",)
    assert not found.origins["head.weight"].any()


def test_images_and_classes_are_described_as_they_were() -> None:
    source = create_model(small(), pretrained_cfg_overlay={"mean": (0.3,) * 3, "crop_pct": 1.0})
    source.pretrained_cfg["label_names"] = ["ant", "bee", "cat"]
    cfg = grow(source, small({"blocks": 3})).model.pretrained_cfg
    assert (cfg["mean"], cfg["crop_pct"]) == ((0.3,) * 3, 1.0)
    assert cfg["label_names"] == ["ant", "bee", "cat"]
    other = grow(source, small(num_classes=4, in_chans=1)).model.pretrained_cfg
    assert len(other["mean"]) == 1
    assert not other.get("label_names")
    assert other["num_classes"] == 4


@pytest.mark.parametrize("which", ["source", "model"])
def test_without_values_there_is_nothing_to_grow(which: str) -> None:
    models: dict[str, Callable[[], SReT]] = {
        "source": lambda: create_model(small(), device="cpu" if which == "model" else "meta"),
        "model": lambda: create_model(small(), device="cpu" if which == "source" else "meta"),
    }
    with pytest.raises(UsageError, match=f"{which}: its weights are on meta"):
        grow_into(models["source"](), models["model"]())


def test_a_change_that_nobody_follows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "CARRIED", growing.CARRIED - {"mlp_ratio"})
    stage = {"heads": 2, "head_dim": 4, "mlp_ratio": 1.0}
    one = {"image_size": 16, "stem_stride": 4, "num_classes": 3, "stages": [stage]}
    other = one | {"stages": [stage | {"mlp_ratio": 2.0}]}
    found = growing.grow(create_model(one), Architecture.load(other))
    assert found.notes == ("stage 1: mlp_ratio 2.0 instead of 1.0: what it changes is fresh",)
    assert not found.exact
