"""What an architecture costs, by formula: one architecture or a table of them.

There is one copy of the arithmetic. It runs over ``Shape``, whose numbers are
Python integers for one architecture (exact at any size) or NumPy columns for a
table, and every total, stage and layer is a sum over the same ``Layer`` rows.
Free of torch.

Conventions:
    * params: parameters with weights of their own; a shared weight counts once.
    * macs: multiply-adds of convolutions and matrix products for one image, as
      executed: a block applied twice counts twice. Half of what torch's
      ``FlopCounterMode`` counts. Normalisation, softmax, activation functions,
      residual sums and pooling are not counted.
    * activations: elements of the outputs of convolutions and matrix products
      for one image, the attention matrix among them, as fvcore's
      ``ActivationCountAnalysis`` counts the reference path.

Source: SReT, arXiv 2111.05297; formulas checked against the built modules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture
from sret_nas.errors import UsageError

Number: TypeAlias = Any
"""A Python int, or an integer NumPy column with one entry per architecture."""

Quantity: TypeAlias = Callable[["Shape"], Number]


@dataclass(frozen=True)
class StageShape:
    """The numbers of one stage that its cost depends on; each int or column.

    A stage that some rows of a table do not have is all zeros there.

    Attributes:
        tokens: Tokens N.
        dim: Channels C.
        heads: Attention heads.
        mlp_hidden: Hidden channels of the MLP.
        nll_hidden: Hidden channels of the non-linear projection layer; 0: none.
        depth: Block applications.
        attention_units: Attention units with weights of their own.
        mlp_units: MLP units with weights of their own.
        attention_pairs: Query-key pairs of one image and head: the sum of N² / G
            over the applications, with G slices in each.
        permuted: Applications that permute the tokens.
    """

    tokens: Number
    dim: Number
    heads: Number
    mlp_hidden: Number
    nll_hidden: Number
    depth: Number
    attention_units: Number
    mlp_units: Number
    attention_pairs: Number
    permuted: Number = 0


@dataclass(frozen=True)
class Shape:
    """The numbers of an architecture, or of a table of them; each int or column.

    Attributes:
        image_size: Side of the input in pixels.
        in_chans: Input channels.
        num_classes: Classes of the head; 0: no head.
        residual_scale: 1 where units have two residual coefficients, else 0.
        stem_sides: Output sides of the three stem convolutions.
        stages: The stages in order.
    """

    image_size: Number
    in_chans: Number
    num_classes: Number
    residual_scale: Number
    stem_sides: tuple[Number, ...]
    stages: tuple[StageShape, ...]

    def map(self, change: Callable[[Number], Number]) -> Shape:
        """The same shape with every number changed."""
        return Shape(
            change(self.image_size),
            change(self.in_chans),
            change(self.num_classes),
            change(self.residual_scale),
            tuple(map(change, self.stem_sides)),
            tuple(
                StageShape(*(change(getattr(stage, name)) for name in STAGE_FIELDS))
                for stage in self.stages
            ),
        )

    def columns(self) -> list[NDArray[Any]]:
        """The columns among the numbers; none for one architecture."""
        found: list[NDArray[Any]] = []
        self.map(lambda x: found.append(x) if isinstance(x, np.ndarray) else None)
        return found

    def rows(self, here: slice) -> Shape:
        """Some rows of a table, without a copy."""
        return self.map(lambda x: x[here] if isinstance(x, np.ndarray) else x)

    def narrow(self) -> Shape:
        """The same table in the least memory: the smallest dtype that holds each column."""
        return self.map(
            lambda x: x.astype(np.min_scalar_type(x.max())) if isinstance(x, np.ndarray) else x
        )

    def wide(self) -> Shape:
        """The same numbers as int64 columns and Python ints, so that products fit."""
        return self.map(
            lambda x: x.astype(np.int64, copy=False) if isinstance(x, np.ndarray) else int(x)
        )


STAGE_FIELDS = tuple(field.name for field in fields(StageShape))


def shape(arch: Architecture) -> Shape:
    """The numbers of one architecture, as Python integers."""
    sides = [arch.image_size]
    for stride in (2, 4, 8):
        sides.append(-(-sides[-1] // 2) if arch.stem_stride >= stride else sides[-1])
    stages = tuple(
        StageShape(
            tokens=tokens,
            dim=stage.dim,
            heads=stage.heads,
            mlp_hidden=stage.mlp_hidden,
            nll_hidden=stage.nll_hidden,
            depth=stage.depth,
            attention_units=stage.attention_units,
            mlp_units=stage.mlp_units,
            attention_pairs=stage.blocks * sum(tokens * (tokens // g) for g in stage.groups),
            permuted=sum(step.permuted for step in stage.schedule(tokens, arch.permute)),
        )
        for stage, tokens in zip(arch.stages, arch.tokens, strict=True)
    )
    return Shape(
        image_size=arch.image_size,
        in_chans=arch.in_chans,
        num_classes=arch.num_classes,
        residual_scale=int(arch.residual_scale),
        stem_sides=(sides[1], sides[2], sides[3]),
        stages=stages,
    )


def stack(archs: Sequence[Architecture]) -> Shape:
    """Many architectures as one table: every number an int64 column.

    Rows with fewer stages than others have zeros in the rest.
    """
    shapes = [shape(arch) for arch in archs]
    absent = StageShape(*(0 for _ in STAGE_FIELDS))
    most = max(len(one.stages) for one in shapes)
    shapes = [
        replace(one, stages=one.stages + (absent,) * (most - len(one.stages))) for one in shapes
    ]
    rows: list[list[int]] = []
    for one in shapes:
        row: list[int] = []
        one.map(row.append)
        rows.append(row)
    columns = iter(np.array(rows, dtype=np.int64).T.copy())
    return shapes[0].map(lambda _: next(columns))


@dataclass(frozen=True)
class Layer:
    """One kind of layer in one place: what its weights and its uses cost.

    Attributes:
        stage: ``stem``, ``stage 1``, …, ``head``.
        name: The layer, after the module's name.
        units: How many of them have weights of their own.
        uses: How many times one is executed for an image.
    """

    stage: str
    name: str
    units: Number
    uses: Number

    @property
    def params(self) -> Number:
        """Unique parameters."""
        return 0

    @property
    def macs(self) -> Number:
        """Multiply-adds for one image."""
        return 0

    @property
    def activations(self) -> Number:
        """Output elements of convolutions and matrix products for one image."""
        return 0


@dataclass(frozen=True)
class Affine(Layer):
    """A linear layer or a convolution with bias: ``outputs`` channels at ``positions``."""

    positions: Number
    fan_in: Number
    outputs: Number

    @property
    def params(self) -> Number:
        """Weights and biases."""
        return self.units * (self.fan_in + 1) * self.outputs

    @property
    def macs(self) -> Number:
        """Biases are not counted."""
        return self.uses * self.positions * self.fan_in * self.outputs

    @property
    def activations(self) -> Number:
        """Also the number of bias additions."""
        return self.uses * self.positions * self.outputs


@dataclass(frozen=True)
class Attention(Layer):
    """The two matrix products of attention: no weights, no bias."""

    pairs: Number
    tokens: Number
    dim: Number
    heads: Number

    @property
    def macs(self) -> Number:
        """Queries by keys, and the result by values."""
        return 2 * self.pairs * self.dim

    @property
    def activations(self) -> Number:
        """The attention matrix and the result."""
        return self.heads * self.pairs + self.uses * self.tokens * self.dim


@dataclass(frozen=True)
class Norm(Layer):
    """LayerNorm or BatchNorm of ``dim`` channels at ``positions``."""

    positions: Number
    dim: Number

    @property
    def params(self) -> Number:
        """Weight and bias of every channel."""
        return self.units * 2 * self.dim

    @property
    def elements(self) -> Number:
        """Elements normalised for one image."""
        return self.uses * self.positions * self.dim


@dataclass(frozen=True)
class Vector(Layer):
    """Parameters that are added or multiplied element by element."""

    size: Number

    @property
    def params(self) -> Number:
        """Its elements."""
        return self.units * self.size


def layers(shape: Shape) -> Iterator[Layer]:
    """Every kind of layer in order of execution: the source of all sums."""
    shape = shape.wide()
    first = shape.stages[0].dim
    channels = (shape.in_chans, first // 2, first, first)
    for i, side in enumerate(shape.stem_sides):
        fan_in, outputs = 9 * channels[i], channels[i + 1]
        yield Affine("stem", f"conv {i + 1}", 1, 1, side * side, fan_in, outputs)
        yield Norm("stem", f"norm {i + 1}", 1, 1, side * side, outputs)
    yield Vector("stem", "pos_embed", 1, 1, shape.stages[0].tokens * first)
    scalars = 2 * shape.residual_scale
    for i, stage in enumerate(shape.stages):
        name = f"stage {i + 1}"
        n, d, a, m = stage.tokens, stage.dim, stage.attention_units, stage.mlp_units
        if i:
            yield Affine(name, "down-sampling", 1, 1, n, 9, d)
        yield Norm(name, "attention.norm", a, stage.depth, n, d)
        yield Affine(name, "attention.qkv", a, stage.depth, n, d, 3 * d)
        yield Attention(
            name, "attention.products", 0, stage.depth, stage.attention_pairs, n, d, stage.heads
        )
        yield Affine(name, "attention.proj", a, stage.depth, n, d, d)
        yield Vector(name, "attention.residual", a, stage.depth, scalars)
        used = stage.nll_hidden > 0
        for unit, units, uses, hidden in (
            ("mlp", m, stage.depth, stage.mlp_hidden),
            ("nll", stage.depth * used, stage.depth * used, stage.nll_hidden),
        ):
            yield Norm(name, f"{unit}.norm", units, uses, n, d)
            yield Affine(name, f"{unit}.fc1", units, uses, n, d, hidden)
            yield Affine(name, f"{unit}.fc2", units, uses, n, hidden, d)
            yield Vector(name, f"{unit}.residual", units, uses, scalars)
    # The last stage is the widest: widths never fall, and absent stages are 0.
    last = largest(*(stage.dim for stage in shape.stages))
    yield Norm("head", "norm", 1, 1, 1, last)
    yield Affine("head", "linear", 1, 1, 1, last, shape.num_classes)


def largest(*numbers: Number) -> Number:
    """The maximum, entry by entry where one is a column."""
    if all(isinstance(x, int) for x in numbers):
        return max(numbers)
    return functools.reduce(np.maximum, numbers)


def params(shape: Shape) -> Number:
    """Unique parameters."""
    return sum(layer.params for layer in layers(shape))


def macs(shape: Shape) -> Number:
    """Multiply-adds for one image."""
    return sum(layer.macs for layer in layers(shape))


def activations(shape: Shape) -> Number:
    """Output elements of convolutions and matrix products for one image."""
    return sum(layer.activations for layer in layers(shape))


def depth(shape: Shape) -> Number:
    """Effective depth: block applications over all stages."""
    return sum(stage.depth for stage in shape.stages)


def weight_bytes(shape: Shape, dtype_bytes: int = 4) -> Number:
    """Bytes of the parameters.

    Args:
        shape: One architecture or a table.
        dtype_bytes: Bytes of one number.
    """
    return params(shape) * dtype_bytes


def peak_bytes(shape: Shape, batch: int = 1, dtype_bytes: int = 4) -> Number:
    """Peak memory of inference in bytes: weights, input and what lives at once.

    Args:
        shape: One architecture or a table.
        batch: Images at once.
        dtype_bytes: Bytes of one number.
    """
    shape = shape.wide()
    live = [shape.stem_sides[0] ** 2 * (shape.stages[0].dim // 2) * 2]
    for stage in shape.stages:
        n, d = stage.tokens, stage.dim
        live += [n * d * 9, n * (3 * d + 2 * stage.mlp_hidden), n * (3 * d + 2 * stage.nll_hidden)]
    images = shape.image_size**2 * shape.in_chans + largest(*live)
    return weight_bytes(shape, dtype_bytes) + batch * images * dtype_bytes


BLOCK = 8192
"""Rows of a table that are computed at once, so that temporaries stay in cache."""

QUANTITIES: dict[str, Quantity] = {
    "macs": macs,
    "params": params,
    "activations": activations,
    "peak_bytes": peak_bytes,
    "weight_bytes": weight_bytes,
    "depth": depth,
}
"""What ``table`` computes, by name."""


def table(shape: Shape, quantities: Sequence[str] = ("macs", "params")) -> dict[str, NDArray[Any]]:
    """Costs of a table of architectures, as int64 columns.

    Columns may have any integer dtype, the narrower the less memory; they are
    widened a block of rows at a time, so nothing as long as the table is held
    but the columns and the results.

    Args:
        shape: Columns of one length; what all rows share may be a plain int.
        quantities: Names from ``QUANTITIES``.

    Raises:
        UsageError: no columns, columns of several lengths, an unknown quantity, or
            numbers so large that a cost could pass int64.
    """
    columns = shape.columns()
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise UsageError(f"cost table: columns of {sorted(lengths)} rows; allowed: one length")
    unknown = [name for name in quantities if name not in QUANTITIES]
    if unknown:
        raise UsageError(
            f"cost table: unknown quantity '{unknown[0]}'; allowed: {', '.join(QUANTITIES)}"
        )
    (rows,) = lengths
    results = {name: np.empty(rows, dtype=np.int64) for name in quantities}
    if not rows:
        return results
    # No cost falls when a number grows, so the largest entry of every column bounds them all.
    bound = shape.map(lambda x: int(np.max(x)))
    for name in quantities:
        if QUANTITIES[name](bound) > np.iinfo(np.int64).max:
            raise UsageError(f"cost table: {name} could pass 64 bits", "cost them one by one")
    for start in range(0, rows, BLOCK):
        here = slice(start, start + BLOCK)
        block = shape.rows(here)
        for name in quantities:
            results[name][here] = QUANTITIES[name](block)
    return results


@dataclass(frozen=True)
class LayerCost:
    """One kind of layer of one stage; attributes as in ``Layer``."""

    stage: str
    layer: str
    units: int
    uses: int
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class StageCost:
    """One stage, the stem or the head: sums over its layers.

    Attributes:
        stage: ``stem``, ``stage 1``, …, ``head``.
        depth: Block applications; 0 for stem and head.
        params: Unique parameters.
        macs: Multiply-adds for one image.
        activations: Output elements of convolutions and matrix products.
    """

    stage: str
    depth: int
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Cost:
    """What one architecture costs; every number is an exact Python int."""

    shape: Shape

    @functools.cached_property
    def params(self) -> int:
        """Unique parameters."""
        return int(params(self.shape))

    @functools.cached_property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return int(macs(self.shape))

    @functools.cached_property
    def activations(self) -> int:
        """Output elements of convolutions and matrix products for one image."""
        return int(activations(self.shape))

    @functools.cached_property
    def weight_bytes(self) -> int:
        """Bytes of the parameters in fp32."""
        return int(weight_bytes(self.shape))

    @functools.cached_property
    def peak_bytes(self) -> int:
        """Peak memory of inference in bytes: batch 1, fp32, weights included."""
        return int(peak_bytes(self.shape))

    @property
    def depth(self) -> int:
        """Effective depth: block applications over all stages."""
        return int(depth(self.shape))

    @functools.cached_property
    def by_layer(self) -> tuple[LayerCost, ...]:
        """The same by kind of layer, in order of execution; kinds not there are left out."""
        return tuple(
            LayerCost(
                layer.stage,
                layer.name,
                layer.units,
                layer.uses,
                layer.params,
                layer.macs,
                layer.activations,
            )
            for layer in layers(self.shape)
            if layer.params or layer.macs
        )

    @functools.cached_property
    def by_stage(self) -> tuple[StageCost, ...]:
        """The same by stage: stem, stages, head."""
        depths = {f"stage {i + 1}": stage.depth for i, stage in enumerate(self.shape.stages)}
        return tuple(
            StageCost(
                stage=stage,
                depth=depths.get(stage, 0),
                params=sum(row.params for row in rows),
                macs=sum(row.macs for row in rows),
                activations=sum(row.activations for row in rows),
            )
            for stage in ("stem", *depths, "head")
            for rows in [[row for row in self.by_layer if row.stage == stage]]
        )


def cost(arch: Architecture) -> Cost:
    """What an architecture costs.

    Example:
        >>> from sret_nas import Architecture
        >>> cost(Architecture.load("sret_t")).macs
        1112444672
    """
    return Cost(shape(arch))
