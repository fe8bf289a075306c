from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sret_nas
from sret_nas import files, zoo
from sret_nas.arch import Architecture, Stage, divisors, nearest_groups
from sret_nas.errors import ArchitectureError, ConfigError

T = Architecture.load("sret_t")


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Anything an architecture file can say, small."""
    image_size = draw(st.integers(8, 64))
    stem_stride = draw(st.sampled_from([1, 2, 4, 8]))
    side = -(-image_size // stem_stride)
    stages: list[dict[str, Any]] = []
    dim = 1
    for _ in range(draw(st.integers(1, 3))):
        if stages and side < 2:
            break
        side = -(-side // 2) if stages else side
        recursions = draw(st.integers(1, 3))
        heads = draw(st.integers(1, 3)) * (dim if stages else 1)
        head_dim = draw(st.integers(2, 3)) if not stages else 1
        dim = heads * head_dim
        stages.append(
            {
                "heads": heads,
                "head_dim": head_dim,
                "blocks": draw(st.integers(1, 3)),
                "recursions": recursions,
                "order": draw(st.sampled_from(["adjacent", "cyclic"])),
                "share": draw(st.sampled_from(["all", "attention", "mlp", "none"])),
                "groups": draw(
                    st.lists(
                        st.sampled_from(divisors(side * side)),
                        min_size=recursions,
                        max_size=recursions,
                    )
                ),
                "mlp_ratio": draw(st.floats(1, 5)),
                "nll_ratio": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
            }
        )
    return Architecture.load(
        {
            "image_size": image_size,
            "in_chans": draw(st.integers(1, 4)),
            "num_classes": draw(st.integers(0, 12)),
            "stem_stride": stem_stride,
            "residual_scale": draw(st.booleans()),
            "permute": draw(st.sampled_from(["fixed", "random", "none"])),
            "stages": stages,
        }
    )


def changed(arch: Architecture, stage: int = 0, **fields: Any) -> Architecture:
    """The same architecture with some fields of one stage replaced."""
    data = arch.to_dict()
    data["stages"][stage] |= fields
    return Architecture.load(data)


# --- values ---------------------------------------------------------------------------------


@given(architectures())
def test_round_trips_lose_nothing(arch: Architecture) -> None:
    again = [
        Architecture.load(arch.to_dict()),
        Architecture.from_yaml(arch.to_yaml()),
        Architecture.from_json(arch.to_json()),
    ]
    assert all(other == arch and hash(other) == hash(arch) for other in again)
    assert {other.id for other in again} == {arch.id}


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_saved_files_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    T.save(path)
    assert Architecture.load(path) == Architecture.load(str(path)) == T
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_architectures_are_immutable_values() -> None:
    with pytest.raises(Exception, match="frozen"):
        T.image_size = 32  # type: ignore[misc]
    assert len({T, Architecture.load("sret_t"), copy.deepcopy(T)}) == 1
    assert Architecture.load(T) is T


def test_groups_default_to_full_attention() -> None:
    assert Stage(heads=1, head_dim=8, recursions=3).groups == (1, 1, 1)


def test_sides_round_up() -> None:
    arch = Architecture.load(T.at(image_size=100).to_dict())
    assert arch.sides == (13, 7, 4)
    assert arch.tokens == (169, 49, 16)


# --- identity -------------------------------------------------------------------------------

STORED = {  # ids must never change: runs and papers refer to them
    "sret_t": "08fe06d7df",
    "sret_t_wo_slice": "60b00042b2",
    "sret_lt": "63da6a73a5",
    "sret_lt_16_14": "2450ea5764",
    "sret_s": "bf2e9fe2ff",
    "sret_s_wo_slice_384": "fff75911c0",
}


def test_ids_are_stable_over_releases() -> None:
    assert {name: Architecture.load(name).id for name in STORED} == STORED


@given(architectures(), architectures())
def test_equal_ids_mean_equal_canonical_forms(a: Architecture, b: Architecture) -> None:
    assert (a.id == b.id) == (a.canonical() == b.canonical())


@given(architectures(), st.data())
def test_spellings_that_build_the_same_have_one_id(arch: Architecture, data: st.DataObject) -> None:
    """Rewrites that leave the function alone leave the id alone; others change it."""
    i = data.draw(st.integers(0, len(arch.stages) - 1))
    stage = arch.stages[i]
    other_order = {"adjacent": "cyclic", "cyclic": "adjacent"}[stage.order]
    same_order = (
        stage.blocks == 1
        or stage.recursions == 1
        or (
            stage.share == "none"
            and arch.schedules[i] == changed(arch, i, order=other_order).schedules[i]
        )
    )
    assert (changed(arch, i, order=other_order).id == arch.id) == same_order
    for share in ("all", "attention", "mlp", "none"):
        same = stage.recursions == 1 or share == stage.share
        assert (changed(arch, i, share=share).id == arch.id) == same
    permuted = any(
        1 < groups < tokens
        for stage, tokens in zip(arch.stages, arch.tokens, strict=True)
        for groups in stage.groups[1:]
    )
    for permute in ("fixed", "random", "none"):
        other = Architecture.load(arch.to_dict() | {"permute": permute})
        assert (other.id == arch.id) == (not permuted or permute == arch.permute)


def test_unshared_loops_are_more_blocks() -> None:
    two_loops = changed(T, blocks=2, recursions=2, groups=[4, 4], share="none")
    four_blocks = changed(T, blocks=4, recursions=1, groups=[4])
    assert two_loops.id != four_blocks.id  # loop 2 permutes its tokens, another block does not
    plain = [
        Architecture.load(arch.to_dict() | {"permute": "none"}) for arch in (two_loops, four_blocks)
    ]
    assert plain[0].id == plain[1].id


def test_ratios_with_the_same_hidden_width_are_the_same() -> None:
    assert changed(T, mlp_ratio=3.6).id == changed(T, mlp_ratio=230 / 64 + 1e-9).id
    assert changed(T, mlp_ratio=3.6).id != changed(T, mlp_ratio=3.62).id


def test_heads_are_irrelevant_where_a_slice_is_one_token() -> None:
    one = changed(T, groups=[784, 784], heads=2, head_dim=32)
    assert one.id == changed(one, heads=4, head_dim=16).id
    assert changed(T, heads=4, head_dim=16).id != T.id


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 256},
        {"num_classes": 10},
        {"in_chans": 1},
        {"residual_scale": False},
        {"permute": "none"},
    ],
)
def test_what_changes_the_function_changes_the_id(change: dict[str, Any]) -> None:
    assert Architecture.load(T.to_dict() | change).id != T.id


# --- another scale --------------------------------------------------------------------------


@given(
    architectures(),
    st.integers(8, 80),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0.25, 3),
    st.integers(0, 20),
)
def test_any_design_exists_at_another_scale(
    arch: Architecture, image_size: int, stem_stride: int, width: float, classes: int
) -> None:
    try:
        other = arch.at(
            image_size=image_size, stem_stride=stem_stride, width=width, num_classes=classes
        )
    except ArchitectureError as error:  # only for want of pixels or channels
        assert (
            "down-sample" in str(error) or "hidden channel" in str(error) or "width" in str(error)
        )
        return
    assert (other.image_size, other.stem_stride, other.num_classes) == (
        image_size,
        stem_stride,
        classes,
    )
    for before, after, tokens in zip(arch.stages, other.stages, other.tokens, strict=True):
        for old, new in zip(before.groups, after.groups, strict=True):
            assert tokens % new == 0
            assert new == old or tokens % old
            assert (old == 1) <= (new == 1)


def test_at_keeps_what_is_not_named() -> None:
    assert T.at() == T
    assert T.at(image_size=224, width=1.0) == T


def test_half_width_halves_the_head_dimensions() -> None:
    half = T.at(width=0.5, image_size=64)
    assert [stage.dim for stage in half.stages] == [32, 64, 128]
    assert [stage.heads for stage in half.stages] == [2, 4, 8]
    assert [stage.groups for stage in half.stages] == [(8, 2), (4, 1), (1, 1)]


def test_groups_that_do_not_fit_go_to_the_nearest_slice_size() -> None:
    arch = Architecture.load("sret_lt_16_14")
    assert arch.at(image_size=384).stages[1].groups == (16, 1)  # 576 / 14 = 41.1 → 36 tokens
    assert arch.at(image_size=384).stages[0].groups == (16, 1)  # fits, stays
    assert nearest_groups(3, 16) == 4  # 5.3 tokens a slice → 4, not 8
    assert nearest_groups(3, 49) == 7  # 16.3 → 7, not 49
    assert nearest_groups(2, 9) == 3  # 4.5 → 3, not 9


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_an_impossible_width_is_refused(width: float) -> None:
    with pytest.raises(ArchitectureError, match="width"):
        T.at(width=width)


@pytest.mark.parametrize("size", [0, -224, 10**9, 2.5, True])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(ArchitectureError, match="image_size"):
        T.at(image_size=size)


# --- what is refused ------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    # name: (change of the architecture, change of stage 2, what the message must say)
    "tokens": ({}, {"groups": [8, 1]}, ["stage 2 group 1", "196 tokens", "8 groups", "1, 2, 4, 7"]),
    "loops": ({}, {"groups": [4]}, ["stage 2 groups", "1 group count", "one per recursion"]),
    "no groups": ({}, {"groups": []}, ["stage 2 groups", "0 group count"]),
    "width": ({}, {"heads": 3}, ["stage 2 head_dim", "96", "multiple of", "64", "multiples of 64"]),
    "unknown": ({}, {"recursion": 2}, ["stage 2 recursion", "did you mean 'recursions'"]),
    "unknown top": ({"imagesize": 224}, {}, ["imagesize", "did you mean 'image_size'"]),
    "far": ({"zzz": 224}, {}, ["zzz", "unknown key", "image_size, in_chans"]),
    "type": ({}, {"heads": "four"}, ["stage 2 heads", "'four'", "whole number"]),
    "bool": ({}, {"blocks": True}, ["stage 2 blocks", "True", "whole number"]),
    "float": ({}, {"blocks": 2.5}, ["stage 2 blocks", "2.5", "whole number"]),
    "range": ({}, {"recursions": 0, "groups": []}, ["stage 2 recursions", "0", "at least 1"]),
    "nan": ({}, {"mlp_ratio": float("nan")}, ["stage 2 mlp_ratio", "finite"]),
    "inf": ({}, {"nll_ratio": float("inf")}, ["stage 2 nll_ratio", "finite"]),
    "tiny ratio": ({}, {"mlp_ratio": 0.001}, ["stage 2 mlp_ratio", "one hidden channel"]),
    "tiny nll": ({}, {"nll_ratio": 0.001}, ["stage 2 nll_ratio", "0 (no layer)"]),
    "absurd": ({}, {"head_dim": 10**9}, ["stage 2 head_dim", "at most 1024"]),
    "absurd width": ({}, {"heads": 256, "head_dim": 1024}, ["stage 2 head_dim", "16,384"]),
    "absurd depth": (
        {},
        {"blocks": 1000, "recursions": 1000, "groups": [1] * 1000},
        ["1,000,010", "at most 10,000"],
    ),
    "order": ({}, {"order": "spiral"}, ["stage 2 order", "spiral", "'adjacent' or 'cyclic'"]),
    "stem": ({"stem_stride": 3}, {}, ["stem_stride", "3", "1, 2, 4 or 8"]),
    "stem and image": ({"image_size": 4}, {}, ["stem_stride", "8", "4 px"]),
    "no pixels": ({"image_size": 8}, {"groups": [1, 1]}, ["stage 2", "nothing is left"]),
    "no stages": ({"stages": []}, {}, ["stages", "at least 1"]),
    "schema": ({"schema": 2}, {}, ["schema", "2", "1"]),
    "scalar groups": ({}, {"groups": 4}, ["stage 2 groups", "4", "a list"]),
    "permute": ({"permute": "always"}, {}, ["permute", "always", "'fixed'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(
    mistake: str, tmp_path: Path
) -> None:
    change, stage_change, said = MISTAKES[mistake]
    data = T.to_dict()
    data["stages"][1] |= stage_change
    data |= change
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(data)
    for word in said:
        assert word in str(caught.value)
    where = caught.value.problems[0].path
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, default_flow_style=None))
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    line = path.read_text().splitlines()[int(message.split(":")[1]) - 1]
    key = [word for word in where if isinstance(word, str)][-1]
    assert line.lstrip("- ").startswith(key if where != ("stages", 1) else "heads")


def test_all_mistakes_are_reported_at_once() -> None:
    data = T.to_dict()
    data["stages"][0]["heads"] = 0
    data["stages"][1]["heads"] = "x"
    data["stages"][2]["order"] = "x"
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(data)
    assert [problem.path for problem in caught.value.problems] == [  # and no "too few stages"
        ("stages", 0, "heads"),
        ("stages", 1, "heads"),
        ("stages", 2, "order"),
    ]


def test_a_misspelt_key_that_must_be_there_is_one_mistake() -> None:
    data = T.to_dict()
    data["stages"][1]["haeds"] = data["stages"][1].pop("heads")
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(data)
    assert [problem.message for problem in caught.value.problems] == [
        "unknown key; did you mean 'heads'?"
    ]


@pytest.mark.parametrize("source", [3, None, [1, 2], "text"])
def test_stages_that_are_no_mapping_are_refused(source: Any) -> None:
    with pytest.raises(ArchitectureError, match="stage"):
        Architecture.load({"stages": [source]})


BROKEN_FILES = {
    "syntax.yaml": ("stages: [\n", "not valid YAML"),
    "twice.yaml": (
        "image_size: 224\nimage_size: 32\n",
        "twice.yaml:2: not valid YAML: key 'image_size'",
    ),
    "python.yaml": ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    "empty.yaml": ("", "mapping"),
    "list.yaml": ("- 1\n", "mapping"),
    "syntax.json": ("{\n,", "syntax.json:2: not valid JSON"),
    "twice.json": ('{"a": 1, "a": 2}', "written twice"),
    "deep.yaml": ("[" * 5000, "not valid YAML"),
    "date.yaml": ("image_size: 2001-99-99\nstages: []\n", "YAML"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_one_line(name: str, tmp_path: Path) -> None:
    text, said = BROKEN_FILES[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Architecture.load(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        Architecture.load(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="UTF-8"):
        Architecture.load(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_text("a" * (files.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        Architecture.load(tmp_path / "big.yaml")


def test_aliases_in_yaml_do_not_explode(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
    )
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb)
    with pytest.raises(ConfigError, match="unknown key"):
        Architecture.load(path)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ArchitectureError, match="did you mean 'sret_t'") as caught:
        Architecture.load("sret_tl")
    assert caught.value.hint and "sret_s" in caught.value.hint


# --- schema ---------------------------------------------------------------------------------


@given(architectures())
@settings(max_examples=30)
def test_the_json_schema_accepts_every_architecture(arch: Architecture) -> None:
    jsonschema.validate(json.loads(arch.to_json()), Architecture.json_schema())


def test_the_json_schema_refuses_unknown_keys() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(T.to_dict() | {"imagesize": 3}, Architecture.json_schema())


def test_the_published_json_schema_is_current() -> None:
    published = Path(sret_nas.__file__).parent / "architecture.schema.json"
    assert json.loads(published.read_text()) == Architecture.json_schema()


# --- zoo ------------------------------------------------------------------------------------


def test_the_zoo_has_every_published_variant_at_every_size() -> None:
    names = ["sret_t", "sret_lt", "sret_lt_16_14", "sret_s"]
    names += [f"{name}_wo_slice" for name in names]
    assert set(zoo.PUBLISHED) == set(names)
    for name in names:
        arch = Architecture.load(name)
        assert (arch.image_size, arch.permute, arch.depth) == (224, "fixed", 20)
        for size in (384, 512):
            assert Architecture.load(f"{name}_{size}") == arch.at(image_size=size)
    assert Architecture.load("sret_lt").stages[0].groups == (8, 2)
    assert Architecture.load("sret_s").stages[0].mlp_hidden == 378


# --- start-up -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    ["import sret_nas.arch", "from sret_nas.cli.main import run; run(['--help'])"],
)
def test_torch_is_not_loaded(code: str) -> None:
    program = f"{code}\nimport sys; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
