"""The cost model against built modules, independent counters, hand sums and the allocator."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import sret_nas
from sret_nas import Architecture, zoo
from sret_nas.arch import Stage, divisors
from sret_nas.cost import QUANTITIES as COST_QUANTITIES
from sret_nas.cost import (
    Cost,
    activations,
    layers,
    macs,
    memory,
    params,
    peak_bytes,
    shape,
    stack,
    table,
    training_bytes,
    weight_bytes,
)
from sret_nas.cost.dims import StageShape, column
from sret_nas.cost.formulas import Norm
from sret_nas.errors import UsageError

QUANTITIES = [params, macs, activations, weight_bytes, peak_bytes, training_bytes]


def random_architecture(seed: int) -> Architecture:
    """Anything an architecture file can say, small enough to build at once."""
    rng = random.Random(seed)
    stem_stride = rng.choice([1, 2, 4, 8])
    image_size = rng.randint(stem_stride, 12 * stem_stride if stem_stride > 1 else 16)
    side = -(-image_size // stem_stride)
    stages: list[dict[str, Any]] = []
    dim = rng.randint(2, 8)
    while True:
        heads = rng.choice([h for h in divisors(dim) if h <= 8])
        recursions = rng.randint(1, 3)
        stages.append(
            {
                "heads": heads,
                "head_dim": dim // heads,
                "blocks": rng.randint(1, 2),
                "recursions": recursions,
                "order": rng.choice(["adjacent", "cyclic"]),
                "share": rng.choice(["all", "attention", "mlp", "none"]),
                "groups": [rng.choice(divisors(side * side)) for _ in range(recursions)],
                "mlp_ratio": rng.uniform(0.5, 4.0),
                "nll_ratio": rng.choice([0.0, rng.uniform(0.5, 2.0)]),
            }
        )
        if side < 2 or len(stages) == 8 or rng.random() < 0.4:
            break
        side, dim = -(-side // 2), dim * rng.choice([1, 1, 2, 3]) if dim < 40 else dim
    return Architecture.load(
        {
            "image_size": image_size,
            "in_chans": rng.randint(1, 5),
            "num_classes": rng.choice([0, rng.randint(1, 9)]),
            "stem_stride": stem_stride,
            "residual_scale": rng.random() < 0.5,
            "permute": rng.choice(["fixed", "random", "none"]),
            "stages": stages,
        }
    )


def reference(arch: Architecture) -> tuple[torch.nn.Module, torch.Tensor]:
    """The module on the reference path, and an image."""
    model = sret_nas.create_model(arch, fused_attn=False).eval()
    return model, torch.zeros(1, arch.in_chans, arch.image_size, arch.image_size)


def fvcore_activations(model: torch.nn.Module, image: torch.Tensor) -> int:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        from fvcore.nn import ActivationCountAnalysis

        analysis = ActivationCountAnalysis(model, (image,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.tracer_warnings("none").total())


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(10))
def test_exact_on_random_architectures(chunk: int) -> None:
    for seed in range(chunk * 12, chunk * 12 + 12):
        arch = random_architecture(seed)
        model, image = reference(arch)
        cost = sret_nas.cost(arch)
        assert cost.params == sum(p.numel() for p in model.parameters()), seed
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
        assert 2 * cost.macs == counter.get_total_flops(), seed
        with torch.no_grad():
            assert cost.activations == fvcore_activations(model, image), seed


@pytest.mark.parametrize(
    ("name", "expected_params", "expected_macs"),
    [
        ("sret_t", 4_755_979, 1_112_444_672),
        ("sret_t_wo_slice", 4_755_979, 1_365_682_944),
        ("sret_lt", 4_988_024, 1_164_477_184),
        ("sret_lt_wo_slice", 4_988_024, 1_417_715_456),
        ("sret_lt_16_14", 4_988_024, 1_224_537_856),
        ("sret_s", 20_899_692, 4_172_819_112),
        ("sret_s_wo_slice", 20_899_692, 4_671_381_960),
    ],
)
def test_published(name: str, expected_params: int, expected_macs: int) -> None:
    cost = sret_nas.cost(Architecture.load(name))
    assert (cost.params, cost.macs, cost.depth) == (expected_params, expected_macs, 20)
    assert cost.weight_bytes == 4 * expected_params


def recorded(arch: Architecture) -> list[int]:
    """What ``tests/golden/costs.json`` holds of an architecture."""
    cost = sret_nas.cost(arch)
    return [
        cost.params, cost.macs, cost.activations, cost.peak_bytes, cost.weight_bytes, cost.depth,
        cost.inference_bytes(batch=3, dtype_bytes=2, align=8),
        cost.training_bytes(),
        cost.training_bytes(batch=5, align=4),
        cost.training_bytes(batch=2, checkpointing=True, dtype_bytes=2, optimizer_states=1),
        cost.training_bytes(batch=1000),  # nothing but activations
        cost.training_bytes(batch=1000, checkpointing=True),
    ]  # fmt: skip


def recorded_ones() -> list[Architecture]:
    """Random ones, the same with many blocks, whose weights are many, and the published."""
    some = [random_architecture(seed) for seed in range(60)]
    deep = []
    for arch in some[:20]:
        data = arch.to_dict()
        for stage in data["stages"]:
            stage["blocks"] *= 15
        deep.append(Architecture.load(data))
    return [*some, *deep, *zoo.PUBLISHED.values()]


def test_costs_are_what_they_were() -> None:
    """Runs and papers hold them. Other tests here say that they are right, some within a tenth."""
    golden = json.loads((Path(__file__).parent / "golden" / "costs.json").read_text())
    assert len(golden) == 87
    assert {arch.id: recorded(arch) for arch in recorded_ones()} == golden


def test_published_at_larger_images() -> None:
    # The README of the published code: 18.44G at 384 px, 42.67G at 512 px.
    assert round(sret_nas.cost(Architecture.load("sret_s_wo_slice_384")).macs / 1e7) == 1844
    assert round(sret_nas.cost(Architecture.load("sret_s_wo_slice_512")).macs / 1e7) == 4267


def test_by_hand() -> None:
    # 4×4 px, stem without stride: 16 tokens of 2 channels; 2 heads, hidden 6, no NLL, 4 slices.
    stage = {"heads": 2, "head_dim": 1, "mlp_ratio": 3.0, "nll_ratio": 0.0, "groups": [4]}
    cost = sret_nas.cost(
        Architecture.load({"image_size": 4, "num_classes": 5, "stem_stride": 1, "stages": [stage]})
    )
    stem = 16 * 9 * (3 * 1 + 1 * 2 + 2 * 2)
    attention = 16 * (4 * 2 * 2) + 2 * (16 * 16 // 4) * 2
    mlp = 16 * 2 * 2 * 6
    assert cost.macs == stem + attention + mlp + 2 * 5
    assert [row.macs for row in cost.by_stage] == [stem, attention + mlp, 10]
    assert cost.activations == (16 * (1 + 2 + 2) + 16 * (3 * 2 + 2 + 2) + 2 * 64 + 16 * (6 + 2) + 5)
    scalars, norms = 4, 2 * 2 * 2
    weights = (2 * 6 + 6) + (2 * 2 + 2) + (2 * 6 + 6) + (6 * 2 + 2)
    position, head = 16 * 2, 2 * 2 + (2 * 5 + 5)
    convolutions = (27 * 1 + 1) + (9 * 1 * 2 + 2) + (9 * 2 * 2 + 2) + 2 * (1 + 2 + 2)
    assert cost.params == convolutions + position + weights + norms + scalars + head


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_breakdowns_add_up(seed: int) -> None:
    cost = sret_nas.cost(random_architecture(seed))
    for name in ("params", "macs", "activations"):
        total = getattr(cost, name)
        assert type(total) is int
        assert sum(getattr(row, name) for row in cost.by_stage) == total
        assert sum(getattr(row, name) for row in cost.by_layer) == total
    assert sum(row.depth for row in cost.by_stage) == cost.depth
    assert [row.stage for row in cost.by_stage] == list(
        dict.fromkeys(row.stage for row in cost.by_layer)
    )


def test_table_equals_one_by_one() -> None:
    archs = [random_architecture(seed) for seed in range(200)] + list(zoo.PUBLISHED.values())
    assert len({len(arch.stages) for arch in archs}) > 3  # stages that only some rows have
    for columns in (stack(archs), stack(archs).narrow()):
        for quantity in QUANTITIES:
            expected = [quantity(shape(arch)) for arch in archs]
            assert all(type(x) is int for x in expected)
            np.testing.assert_array_equal(quantity(columns), expected)
    results = table(stack(archs).narrow(), ("macs", "peak_bytes", "depth"))
    np.testing.assert_array_equal(results["macs"], [sret_nas.cost(arch).macs for arch in archs])
    assert results["depth"].dtype == np.int64


def test_table_takes_what_all_rows_share_as_a_number() -> None:
    arch = zoo.PUBLISHED["sret_t"]
    base = shape(arch)
    groups = np.array([1, 2, 4, 7])
    first = base.stages[0]._replace(attention_pairs=4 * 784 * (784 // groups))
    results = table(base._replace(stages=(first, *base.stages[1:])))
    for i, g in enumerate(groups.tolist()):
        data = arch.to_dict()
        data["stages"][0]["groups"] = [g, g]
        assert results["macs"][i] == sret_nas.cost(Architecture.load(data)).macs
    assert set(results["params"]) == {4_755_979}


def test_table_is_small() -> None:
    rows = 200_000
    columns = stack(list(zoo.PUBLISHED.values())).map(lambda x: np.resize(x, rows)).narrow()
    results = table(columns)
    held = sum(x.nbytes for x in columns.columns()) + sum(x.nbytes for x in results.values())
    assert held / rows <= 200


def test_columns_are_derived_as_one_architecture_is() -> None:
    archs = [a for a in map(random_architecture, range(400)) if len(a.stages) == 2]
    top = {f: [getattr(a, f) for a in archs] for f in Architecture.model_fields if f != "stages"}
    stages = []
    for i in range(2):
        fields = {f: [getattr(a.stages[i], f) for a in archs] for f in Stage.model_fields}
        loops = max(map(len, fields["groups"]))
        filled = [(*groups, *(1,) * (loops - len(groups))) for groups in fields.pop("groups")]
        columns = {f: column(values, np.arange(len(archs))) for f, values in fields.items()}
        columns["groups"] = tuple(np.array(filled).T)
        stages.append(Stage.model_construct(**columns))
    columns = {f: column(values, np.arange(len(archs))) for f, values in top.items()}
    found = shape(Architecture.model_construct(**columns, stages=tuple(stages)))
    for row in range(len(archs)):
        assert found.map(lambda x, row=row: x[row]) == shape(archs[row])  # type: ignore[misc]


def test_a_column_of_words_is_compared_like_one_word() -> None:
    words = column(["all", "mlp", "none"], np.array([2, 0, 0, 1]))
    assert words.tolist() == ["none", "all", "all", "mlp"]
    assert (words == "all").tolist() == [False, True, True, False]
    assert (words != "all").tolist() == [True, False, False, True]
    assert not (words == "attention").any()


def test_table_over_many_blocks_and_none() -> None:
    archs = list(zoo.PUBLISHED.values())
    columns = stack(archs).map(lambda x: np.resize(x, 20_001))
    expected = np.resize([sret_nas.cost(arch).macs for arch in archs], 20_001)
    np.testing.assert_array_equal(table(columns, ["macs"])["macs"], expected)
    assert table(columns.rows(slice(0, 0)))["macs"].shape == (0,)


def test_table_refuses() -> None:
    with pytest.raises(UsageError, match="allowed: one length"):
        table(shape(zoo.PUBLISHED["sret_t"]))
    columns = stack([zoo.PUBLISHED["sret_t"]])
    with pytest.raises(UsageError, match="unknown quantity 'flops'; allowed: macs, params"):
        table(columns, ["flops"])
    huge = StageShape(*(np.array([10**6]) for _ in StageShape._fields))
    with pytest.raises(UsageError, match="macs could pass 64 bits") as caught:
        table(columns._replace(stages=(huge,)))
    assert caught.value.hint == "cost them one by one"


def test_one_architecture_has_no_limit() -> None:
    stage = {"heads": 256, "head_dim": 64, "blocks": 1000, "recursions": 10, "mlp_ratio": 64.0}
    arch = Architecture.load({"image_size": 4096, "stem_stride": 1, "stages": [stage]})
    assert sret_nas.cost(arch).macs > 2**63


@pytest.mark.parametrize("seed", range(40))
def test_a_total_is_what_its_formula_says_as_an_int(seed: int) -> None:
    """Of one architecture as computed layer by layer, and at any number of stages."""
    rng = random.Random(seed)
    one = shape(random_architecture(seed))
    stages = 1 + seed % 8
    any_numbers = one._replace(stages=(one.stages[0],) * stages).map(
        lambda x: rng.choice([0, 1, x, rng.randrange(10**6)])
    )
    for numbers in (one, any_numbers):
        found = Cost(numbers)
        for name, formula in COST_QUANTITIES.items():
            assert getattr(found, name) == formula(numbers), name
            assert type(getattr(found, name)) is int


@pytest.mark.parametrize("scale", [True, False])
def test_attention_is_the_peak_where_nothing_else_is_wide(scale: bool) -> None:
    """Its input, the stage's, qkv, its result, the projection and, scaled, the branch; the sum."""
    stage = {"heads": 4, "head_dim": 8, "mlp_ratio": 1.0, "nll_ratio": 0.0}
    settings = {"image_size": 16, "stem_stride": 1, "in_chans": 1, "num_classes": 10}
    cost = sret_nas.cost(Architecture.load(settings | {"residual_scale": scale, "stages": [stage]}))
    grid = 16 * 16 * 32
    assert cost.peak_bytes == 4 * (cost.params + 16 * 16 + (7 + scale) * grid)


def test_cost_is_a_value_and_free_of_torch() -> None:
    cost = sret_nas.cost(zoo.PUBLISHED["sret_t"])
    assert cost == sret_nas.cost(zoo.PUBLISHED["sret_t"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost.shape = None  # type: ignore[misc, assignment]
    code = "import sys, sret_nas; sret_nas.cost(sret_nas.zoo.PUBLISHED['sret_t']).macs"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_layers_have_the_names_of_the_modules_in_their_order() -> None:
    stage = {"heads": 2, "head_dim": 4, "recursions": 2, "mlp_ratio": 1.0, "nll_ratio": 1.0}
    stages = [stage, stage | {"heads": 4, "nll_ratio": 0.0}]
    settings = {"image_size": 8, "stem_stride": 2, "in_chans": 1, "num_classes": 5}
    cost = sret_nas.cost(Architecture.load(settings | {"stages": stages}))
    attention = ["norm", "qkv", "products", "proj", "residual"]
    unit = ["norm", "fc1", "fc2", "residual"]
    block = [f"attention.{name}" for name in attention] + [f"mlp.{name}" for name in unit]
    stem = [f"{kind} {i}" for i in (1, 2, 3) for kind in ("conv", "norm")]
    names = [(layer.stage, layer.name) for layer in layers(cost.shape)]
    assert names == [
        *(("stem", name) for name in [*stem, "pos_embed"]),
        *(("stage 1", name) for name in [*block, *(f"nll.{name}" for name in unit)]),
        *(("stage 2", name) for name in ["down-sampling", *block]),
        *(("stage 2", f"nll.{name}") for name in unit),  # none of them is there
        ("head", "norm"),
        ("head", "linear"),
    ]
    found = {(row.stage, row.layer) for row in cost.by_layer}
    assert found == {name for name in names if not (name[0] == "stage 2" and "nll" in name[1])}
    assert [(row.stage, row.depth) for row in cost.by_stage] == [
        ("stem", 0), ("stage 1", 2), ("stage 2", 2), ("head", 0),
    ]  # fmt: skip
    elements = [layer.elements for layer in layers(cost.shape) if isinstance(layer, Norm)]
    first, second = 16 * 8, 4 * 16
    assert elements == [16 * 4, 16 * 8, 16 * 8, *[2 * first] * 3, *[2 * second] * 2, 0, 16]


def test_memory_is_that_of_one_image_unless_told_otherwise() -> None:
    one = shape(zoo.PUBLISHED["sret_t"])
    assert memory.training_bytes(one) == memory.training_bytes(one, 1, False, 4, 2, 1)
    assert memory.peak_bytes(one) == memory.peak_bytes(one, 1, 4, 1)
    assert memory.weight_bytes(one) == memory.weight_bytes(one, 4)


def test_permuted_applications() -> None:
    for seed in range(100):
        arch = random_architecture(seed)
        for stage, schedule in zip(shape(arch).stages, arch.schedules, strict=True):
            assert stage.permuted == sum(step.permuted for step in schedule)


def test_memory_follows_batch_and_dtype() -> None:
    cost = sret_nas.cost(zoo.PUBLISHED["sret_t"])
    assert cost.peak_bytes == cost.inference_bytes(batch=1, dtype_bytes=4)
    image = cost.inference_bytes(2) - cost.inference_bytes(1)
    assert cost.inference_bytes(5) == cost.weight_bytes + 5 * image
    assert 2 * cost.inference_bytes(3, dtype_bytes=2) == cost.inference_bytes(3)
    assert cost.training_bytes(8, checkpointing=True) < cost.training_bytes(8)
    assert cost.training_bytes(optimizer_states=2) - cost.training_bytes(optimizer_states=1) == (
        cost.weight_bytes
    )


@pytest.fixture(scope="module")
def memory_benchmark() -> ModuleType:
    """``benchmarks/memory.py``, which measures what the allocator does."""
    path = Path(__file__).parent.parent / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["sret_t", "sret_lt_wo_slice"])
def test_memory_within_a_tenth_of_the_allocator(
    name: str, batch: int, memory_benchmark: ModuleType
) -> None:
    measured = memory_benchmark.measure(zoo.PUBLISHED[name], batch)
    for kind, row in measured.items():
        assert abs(row["error"]) <= 0.10, (kind, row)
        assert abs(row["error_beyond_weights"]) <= 0.10, (kind, row)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["sret", "sret_tiny", "smoke", "deep"])
def test_memory_of_random_architectures(space: str, memory_benchmark: ModuleType) -> None:
    found = sret_nas.SearchSpace.load(space).sample(8, seed=1)
    arch = min(found, key=lambda arch: sret_nas.cost(arch).depth)  # the profiler records each step
    arch = arch.at(image_size=min(arch.image_size, 96))
    # What oneDNN makes of the weights of a grouped convolution, whose groups it fills up to 16
    # by 16 channels: a workspace, as large as the rest in the smallest models alone.
    workspace = 4 * 9 * 16 * 16 * max(stage.dim for stage in arch.stages[:-1])
    for kind, row in memory_benchmark.measure(arch, 2).items():
        missing = row["measured_bytes"] - row["predicted_bytes"]
        within = abs(row["error"]) <= 0.10
        assert within or (kind == "inference" and 0 < missing < workspace), (kind, row)


def test_memory_knows_how_training_goes() -> None:
    fused = pytest.importorskip("sret_nas.model.fused")
    assert (memory.AT_ONCE, memory.FOLDED_AT_ONCE) == (fused.AT_ONCE, fused.FOLDED_AT_ONCE)


def test_memory_of_heads_that_are_filled_up() -> None:
    sret_s = shape(zoo.PUBLISHED["sret_s"])  # 42 channels per head
    plain, filled = (memory.training_bytes(sret_s, 8, align=align) for align in (1, 4))
    assert filled > plain
    assert memory.training_bytes(sret_s, 8, align=2) == plain
