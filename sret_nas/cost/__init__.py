"""What an architecture costs, by formula: one architecture or a table of them.

There is one copy of the arithmetic. It runs over ``Shape``, whose numbers are
Python integers for one architecture (exact at any size) or NumPy columns for a
table, and every total, stage and layer is a sum over the same ``Layer`` rows. Free of
torch.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture
from sret_nas.cost.dims import Number, Shape, StageShape, shape, stack
from sret_nas.cost.formulas import Layer, activations, depth, layers, macs, params
from sret_nas.cost.memory import peak_bytes, training_bytes, weight_bytes
from sret_nas.errors import UsageError

__all__ = [
    "BLOCK",
    "QUANTITIES",
    "Cost",
    "LayerCost",
    "Shape",
    "StageCost",
    "StageShape",
    "activations",
    "cost",
    "depth",
    "layers",
    "macs",
    "params",
    "peak_bytes",
    "shape",
    "stack",
    "table",
    "training_bytes",
    "weight_bytes",
]

Quantity: TypeAlias = Callable[[Shape], Number]

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
    """What one architecture costs; every number is a Python int, computed when asked for.

    Attributes:
        shape: The numbers that the costs are computed from.
    """

    shape: Shape

    @functools.cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return tuple(layers(self.shape))

    def _sum(self, quantity: Quantity) -> int:
        return int(quantity(self.shape))

    @property
    def params(self) -> int:
        """Unique parameters."""
        return self._sum(params)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self._sum(macs)

    @property
    def activations(self) -> int:
        """Output elements of convolutions and matrix products for one image."""
        return self._sum(activations)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters in fp32."""
        return self._sum(weight_bytes)

    @property
    def peak_bytes(self) -> int:
        """Peak memory of inference in bytes: batch 1, fp32, weights included."""
        return self._sum(peak_bytes)

    def inference_bytes(self, batch: int = 1, dtype_bytes: int = 4, align: int = 1) -> int:
        """Peak memory of inference in bytes; see ``memory.peak_bytes``."""
        return int(peak_bytes(self.shape, batch, dtype_bytes, align))

    def training_bytes(
        self,
        batch: int = 1,
        checkpointing: bool = False,
        dtype_bytes: int = 4,
        optimizer_states: int = 2,
        align: int = 1,
    ) -> int:
        """Peak memory of a training step in bytes; see ``memory.training_bytes``."""
        return int(
            training_bytes(self.shape, batch, checkpointing, dtype_bytes, optimizer_states, align)
        )

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
            for layer in self._layers
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
