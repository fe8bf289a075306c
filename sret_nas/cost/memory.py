"""Peak memory of inference and of training, from what lives at the same time.

A peak is the largest of a list of moments; a moment is the sum of the tensors
that live then, read from the model's code and from what autograd saves: see the
comments. The path is the fused one (``scaled_dot_product_attention``), whose
attention matrix never exists as a whole.

Left out, all small: buffers (BatchNorm statistics, permutations), statistics of
normalisation and attention, workspaces of libraries other than a convolution's
copies, the temporaries of the optimiser's step, rounding by the allocator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sret_nas.cost.formulas import Affine, layers, params
from sret_nas.cost.shapes import Number, Shape, StageShape, largest


def weight_bytes(shape: Shape, dtype_bytes: int = 4) -> Number:
    """Bytes of the parameters.

    Args:
        shape: One architecture or a table.
        dtype_bytes: Bytes of one number.
    """
    return params(shape) * dtype_bytes


def peak_bytes(shape: Shape, batch: int = 1, dtype_bytes: int = 4) -> Number:
    """Peak memory of inference in bytes: weights, input and what lives beside them.

    Args:
        shape: One architecture or a table.
        batch: Images at once.
        dtype_bytes: Bytes of one number.
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
        for hidden in (stage.mlp_hidden, stage.nll_hidden):
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
    for stage, weights in zip(shape.stages, parts[1:-1], strict=True):
        grid = stage.tokens * stage.dim
        gradients = gradients - weights
        now = _application_backward(stage, scaled)
        # A permutation back before the output projection is one more tensor that autograd keeps.
        if checkpointing:
            kept, others = grid, (stage.depth - 1) * grid
            now = now + (stage.permuted > 0) * grid
        else:
            kept = _application_saved(stage, scaled)
            others = (stage.depth - 1) * kept + stage.permuted * grid
        # The backward pass enters the stage: all applications are there, none of its gradients.
        moments.append(gradients + batch * (saved + others + now))
        # It leaves the stage: one application is left, and all gradients are there.
        moments.append(gradients + weights + batch * (saved + now))
        saved = saved + others + kept + grid  # and the stage's output, for the down-sampling
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


def _unit_saved(tokens: Number, dim: Number, hidden: Number, scaled: Number) -> Number:
    """What autograd keeps of an MLP or NLL: input, its norm, both sides of GELU.

    With residual coefficients also the result, for the gradient of its coefficient.
    """
    return (hidden > 0) * tokens * ((2 + scaled) * dim + 2 * hidden)


def _attention_saved(stage: StageShape, scaled: Number) -> Number:
    """Input, its norm, queries, keys, values, their result; with coefficients the output."""
    return stage.tokens * stage.dim * (6 + scaled)


def _application_saved(stage: StageShape, scaled: Number) -> Number:
    """What autograd keeps of one application, in elements of one image."""
    return _attention_saved(stage, scaled) + sum(
        _unit_saved(stage.tokens, stage.dim, hidden, scaled)
        for hidden in (stage.mlp_hidden, stage.nll_hidden)
    )


def _application_backward(stage: StageShape, scaled: Number) -> Number:
    """The most that lives in the backward pass of one application, in elements of one image."""
    n, d = stage.tokens, stage.dim
    held = _attention_saved(stage, scaled)
    moments = []
    for hidden in (stage.mlp_hidden, stage.nll_hidden):
        held = held + _unit_saved(n, d, hidden, scaled)
        # The residual sum: the gradient, and with coefficients three products of its size. Or the
        # second layer: the gradient of the hidden channels beside the two of the sum, of which
        # one takes the place of the unit's result.
        moments.append(held + n * largest((1 + 3 * scaled) * d, d + hidden))
    return largest(*moments)
