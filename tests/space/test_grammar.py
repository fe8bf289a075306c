"""What a file may say, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sret_nas import SearchSpace
from sret_nas.errors import ConfigError

STAGE: dict[str, Any] = {"heads": 2, "head_dim": 8}


def space(**data: Any) -> SearchSpace:
    return SearchSpace.load({"stages": [STAGE], **data})


def choices(space: SearchSpace) -> dict[str, tuple[Any, ...]]:
    return {d.name: d.choices for d in space.coordinates}


def refused(text: str, folder: Path) -> str:
    """The message about the text of a file."""
    path = folder / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        SearchSpace.load(path)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{path}", "mine.yaml")


def test_a_value_a_list_a_range() -> None:
    found = space(
        image_size=[256, 224],
        residual_scale=[True, False],
        permute=["fixed", "none"],
        stages=[
            STAGE
            | {
                "blocks": {"from": 1, "to": 7, "step": 3},
                "mlp_ratio": {"from": 2.0, "to": 4.0, "step": 0.4},
                "order": ["cyclic", "adjacent"],
                "nll_ratio": [2, 0.5],
            }
        ],
    )
    assert choices(found) == {
        "image_size": (224, 256),  # numbers ascending
        "residual_scale": (True, False),
        "permute": ("fixed", "none"),
        "stage1.blocks": (1, 4, 7),
        "stage1.order": ("cyclic", "adjacent"),
        "stage1.mlp_ratio": (2.0, 2.4, 2.8, 3.2, 3.6, 4.0),  # decimal: no 2.8000000000000003
        "stage1.nll_ratio": (0.5, 2.0),
    }


def test_drawn_once_for_all_stages_or_for_each_or_for_one() -> None:
    found = SearchSpace.load(
        {
            "all_stages": {"head_dim": [8, 16], "heads": 2, "mlp_ratio": [2.0, 3.0]},
            "each_stage": {"recursions": [1, 2]},
            "stages": [{"mlp_ratio": 4.0}, {}, {"recursions": [1, 3]}],
        }
    )
    assert choices(found) == {
        "all.head_dim": (8, 16),
        "all.mlp_ratio": (2.0, 3.0),
        "stage1.recursions": (1, 2),
        "stage2.recursions": (1, 2),
        "stage3.recursions": (1, 3),
    }
    arch = found.decode([1, 1, 0, 1, 1])
    assert [s.head_dim for s in arch.stages] == [16, 16, 16]
    assert [s.mlp_ratio for s in arch.stages] == [4.0, 3.0, 3.0]
    assert [s.recursions for s in arch.stages] == [1, 2, 3]


def test_groups_by_loop() -> None:
    found = space(
        stages=[
            STAGE | {"recursions": [2, 4], "groups": {"loop1": [4, 8], "all_loops": [1, 2]}},
        ]
    )
    assert list(choices(found)) == [
        "stage1.recursions",
        "stage1.groups.loop1",
        "stage1.groups.loops",
    ]
    assert found.decode([1, 1, 1]).stages[0].groups == (8, 2, 2, 2)
    found = space(
        stages=[STAGE | {"recursions": [1, 3], "groups": {"loop2": 4, "each_loop": [1, 2]}}]
    )
    assert list(choices(found))[1:] == ["stage1.groups.loop1", "stage1.groups.loop3"]
    assert found.decode([1, 1, 1]).stages[0].groups == (2, 4, 2)
    assert found.decode([0, 1, 1]).stages[0].groups == (2,)


def test_groups_of_several_stages_reach_as_far_as_the_most_recursions() -> None:
    found = SearchSpace.load(
        {
            "all_stages": STAGE | {"groups": {"loop1": [1, 2], "loop3": [1, 2], "loop2": 1}},
            "stages": [{"recursions": 1}, {"recursions": 3}],
            "image_size": 64,
        }
    )
    assert list(choices(found)) == ["all.groups.loop1", "all.groups.loop3"]


def test_a_number_of_stages() -> None:
    assert len(SearchSpace.load({"all_stages": STAGE, "stages": 3}).coding.stages) == 3


def test_an_architecture_written_by_loop_is_a_space_of_one() -> None:
    from sret_nas.zoo import PUBLISHED

    data = PUBLISHED["sret_t"].to_dict()
    for stage in data["stages"]:
        stage["groups"] = {f"loop{k + 1}": g for k, g in enumerate(stage["groups"])}
    found = SearchSpace.load(data)
    assert found.size == 1 and found.decode([]) == PUBLISHED["sret_t"]
    assert found.encode(PUBLISHED["sret_t"]) == ()


FILE = """\
schema: 1
image_size: 64
stages:
  - heads: [1, 2]
    head_dim: 8
    mlp_ratio: [2.0, 4.0]
  - heads: [2, 4]
    head_dim: 8
    recursions: [1, 2]
    groups: {each_loop: [1, 4]}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("heads: [1, 2]", "heads: []", "mine.yaml:4: stage 1 heads: given an empty list"),
        ("[2.0, 4.0]", "[2.0, 4, 2]", "mine.yaml:6: stage 1 mlp_ratio 3: 2 is given twice"),
        ("[2.0, 4.0]", "[2.0, four]", "mine.yaml:6: stage 1 mlp_ratio 2: given 'four'; allowed: a"),
        ("[2.0, 4.0]", "[2.0, .nan]", "allowed: a finite number"),
        ("[2.0, 4.0]", "[2.0, 65]", "given 65; allowed: at most 64"),
        ("heads: [1, 2]", "heads: [1, 2.5]", "given 2.5; allowed: a whole number"),
        ("heads: [1, 2]", "heads: [[1, 2]]", "given [1, 2]; allowed: a whole number"),
        ("heads: [1, 2]", "heads:", "given None; allowed: a whole number"),
        ("    head_dim: 8\n    mlp", "    mlp", "mine.yaml:4: stage 1: head_dim is missing"),
        ("heads: [1, 2]", "headz: [1, 2]", "mine.yaml:4: stage 1 headz: unknown key; did you"),
        ("image_size", "image_sise", "mine.yaml:2: image_sise: unknown key; did you mean"),
        ("[2.0, 4.0]", "{from: 4, to: 2, step: 1}", "no value from 4 to 2"),
        ("[2.0, 4.0]", "{from: 2, to: 4}", "given a mapping with from, to; allowed"),
        ("[2.0, 4.0]", "{from: 2, to: 4, step: 0}", "mine.yaml:6: stage 1 mlp_ratio step: given 0"),
        ("[2.0, 4.0]", "{from: 2, to: 4, step: .inf}", "given inf; allowed: a number"),
        ("[2.0, 4.0]", "{from: 2, to: 4, step: 0.7}", "allowed: 3.4 or 4.1"),
        ("[2.0, 4.0]", "{from: 2, to: 4, step: 0.0001}", "allowed: a larger step"),
        ("[1, 4]", "[1, 5]", "mine.yaml:10: stage 2 groups each_loop: stage 2: 5 groups cut 16"),
        ("{each_loop: [1, 4]}", "[1, 4]", "mine.yaml:10: stage 2 groups: given [1, 4]; allowed: o"),
        ("{each_loop: [1, 4]}", "{loop1: 1}", "nothing is said of loop2"),
        ("{each_loop: [1, 4]}", "{loop3: 1, all_loops: 1}", "at most 2 recursions"),
        ("{each_loop: [1, 4]}", "{loop1: 1, loop2: 1, all_loops: 1}", "leave all_loops out"),
        ("{each_loop: [1, 4]}", "{each_loop: 1, all_loops: 1}", "allowed: one of them"),
        ("{each_loop: [1, 4]}", "{loop0: 1}", "unknown key; allowed: loop1, loop2"),
        ("head_dim: 8\n    rec", "head_dim: [8, 12]\n    rec", None),
        ("heads: [2, 4]", "heads: [2, 3, 4]", None),
        ("heads: [1, 2]", "heads: [1, 3]", "mine.yaml:4: stage 1 heads: with stage1.heads 3 no wi"),
        ("heads: [2, 4]", "heads: [1, 4]", None),
        ("    head_dim: 8\n    mlp", "    head_dim: 1\n    mlp", "allowed: a width of 2 to 16,384"),
        ("[2.0, 4.0]", "[0.1, 4.0]", "0.1 of a width of 8 is no hidden channel; allowed: at least"),
        ("image_size: 64", "image_size: [64, 4]", "4 px with stem_stride 8 and 2 stages"),
        ("image_size: 64", "image_size: [64, 8]", "8 px with stem_stride 8 and 2 stages: stage 1"),
        ("image_size: 64", "image_size: 64\nstem_stride: [8, 3]", "given 3; allowed: 1, 2, 4 or 8"),
        ("schema: 1", "schema: 2", "mine.yaml:1: schema: given 2; allowed: 1"),
        ("stages:", "each_stage: {heads: 1}\nstages:", "each_stage heads: no stage takes it"),
        ("stages:", "each_stage:\nstages:", "allowed: a mapping"),
        ("schema: 1", "permute: {from: 1, to: 2, step: 1}", "given a range; allowed: a value or a"),
        ("schema: 1", "callable: here", "given 'here'; allowed: module:function"),
        ("schema: 1", "heads: 1\nheads: 2", "mine.yaml:2: not valid YAML: key 'heads' is w"),
        (FILE, "", "given None; allowed: a mapping"),
        (FILE, "stages: []", "at least 1"),
        (FILE, "stages: 9\nall_stages: {heads: 1, head_dim: 8}", "allowed: a list"),
    ],
)
def test_refusals_give_line_field_given_and_allowed(
    old: str, new: str, says: str | None, tmp_path: Path
) -> None:
    assert old in FILE
    text = FILE.replace(old, new)
    if says is None:  # a neighbouring file that is possible, so that the refusals are not too eager
        (tmp_path / "good.yaml").write_text(text)
        assert SearchSpace.load(tmp_path / "good.yaml").size
    else:
        assert says in refused(text, tmp_path)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = FILE.replace("[1, 2]", "[1, 1]", 1).replace("[2.0, 4.0]", "[]")
    message = refused(text, tmp_path)
    assert "mine.yaml:4" in message and "mine.yaml:6" in message


ONCE = {
    "too wide for several stages": (
        "all_stages: {head_dim: [16, 1000]}",
        ["{heads: 1}", "{heads: [2, 100]}", "{heads: 200}"],
        "all_stages head_dim: stage 3: heads × head_dim = 200 × 1000 = 200000",
    ),
    "no widths that fit": (
        "all_stages: {blocks: [1, 2]}",
        ["{heads: 2, head_dim: [20, 32]}", "{heads: 4, head_dim: 33}", "{heads: 8, head_dim: 33}"],
        "stage 2: no width of 132 is a multiple of one of stage 1, 40, 64",
    ),
    "several choices of one field": (
        "all_stages: {blocks: 1}",
        ["{heads: 2, head_dim: 8}", "{heads: 4, head_dim: [8, 9, 11]}"],
        "with stage2.head_dim 9, 11 no width",
    ),
    "groups of several stages": (
        "all_stages: {head_dim: 8, groups: {all_loops: [1, 5]}}",
        ["{heads: 1}", "{heads: 2}", "{heads: 4}"],
        "stage 1: 5 groups cut 784 tokens",
    ),
}


@pytest.mark.parametrize(("top", "stages", "says"), ONCE.values(), ids=ONCE)
def test_one_mistake_is_one_line(top: str, stages: list[str], says: str, tmp_path: Path) -> None:
    text = "\n".join([top, "stages:", *(f"- {stage}" for stage in stages)])
    message = refused(text, tmp_path)
    assert says in message
    assert len(message.splitlines()) == 1


def test_a_file_has_limits(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(1, 1002)))
    assert "at most 1,000" in refused(f"num_classes: [{many}]\n{FILE}", tmp_path)
    assert "10,000" in refused(FILE.replace("head_dim: 8", "head_dim: 8\n    blocks: 1000\n    "
                                            "recursions: 11", 1), tmp_path)  # fmt: skip
    loops = FILE.replace("recursions: [1, 2]", "recursions: 600")
    assert "by all_loops" in refused(loops, tmp_path)
    (tmp_path / "loops.yaml").write_text(loops.replace("each_loop", "all_loops"))
    deep = SearchSpace.load(tmp_path / "loops.yaml")
    assert deep.sample(1, 0)[0].stages[1].recursions == 600
    large = "image_size: 4096\nstem_stride: 1\nall_stages: {heads: 16, head_dim: 1024, blocks: 999}"
    assert "less than 2^63" in refused(f"{large}\nstages: 2", tmp_path)
    wide = "{heads: {from: 1, to: 16, step: 1}, head_dim: {from: 1, to: 1000, step: 1}}"
    assert "combinations of widths" in refused(f"each_stage: {wide}\nstages: 2", tmp_path)
    (tmp_path / "huge.yaml").write_text("#" * 2_000_000)
    with pytest.raises(ConfigError, match="larger than"):
        SearchSpace.load(tmp_path / "huge.yaml")


def test_what_is_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sret_tiny'") as caught:
        SearchSpace.load("sret_tny")
    assert "smoke" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="cannot be read"):
        SearchSpace.load(tmp_path / "none.yaml")


def test_json_is_read_too_and_a_space_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"stages": [{"heads": [1, 2], "head_dim": 8}]}')
    found = SearchSpace.load(path)
    assert found.name == "mine" and found.size == 2
    assert SearchSpace.load(found) is found
