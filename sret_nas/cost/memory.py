"""Peak memory of inference and of training, from what lives at the same time.

A peak is the largest of a list of moments; a moment is the sum of the tensors
that live then, read from the model's code and from what autograd saves: see the
comments. Attention is ``scaled_dot_product_attention``, whose attention matrix never
exists as a whole; training goes the path of ``model/fused.py``, which folds weights.

Left out, all small: buffers (BatchNorm statistics, permutations), statistics of
normalisation and attention, workspaces of libraries other than a convolution's
copies, the temporaries of the optimiser's step, rounding by the allocator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sret_nas.cost.dims import Number, Shape, StageShape, largest
from sret_nas.cost.formulas import Affine, layers, params

AT_ONCE = 12
"""As in ``model/fused.py``, which needs torch: applications whose activations go together."""
FOLDED_AT_ONCE = 36
"""As there: units whose weights are folded and unfolded together."""


def weight_bytes(shape: Shape, dtype_bytes: int = 4) -> Number:
    """Bytes of the parameters.

    Args:
        shape: One architecture or a table.
        dtype_bytes: Bytes of one number.
    """
    return params(shape) * dtype_bytes


def peak_bytes(shape: Shape, batch: int = 1, dtype_bytes: int = 4, align: int = 1) -> Number:
    """Peak memory of inference in bytes: weights, input and what lives beside them.

    Args:
        shape: One architecture or a table.
        batch: Images at once.
        dtype_bytes: Bytes of one number.
        align: Channels per head are filled up to a multiple of this many.
    """
    shape = shape.wide()
    moments = list(_stem_forward(shape))
    kept: Number = 0  # outputs of earlier stages: the model holds all grids until its head
    for stage in shape.stages:
        grid = stage.tokens * stage.dim
        # The input of the stage and, from the second application on, that of the application.
        held = kept + grid + (stage.depth > 1) * grid
        # The end of attention holds qkv and its result, which Python still names, the projection
        # and, with a coefficient, the scaled branch; then comes the sum.
        moments.append(held + (6 + shape.residual_scale) * grid)
        # In the kernel: the norm and qkv, and where heads are filled up, four copies of them.
        moments.append(held + 4 * grid + stage.tokens * 4 * _filled(stage, align))
        for hidden in stage.hidden:
            wide = stage.tokens * hidden
            # Now beside the unit's own input: first layer, GELU, or the residual sum.
            moments += [held + grid + largest(grid + wide, 2 * wide)]
            moments += [held + grid + (2 + shape.residual_scale) * grid]
        kept = kept + grid
    images = _image(shape) + largest(*moments)
    return dtype_bytes * (params(shape) + batch * images)


def training_bytes(
    shape: Shape,
    batch: int = 1,
    checkpointing: bool = False,
    dtype_bytes: int = 4,
    optimizer_states: int = 2,
    align: int = 1,
) -> Number:
    """Peak memory of a training step in bytes, its weights and its input included.

    Gradients are taken to be freed before the step begins (``set_to_none``) and to
    appear as the backward pass reaches their weights.

    Args:
        shape: One architecture or a table.
        batch: Images at once.
        checkpointing: Recompute every block application in the backward pass.
        dtype_bytes: Bytes of one number, weights and optimiser included.
        optimizer_states: Numbers that the optimiser holds per parameter; AdamW 2.
        align: Channels per head are filled up to a multiple of this many.
    """
    shape = shape.wide()
    scaled = shape.residual_scale
    parts = _params_by_part(shape)
    outputs = [layer.activations for layer in _convolutions(shape)]
    saved = 2 * sum(outputs)  # every convolution's result, for BatchNorm, and what ReLU makes of it
    gradients = sum(parts)
    # The optimiser's step: every gradient and no activation. Before it, the stem's backward pass.
    moments = [gradients, *(gradients + batch * live for live in _stem_backward(outputs))]
    gradients = gradients - parts[0]
    folded: Number = 0
    by_stage = zip(shape.stages, parts[1:-1], _matrices_by_stage(shape), strict=True)
    for stage, weights, (first, second, units) in by_stage:
        grid = stage.tokens * stage.dim
        gradients = gradients - weights
        now = _application_backward(stage)
        application = _application_saved(stage, align)
        one = application
        if checkpointing:  # an application's input is kept, the rest computed again
            one, now = grid, now + application - grid
        matrices = first + second
        # The backward pass enters the stage: all applications are there. It leaves the stage: the
        # first ones still are, and all gradients of the folded matrices.
        left = stage.depth - largest(stage.depth - AT_ONCE, 0)
        moments.append(gradients + folded + matrices + batch * (saved + stage.depth * one + now))
        moments.append(gradients + folded + 2 * matrices + batch * (saved + left * one + now))
        # They are unfolded: three products with the first matrices, which are put together, and
        # two with the second ones; of so many units at a time.
        unfolding = (5 * first + 2 * scaled * second) * FOLDED_AT_ONCE
        unfolding = unfolding // largest(units, FOLDED_AT_ONCE)
        moments.append(gradients + folded + matrices + unfolding + batch * (saved + 2 * grid))
        folded = folded + matrices
        saved = saved + stage.depth * one + grid  # and the stage's output, for the down-sampling
    always = (1 + optimizer_states) * params(shape) + batch * _image(shape)
    return dtype_bytes * (always + largest(*moments))


def _image(shape: Shape) -> Number:
    return shape.image_size**2 * shape.in_chans


def _params_by_part(shape: Shape) -> list[Number]:
    """Unique parameters of the stem, of every stage and of the head."""
    parts: dict[str, Number] = {}
    for layer in layers(shape):
        parts[layer.stage] = parts.get(layer.stage, 0) + layer.params
    return list(parts.values())


def _convolutions(shape: Shape) -> list[Affine]:
    stem = itertools.takewhile(lambda layer: layer.stage == "stem", layers(shape))
    return [layer for layer in stem if isinstance(layer, Affine)]


def _stem_forward(shape: Shape) -> Iterator[Number]:
    """Moments of the stem in elements of one image.

    A convolution copies its input to its own layout, and its output back from it.
    """
    before: Number = 0  # the image itself is counted elsewhere
    for layer in _convolutions(shape):
        after = layer.activations
        copy = before if layer.name != "conv 1" else _image(shape)
        yield before + after + largest(copy, after)
        before = after


def _stem_backward(outputs: list[Number]) -> Iterator[Number]:
    """Moments of the stem's backward pass in elements of one image, last to first."""
    before: Number = 0
    for first, after in enumerate(outputs):
        # ReLU and BatchNorm: result and input, gradient and its successor.
        earlier = 2 * sum(outputs[:first])
        yield earlier + 4 * after
        # Convolution: the gradient, and its input's in three copies while the layout changes.
        yield earlier + after + 3 * before
        before = after


def _matrices_by_stage(shape: Shape) -> list[tuple[Number, Number, Number]]:
    """Numbers in the first and the second matrices of every stage's units, and the units."""
    found: dict[str, list[Number]] = {}
    for layer in layers(shape):
        if isinstance(layer, Affine) and layer.name != "down-sampling":
            which = layer.name.endswith((".proj", ".fc2"))
            stage = found.setdefault(layer.stage, [0, 0, 0])
            stage[which] += layer.params
            stage[2] += which * layer.units
    return [
        (first, second, units) for name, (first, second, units) in found.items() if "stage" in name
    ]


def _application_saved(stage: StageShape, align: int) -> Number:
    """What the fused path keeps of one application, in elements of one image.

    Attention: input, its norm, queries, keys, values, their result. MLP and NLL: input, its
    norm, both sides of GELU.
    """
    filled = _filled(stage, align)
    hidden = sum(2 * (wide > 0) * stage.dim + 2 * wide for wide in stage.hidden)
    return stage.tokens * (6 * stage.dim + 4 * filled + hidden)


def _filled(stage: StageShape, align: int) -> Number:
    """Channels of all heads, filled up; 0 where nothing has to be."""
    if align == 1:
        return 0
    head_dim = stage.dim // largest(stage.heads, 1)
    missing = (align - head_dim % align) % align
    return stage.heads * (head_dim + missing) * (missing > 0)


def _application_backward(stage: StageShape) -> Number:
    """The most that lives beside what was kept in the backward pass of one application.

    In elements of one image. Always the gradient of the result, and that of the branch
    behind its drop-path mask.
    """
    d = stage.dim
    moments = [9 * d]  # attention: gradients of its result and, one by one and stacked, of qkv
    for wide in stage.hidden:
        # GELU: the gradients of both sides. LayerNorm: those of its result and of its input.
        moments += [2 * d + 2 * wide, 4 * d + wide]
    return stage.tokens * largest(*moments)
