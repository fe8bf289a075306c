"""A new model that goes on from a trained relative of another architecture.

Where the target is wider by whole factors, deeper, or looser shared, it computes what the
source computes, up to rounding, and has more to learn with; elsewhere it starts from what fits.
In the manner of Net2Net (arXiv 1511.05641), in architecture search EAS (Cai et al., arXiv
1707.04873); departs: for residual units with LayerNorm and shared weights. New units are
identities, their branch starting at zero, as in ReZero (arXiv 2003.04887).

``matching`` says which block applications correspond, ``channels`` which channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models import adapt_input_conv
from torch import Tensor

from sret_nas.arch import Architecture, Stage
from sret_nas.errors import UsageError
from sret_nas.model.channels import (
    NEW,
    Heads,
    Moved,
    first_stream,
    heads,
    leading,
    moved,
    next_stream,
    width_changes,
)
from sret_nas.model.matching import Flow, applications, serving
from sret_nas.model.sret import LABELS, SReT
from sret_nas.model.timm_models import create_model
from sret_nas.units import format_count

CARRIED = {
    "heads", "head_dim", "blocks", "recursions", "order", "share", "groups", "mlp_ratio",
    "nll_ratio",
}  # fmt: skip
"""Fields of a stage whose change is followed here; a change of any other is said."""
NOISE = 0.1
"""By how much copies of a channel are read differently, so that they learn different things."""


@dataclass(frozen=True)
class Grown:
    """A model that goes on from another, and what it has of it.

    Attributes:
        model: The model.
        origins: Of each of its parameters, which elements come from the source, as they were
            or scaled by a known factor.
        notes: A sentence for everything that was left behind or changes the function.
    """

    model: SReT
    origins: Mapping[str, Tensor]
    notes: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether it computes in eval what the source computes, up to rounding."""
        return not self.notes

    @property
    def taken(self) -> int:
        """Parameters whose values come from the source."""
        return sum(int(mask.sum()) for mask in self.origins.values())

    @property
    def fresh(self) -> int:
        """The other parameters: as they were initialised, or set for an identity."""
        return sum(mask.numel() for mask in self.origins.values()) - self.taken

    def __str__(self) -> str:
        """On one line, without the notes."""
        total = format_count(self.taken + self.fresh)
        return (
            f"{format_count(self.taken)} of {total} parameters taken over; "
            f"same function: {'yes' if self.exact else 'no'}"
        )


def grow(
    source: SReT,
    arch: Architecture | Mapping[str, Any] | str | Path,
    *,
    noise: float = NOISE,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Grown:
    """A model of another architecture, with as much of a trained one as it can have.

    Args:
        source: The trained model; it stays as it is.
        arch: What to build, as for ``create_model``.
        noise: See ``grow_into``.
        generator: Of the noise; by default torch's own, which also draws what is new.
        options: Keywords of ``create_model``.

    Example:
        >>> small = create_model("sret_t", num_classes=10)
        >>> str(grow(small, "sret_lt", num_classes=10))
        '4.5M of 4.73M parameters taken over; same function: yes'

    Raises:
        ArchitectureError: the architecture cannot be built.
        UsageError: the source has no values.
    """
    like = next(source.parameters())
    model = create_model(arch, **options)
    if "device" not in options:
        model = model.to(like.device)
    if "dtype" not in options:
        model = model.to(like.dtype)
    _describe_as(source, model)
    return grow_into(source, model, noise=noise, generator=generator)


def grow_into(
    source: SReT,
    model: SReT,
    *,
    keep_head: bool = True,
    noise: float = NOISE,
    generator: torch.Generator | None = None,
) -> Grown:
    """Put into a model as much of a trained one of another architecture as it can have.

    Args:
        source: The trained model; it stays as it is.
        model: The model, newly initialised.
        keep_head: Take over a head of as many classes. No, where they are other classes.
        noise: Copies of a channel are read with weights that differ by this share of their
            root mean square; its sum over the copies is zero, so that the function stays.
        generator: Of the noise; by default torch's own.

    Raises:
        UsageError: one of them has no values, but is on ``meta``.
    """
    for name, one in (("source", source), ("model", model)):
        if any(value.is_meta for value in one.state_dict().values()):
            raise UsageError(f"{name}: its weights are on meta", f"{name}.to_empty(device=…) first")
    growth = _Growth(source, model, noise, generator)
    with torch.no_grad():
        growth.run(keep_head)
    return Grown(model, growth.origins, tuple(growth.notes))


def _describe_as(source: SReT, model: SReT) -> None:
    """The same function wants images prepared in the same way, and has the same classes."""
    theirs: dict[str, Any] = getattr(source, "pretrained_cfg", {})
    own: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    keys = ["interpolation", "crop_pct", "crop_mode"]
    keys += ["mean", "std"] if source.in_chans == model.in_chans else []
    keys += LABELS if source.num_classes == model.num_classes else []
    own.update({key: theirs[key] for key in keys if key in theirs})


class _Growth:
    """One growing: what is there of both models, and what has been taken so far."""

    def __init__(
        self, source: SReT, model: SReT, noise: float, generator: torch.Generator | None
    ) -> None:
        self.source, self.model = source, model
        self.noise, self.generator = noise, generator
        self.old, self.new = source.state_dict(), model.state_dict()
        self.origins = {
            name: torch.zeros_like(value, dtype=torch.bool)
            for name, value in model.named_parameters()
        }
        self.notes: list[str] = []

    def run(self, keep_head: bool) -> None:
        before, after = self.source.arch, self.model.arch
        old, new = Flow.of(before), Flow.of(after)
        stream = first_stream(before.stages[0].dim, after.stages[0].dim)
        self._stem(stream)
        for i, (one, other) in enumerate(zip(old, new, strict=False)):
            if i:
                dims = (before.stages[i - 1].dim, before.stages[i].dim)
                stream = next_stream(stream, dims, after.stages[i].dim)
                self._take(f"pools.{i - 1}.weight", rows=stream)
                self._take(f"pools.{i - 1}.bias", rows=stream)
            self._stage(i, one, other, stream)
            self.notes += [
                f"stage {i + 1}: {field} {now} instead of {then}: what it changes is fresh"
                for field, then, now in _unfollowed(before.stages[i], after.stages[i])
            ]
        if len(old) == len(new):
            self._head(stream, keep_head)
        else:
            self.notes.append(
                f"stages: {len(new)} instead of {len(old)}: norm and head are fresh"
                + (", and so are further stages" if len(new) > len(old) else "")
            )

    # -- parts of the network ------------------------------------------------------------------

    def _stem(self, stream: Sequence[int]) -> None:
        before, after = self.source.arch, self.model.arch
        if before.in_chans != after.in_chans:
            self.notes.append(
                f"in_chans {after.in_chans} instead of {before.in_chans}: "
                "the first convolution is adapted"
            )
            self.old["stem.0.weight"] = adapt_input_conv(
                after.in_chans, self.old["stem.0.weight"], base_chans=before.in_chans
            )
        if before.stem_stride != after.stem_stride:
            self.notes.append(
                f"stem_stride {after.stem_stride} instead of {before.stem_stride}: "
                "the position embedding is resampled"
            )
        one, other = before.stages[0].dim, after.stages[0].dim
        inner: Sequence[int] | None = None
        outer = (leading(one // 2, other // 2), leading(one, other), stream)
        for i, rows in zip((0, 3, 6), outer, strict=True):
            self._take(f"stem.{i}.weight", rows=rows, columns=inner)
            self._take(f"stem.{i}.bias", rows=rows)
            for part in ("weight", "bias", "running_mean", "running_var"):
                self._take(f"stem.{i + 1}.{part}", rows=rows)
            self._take(f"stem.{i + 1}.num_batches_tracked")
            inner = rows
        if before.image_size != after.image_size:
            self.notes.append(
                f"images of {after.image_size} px instead of {before.image_size}: "
                "the position embedding is resampled"
            )
        grid = self.old["pos_embed"].permute(0, 2, 3, 1)
        if before.sides[0] != after.sides[0]:
            grid = resample_abs_pos_embed_nhwc(grid, [after.sides[0]] * 2)
        positions = moved(grid.permute(3, 0, 1, 2), stream)  # (C, 1, side, side)
        self._put("pos_embed", Moved(*(one.transpose(0, 1) for one in positions)))

    def _stage(self, i: int, old: Flow, new: Flow, stream: Sequence[int]) -> None:
        before, after = old.stage, new.stage
        way, changes = applications(old, new)
        inside = heads(before, after, old.sees_values_only)
        changes += width_changes(before, after, stream, inside)
        self.notes += [f"stage {i + 1}: {change}" for change in changes]
        for part, old_hidden, new_hidden in (
            ("attention", 0, 0),
            ("mlp", before.mlp_hidden, after.mlp_hidden),
            ("nll", before.nll_hidden, after.nll_hidden),
        ):
            if part == "nll" and not new_hidden:
                continue
            for unit, origin in serving(old, new, way, part).items():
                at = f"stages.{i}.{part}.{unit}"
                second = f"{at}.proj" if part == "attention" else f"{at}.fc2"
                if origin == NEW or (part == "nll" and not old_hidden):
                    self._become_identity(at, second)
                    continue
                was = f"stages.{i}.{part}.{origin}"
                self._take(f"{at}.norm.weight", f"{was}.norm.weight", stream)
                self._take(f"{at}.norm.bias", f"{was}.norm.bias", stream)
                if part == "attention":
                    hidden = inside.channels
                    self._queries_keys_values(at, was, before.dim, inside, stream)
                else:
                    hidden = leading(old_hidden, new_hidden)
                    self._take(f"{at}.fc1.weight", f"{was}.fc1.weight", hidden, stream)
                    self._take(f"{at}.fc1.bias", f"{was}.fc1.bias", hidden)
                self._join(at, was, second.rsplit(".", 1)[-1], stream, hidden)

    def _queries_keys_values(
        self, at: str, was: str, dim: int, inside: Heads, stream: Sequence[int]
    ) -> None:
        rows = [NEW if one == NEW else one + j * dim for j in range(3) for one in inside.channels]
        for part, columns in (("weight", stream), ("bias", None)):
            name = f"{at}.qkv.{part}"
            self._take(name, f"{was}.qkv.{part}", rows, columns)
            queries, keys, _ = self.new[name].chunk(3)
            taken = self.origins[name].chunk(3)[0]
            queries.copy_(torch.where(taken, queries * inside.scale, queries))
            keys[torch.tensor(inside.filled, device=keys.device)] = 0

    def _join(
        self, at: str, was: str, second: str, stream: Sequence[int], hidden: Sequence[int]
    ) -> None:
        """The second linear layer of a unit, and its residual coefficients."""
        scaled, scales = self.source.arch.residual_scale, self.model.arch.residual_scale
        folded = scaled and not scales
        for part, columns in (("weight", hidden), ("bias", None)):
            self._take(f"{at}.{second}.{part}", f"{was}.{second}.{part}", stream, columns)
            if folded:
                own = self.new[f"{at}.{second}.{part}"]
                own *= self.old[f"{was}.residual.branch"].to(own)
        for scalar in ("skip", "branch"):
            if scales and scaled:
                self._take(f"{at}.residual.{scalar}", f"{was}.residual.{scalar}")
            elif scales:
                self.new[f"{at}.residual.{scalar}"].fill_(1)

    def _become_identity(self, at: str, second: str) -> None:
        if self.model.arch.residual_scale:
            self.new[f"{at}.residual.skip"].fill_(1)
            self.new[f"{at}.residual.branch"].zero_()
        else:
            self.new[f"{second}.weight"].zero_()
            self.new[f"{second}.bias"].zero_()

    def _head(self, stream: Sequence[int], keep: bool) -> None:
        if self.source.arch.residual_scale and not self.model.arch.residual_scale:
            self.notes.append("residual coefficients: those of the skip connections are left out")
        if self.source.global_pool != self.model.global_pool:
            self.notes.append(f"global_pool {self.model.global_pool!r}: another output")
        self._take("norm.weight", rows=stream)
        self._take("norm.bias", rows=stream)
        before, after = self.source.num_classes, self.model.num_classes
        if before != after:
            self.notes.append(f"{after} classes instead of {before}: the head is fresh")
        elif after and not keep:
            self.notes.append("other classes: the head is fresh")
        elif after:
            self._take("head.weight", columns=stream)
            self._take("head.bias")

    # -- one tensor ----------------------------------------------------------------------------

    def _take(
        self,
        name: str,
        old_name: str | None = None,
        rows: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        """Take over one tensor by the maps of its channels."""
        old = self.old[old_name or name]
        self._put(name, moved(old, rows, columns, self.noise, self.generator))

    def _put(self, name: str, found: Moved) -> None:
        own = self.new[name]
        own.copy_(torch.where(found.fresh.to(own.device), own, found.value.to(own)))
        if name in self.origins:
            self.origins[name] |= found.taken.to(own.device)


def _unfollowed(before: Stage, after: Stage) -> Iterator[tuple[str, Any, Any]]:
    """Fields in which two stages differ and that nobody here knows: name, then and now."""
    for field in type(before).model_fields:
        then, now = getattr(before, field), getattr(after, field)
        if field not in CARRIED and then != now:
            yield field, then, now
