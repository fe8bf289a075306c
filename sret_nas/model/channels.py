"""Which channels of a trained relative a new model goes on with, and weights moved by such maps.

Of every channel of the new model, a map says which channel of the source it comes from, or
``NEW``. Three kinds of them keep a function:

- Between two layers that see nothing else (hidden channels, the inside of the stem and of the
  attention), new channels are added after the old ones. What reads them starts at zero.
- Along the residual stream, which LayerNorm looks at as a whole, every channel is repeated
  equally often: mean and variance stay. What reads the copies divides its weight among them,
  not evenly, so that they learn different things (Net2WiderNet, arXiv 1511.05641, adds noise
  and gives up a little of the function; noise whose sum over the copies is zero costs nothing;
  LEMON, arXiv 2310.07999, divides unevenly too).
- Attention keeps a head if it gets a head of as many channels or more to itself. Its queries
  are scaled against the other ``head_dim`` ** -0.5, and its new keys start at zero.

Shapes: O output channels, I input channels, k height and width of a kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sret_nas.arch import Stage

NEW = -1
"""In a map, what comes from nothing in the source."""


def leading(before: int, after: int) -> list[int]:
    """Of channels between two layers: the leading old ones, then new ones."""
    return [i if i < before else NEW for i in range(after)]


def first_stream(before: int, after: int) -> list[int]:
    """Of the first stage's stream: each repeated where there are more, else the leading ones."""
    return [i * before // after if after > before else i for i in range(after)]


def next_stream(earlier: Sequence[int], before: tuple[int, int], after: int) -> list[int]:
    """Of the stream after a down-sampling, which ties its channels to those of the stage before.

    Args:
        earlier: Map of the stage before.
        before: Widths of both stages in the source.
        after: Width of the stage in the target.

    Returns:
        A map by which each channel reads a copy of the channel that it reads in the source.
    """
    each = before[1] // before[0]  # channels that read one channel of the stage before
    reads = [earlier[i * len(earlier) // after] for i in range(after)]
    readers, seen = Counter(reads), Counter[int]()
    found = []
    for channel in reads:
        found.append(channel * each + seen[channel] * each // max(readers[channel], each))
        seen[channel] += 1
    return found


def repeated_equally(stream: Sequence[int], before: int) -> bool:
    """Whether every channel of the source is there, and equally often."""
    copies = Counter(stream)
    return len(copies) == before and len(set(copies.values())) == 1


class Heads(NamedTuple):
    """The channels inside an attention, those of all heads in a row.

    Attributes:
        channels: Map of the channels.
        filled: Channels that are new in a head that has old ones: their keys start at zero.
        scale: What queries are multiplied by.
        kept: Whether every head of the source attends as it did.
    """

    channels: list[int]
    filled: list[bool]
    scale: float
    kept: bool


def heads(source: Stage, target: Stage, values_only: bool) -> Heads:
    """How the heads of two stages correspond.

    Head by head and channel by channel, where there are not more of one and fewer of the
    other; else channels follow each other as they did, and heads are cut otherwise.

    Args:
        source: Stage of the source.
        target: Stage of the target.
        values_only: Whether slices are of one token, so that attention returns its values.
    """
    H, D = source.heads, source.head_dim
    more = (target.heads >= H, target.head_dim >= D)
    fewer = (target.heads <= H, target.head_dim <= D)
    if all(more) or all(fewer):
        channels = [
            head * D + i if head < H and i < D else NEW
            for head in range(target.heads)
            for i in range(target.head_dim)
        ]
        scale = (target.head_dim / D) ** 0.5 if all(more) else 1.0
    else:
        channels, scale = leading(source.dim, target.dim), 1.0
    size = target.head_dim
    old = [any(one != NEW for one in channels[at : at + size]) for at in range(0, target.dim, size)]
    filled = [one == NEW and old[i // size] for i, one in enumerate(channels)]
    return Heads(channels, filled, scale, all(more) or (values_only and target.dim >= source.dim))


def width_changes(before: Stage, after: Stage, stream: Sequence[int], inside: Heads) -> list[str]:
    """Why the function of a stage changes with its widths, in sentences, if it does."""
    found = []
    if not repeated_equally(stream, before.dim):
        how = (
            "channels are repeated unequally"
            if len(set(stream)) == before.dim
            else f"keeps {len(set(stream))} of {before.dim} channels"
        )
        found.append(f"width {after.dim} instead of {before.dim}: {how}")
    if not inside.kept:
        found.append(
            f"heads × head_dim {after.heads} × {after.head_dim} instead of "
            f"{before.heads} × {before.head_dim}: attention is cut otherwise"
        )
    for name, old, new in (
        ("MLP", before.mlp_hidden, after.mlp_hidden),
        ("NLL", before.nll_hidden, after.nll_hidden),
    ):
        if new < old:
            left = "the leading ones are kept" if new else "it is left out"
            found.append(f"{name} of {new} hidden channels instead of {old}: {left}")
    return found


class Moved(NamedTuple):
    """A tensor of the source, as the target takes it.

    Attributes:
        value: In the shape of the target.
        taken: Which of its elements come from the source, of the same shape.
        fresh: Elements that are as they were initialised; the remaining ones are zero.
    """

    value: Tensor
    taken: Tensor
    fresh: Tensor


def moved(
    old: Tensor,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Moved:
    """Weights of a layer, moved to other channels.

    Rows that are new stay fresh. In the others, a column that is new is zero, and copies of
    one column divide its weight among themselves.

    Args:
        old: (O,), (O, I) or (O, I, k, k).
        rows: Map of O; ``None`` where it stays.
        columns: Map of I; ``None`` where it stays.
        noise: By how much copies of a column differ: the standard deviation over the root mean
            square of the weights. It sums to zero over the copies.
        generator: Of the noise.
    """
    value = old
    taken = torch.ones_like(old, dtype=torch.bool)
    if columns is not None:
        map_I = torch.tensor(columns, device=old.device)
        value, taken = _selected(value, map_I, 1), _selected(taken, map_I, 1)
        known_I = map_I != NEW
        copies = torch.bincount(map_I[known_I], minlength=old.shape[1])
        if copies.max() > 1:
            shape = (1, -1) + (1,) * (old.ndim - 2)
            share_I = torch.where(known_I, 1 / copies[map_I.clamp(min=0)].to(old.dtype), 0)
            value = value * share_I.view(shape)
            if noise:
                value = value + noise * value.square().mean().sqrt() * _balanced(
                    value, map_I, copies, generator
                )
        taken = taken & known_I.view((1, -1) + (1,) * (old.ndim - 2))
        value = value.masked_fill(~taken, 0)
    fresh = torch.zeros_like(taken)
    if rows is not None:
        map_O = torch.tensor(rows, device=old.device)
        new = (map_O == NEW).view((-1,) + (1,) * (old.ndim - 1))
        value, taken = _selected(value, map_O, 0), _selected(taken, map_O, 0) & ~new
        fresh = new.expand_as(taken)
    return Moved(value, taken, fresh)


def _selected(tensor: Tensor, map_: Tensor, axis: int) -> Tensor:
    return tensor.index_select(axis, map_.clamp(min=0))


def _balanced(
    value: Tensor, map_I: Tensor, copies: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Noise that sums to zero over the copies of every column, and is zero without copies."""
    z = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
    known = map_I != NEW
    sums = torch.zeros(value.shape[0], len(copies), *value.shape[2:]).to(value)
    sums.index_add_(1, map_I[known], z[:, known])
    mean = (sums / copies.clamp(min=1).view((1, -1) + (1,) * (value.ndim - 2))).index_select(
        1, map_I.clamp(min=0)
    )
    return z - mean
