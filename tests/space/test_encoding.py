"""Encodings: decoding, repair, neighbours, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from sret_nas import Architecture, SearchSpace
from sret_nas.arch import nearest_groups
from sret_nas.errors import UsageError


def load(text: str) -> SearchSpace:
    from sret_nas import files

    return SearchSpace.load(files.parse_yaml(text)[0])


REPAIRED = """
image_size: [224, 160]
all_stages: {head_dim: [8, 16]}
each_stage: {recursions: [1, 2]}
stages:
  - {heads: [2, 3], groups: {loop1: [4, 16], loop2: [1, 7]}}
  - {heads: [3, 4, 6]}
"""


def test_every_encoding_is_repaired_by_the_documented_rule() -> None:
    space = load(REPAIRED)
    codes = space.coding.all_codes(0, space.size)
    for code, arch in zip(codes.tolist(), space.decode_many(codes), strict=True):
        drawn = space.params(code)
        one, two = arch.stages
        assert (arch.image_size, one.heads) == (drawn["image_size"], drawn["stage1.heads"])
        assert one.head_dim == two.head_dim == drawn["all.head_dim"]
        tokens = arch.tokens[0]
        asked = [drawn["stage1.groups.loop1"], drawn["stage1.groups.loop2"]]
        expected = tuple(nearest_groups(g, tokens) for g in asked)
        assert one.groups == expected[: drawn["stage1.recursions"]]
        # 2 → 3 is no multiple: of 4 and 6 the nearer is taken; 3 → 4 becomes the narrower 3.
        fixed = {(2, 3): 4, (3, 4): 3}
        pair = (drawn["stage1.heads"], drawn["stage2.heads"])
        assert two.heads == fixed.get(pair, drawn["stage2.heads"])


def test_repair_looks_ahead_and_moves_what_is_shared() -> None:
    # Stage 1 of 3 heads fits only where stage 2 has 6, which 8 of stage 3 cannot follow.
    space = load("stages: [{heads: [2, 3], head_dim: 8}, {heads: [4, 6], head_dim: 8},"
                 " {heads: [8, 12], head_dim: 8}]")  # fmt: skip
    chains = {tuple(s.heads for s in a.stages) for a in space.sample(100, 0)}
    assert chains == {(2, 4, 8), (2, 4, 12), (2, 6, 12), (3, 6, 12)}
    assert [s.heads for s in space.decode([1, 0, 0]).stages] == [3, 6, 12]
    # A head_dim of 12 in stage 1 fits only where stage 2 has the shared one of 24.
    space = load("all_stages: {head_dim: [16, 24], heads: 1}\nstages: [{head_dim: [8, 12]}, {}]")
    drawn = {code: space.decode(code) for code in np.ndindex(2, 2)}
    dims = {code: tuple(s.head_dim for s in a.stages) for code, a in drawn.items()}
    assert dims == {(0, 0): (8, 16), (0, 1): (8, 16), (1, 0): (8, 24), (1, 1): (12, 24)}


def test_wrong_encodings_are_refused() -> None:
    space = load(REPAIRED)
    with pytest.raises(UsageError, match=r"of 3 integers; allowed in 'space': 8"):
        space.decode([0, 0, 0])
    with pytest.raises(UsageError, match=r"given 2 for image_size; allowed: 0 to 1"):
        space.decode([2] + [0] * 7)
    with pytest.raises(UsageError, match=r"given -1 for"):
        space.decode([-1] + [0] * 7)


def test_encode_says_what_is_not_in_the_space() -> None:
    space = load(REPAIRED)
    arch = space.decode([0] * 8)
    assert arch in space and "arch" not in space
    data = arch.to_dict()
    for path, value in (
        (("image_size",), 192),
        (("stages", 0, "mlp_ratio"), 3.5),
        (("stages", 0, "head_dim"), 24),
        (("stages", 0, "blocks"), 2),
        (("stages", 0, "groups"), [2]),
        (("num_classes",), 10),
        (("residual_scale",), False),
    ):
        other = arch.to_dict()
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        if path[-1] == "head_dim":
            other["stages"][1]["head_dim"] = 24
        foreign = Architecture.load(other)
        assert foreign not in space
        with pytest.raises(UsageError, match=f"{foreign.id} is not in space"):
            space.encode(foreign)
    assert Architecture.load(data | {"stages": data["stages"][:1]}) not in space


def test_other_spellings_of_an_architecture_are_found() -> None:
    space = load("""
image_size: 64
permute: none
stages: [{heads: 2, head_dim: 8, blocks: [1, 2], recursions: [1, 2], share: none, order: cyclic,
          mlp_ratio: [2.0, 3.0], groups: {each_loop: [1, 64]}}]
""")
    for change in (
        {"order": "adjacent"},  # nothing recurs
        {"share": "all"},
        {"mlp_ratio": 3.01},  # the same 48 hidden channels
        {"recursions": 2, "share": "none", "blocks": 1, "groups": (1, 1)},  # two blocks, once
        {"heads": 16, "head_dim": 1, "groups": (64,)},  # slices of one token hide the heads
    ):
        stage = {"heads": 2, "head_dim": 8, "mlp_ratio": 3.0} | change
        arch = Architecture.load({"image_size": 64, "permute": "random", "stages": [stage]})
        assert space.decode(space.encode(arch)).id == arch.id
    twice = {"heads": 2, "head_dim": 8, "recursions": 2, "groups": [1, 1], "mlp_ratio": 3.0}
    assert Architecture.load({"image_size": 64, "stages": [twice]}) not in space  # shares weights


def test_neighbours_are_one_choice_away() -> None:
    space = load("""
image_size: 64
stages: [{heads: [1, 2, 4, 8], head_dim: 8, recursions: [1, 2, 3], share: [all, mlp, none],
          order: [adjacent, cyclic], groups: {loop1: [1, 2], loop2: [1, 4], loop3: 1}}]
""")
    here = space.from_params(
        {
            "stage1.heads": 2,
            "stage1.recursions": 2,
            "stage1.share": "all",
            "stage1.order": "adjacent",
            "stage1.groups.loop1": 1,
            "stage1.groups.loop2": 1,
        }
    )
    around = {
        name: value
        for code in space.neighbours(here)
        for name, value in space.params(code).items()
        if value != space.params(here)[name]
    }
    found = [space.params(code) for code in space.neighbours(here)]
    assert sorted(p["stage1.heads"] for p in found if p["stage1.heads"] != 2) == [1, 4]
    assert sorted(p["stage1.recursions"] for p in found if p["stage1.recursions"] != 2) == [1, 3]
    assert {p["stage1.share"] for p in found} == {"all", "mlp", "none"}
    assert "stage1.order" not in around  # one block: the order makes no difference
    assert len(found) == 2 + 2 + 2 + 1 + 1


def test_the_same_seed_gives_the_same_table_and_sample() -> None:
    space = SearchSpace.load("sret")
    one, two = (space.cost_table(1000, seed=3, quantities=("macs", "encoding")) for _ in range(2))
    assert all((one[key] == two[key]).all() for key in one)
    assert one["encoding"].shape == (1000, len(space.coordinates))
    assert (space.costs(one["encoding"], ("macs",))["macs"] == one["macs"]).all()
    assert [a.id for a in space.sample(20, 5)] == [a.id for a in space.sample(20, 5)]
    assert [a.id for a in space.sample(20, 5)] != [a.id for a in space.sample(20, 6)]
