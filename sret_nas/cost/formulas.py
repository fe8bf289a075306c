"""Params, MACs and activations: sums over the layers of a shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sret_nas.cost.dims import Number, Shape, largest


@dataclass(slots=True)
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


@dataclass(slots=True)
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


@dataclass(slots=True)
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


@dataclass(slots=True)
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


@dataclass(slots=True)
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
