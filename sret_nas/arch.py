"""The genotype: what an SReT architecture is, free of torch.

An ``Architecture`` is an immutable, hashable value. Everything else (the
module, its cost, a point of a search space) is built from it, and two
architectures that build the same function have the same ``id``.

Design: SReT, arXiv 2111.05297 (ECCV 2022), code ``szq0214/SReT`` (MIT).
Departs: any number of recursions, each with its own group count; cyclic order;
partial sharing; a stem of any stride. Stages are counted from 1 in messages.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationInfo, model_validator

from sret_nas import files
from sret_nas.errors import ArchitectureError, Problem, UsageError

Order = Literal["adjacent", "cyclic"]
Share = Literal["all", "attention", "mlp", "none"]
Permute = Literal["fixed", "random", "none"]

MAX_DIM = 16_384
MAX_SIDE = 4096
MAX_APPLICATIONS = 10_000


class Kind(Enum):
    """What kind of choice a field of a stage is, as its annotation says.

    Everything that goes through the fields of a stage (its checks, the grammar, coding and
    size of a search space) goes by this. A field of no kind stands for itself.
    """

    WIDTH = "a factor of the width; those of all stages have to fit together"
    SCHEDULE = "part of which block is applied when, with which weights and slices"
    RATIO = "hidden channels over the width, of a layer that is always there"
    OPTIONAL_RATIO = "the same, of a layer that 0 leaves out"


class Application(NamedTuple):
    """One application of a block: which weights it uses and how it attends.

    Attributes:
        attention: Index of the attention unit (norm, attention, two coefficients).
        mlp: Index of the MLP unit (norm, MLP, two coefficients).
        groups: Slices of the self-attention.
        permuted: Whether tokens are permuted before they are sliced.
    """

    attention: int
    mlp: int
    groups: int
    permuted: bool


class Stage(files.Record):
    """One stage: ``blocks`` unique blocks, each applied ``recursions`` times.

    Attributes:
        heads: Attention heads; the width is ``heads * head_dim``.
        head_dim: Channels per head.
        blocks: Unique blocks.
        recursions: Times that each is applied; ``blocks * recursions`` is the depth.
        order: ``adjacent`` applies A A B B, ``cyclic`` A B A B.
        share: What the loops of one block have in common. A part that is not
            shared has its own weights in every loop; normalisation and residual
            coefficients belong to their part.
        groups: Slices of the self-attention in loop 1, 2, …; default all 1.
        mlp_ratio: MLP hidden channels are ``int(dim * mlp_ratio)``.
        nll_ratio: The same for the non-linear projection layer after every
            application, which always has its own weights; 0 leaves it out.
    """

    error: ClassVar[type[ArchitectureError]] = ArchitectureError

    heads: Annotated[int, Field(strict=True, ge=1, le=256), Kind.WIDTH]
    head_dim: Annotated[int, Field(strict=True, ge=1, le=1024), Kind.WIDTH]
    blocks: Annotated[int, Field(strict=True, ge=1, le=1000), Kind.SCHEDULE] = 1
    recursions: Annotated[int, Field(strict=True, ge=1, le=1000), Kind.SCHEDULE] = 1
    order: Annotated[Order, Kind.SCHEDULE] = "adjacent"
    share: Annotated[Share, Kind.SCHEDULE] = "all"
    groups: Annotated[tuple[Annotated[int, Field(strict=True, ge=1)], ...], Kind.SCHEDULE] = ()
    mlp_ratio: Annotated[float, Field(strict=True, ge=0, le=64), Kind.RATIO] = 4.0
    nll_ratio: Annotated[float, Field(strict=True, ge=0, le=64), Kind.OPTIONAL_RATIO] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _whole_groups(cls, data: Any, info: ValidationInfo) -> Any:
        """No groups written means full attention in every loop."""
        if isinstance(data, Mapping) and not data.get("groups", ()):
            loops = data.get("recursions", 1)
            if isinstance(loops, int) and 1 <= loops <= MAX_APPLICATIONS and "groups" not in data:
                return {**data, "groups": (1,) * loops}
        return data

    def _problems(self) -> Iterator[Problem]:
        if len(self.groups) != self.recursions:
            yield Problem(
                ("groups",),
                f"{len(self.groups)} group count(s) given for {self.recursions} recursion(s); "
                "allowed: one per recursion",
            )
        if not 2 <= self.dim <= MAX_DIM:
            yield Problem(
                ("head_dim",),
                f"heads × head_dim = {self.heads} × {self.head_dim} = {self.dim}; "
                f"allowed: a width of 2 to {MAX_DIM:,}",
            )
        for field, optional in RATIOS.items():
            ratio = getattr(self, field)
            if hidden(self.dim, ratio) < 1 and not (optional and ratio == 0):
                yield Problem(
                    (field,),
                    f"given {ratio}; allowed: {'0 (no layer) or ' if optional else ''}at least "
                    f"{1 / self.dim:.4g} (one hidden channel)",
                )

    # What follows from the fields: arithmetic that also holds where they are columns, with an
    # entry per stage of a table. ``cost/dims.py`` relies on it.

    @property
    def dim(self) -> int:
        """Width in channels."""
        return self.heads * self.head_dim

    @property
    def depth(self) -> int:
        """Block applications."""
        return self.blocks * self.recursions

    @property
    def mlp_hidden(self) -> int:
        """Hidden channels of the MLP."""
        return hidden(self.dim, self.mlp_ratio)

    @property
    def nll_hidden(self) -> int:
        """Hidden channels of the non-linear projection layer; 0 without one."""
        return hidden(self.dim, self.nll_ratio)

    @property
    def attention_units(self) -> int:
        """Attention units with weights of their own."""
        return self._units((self.share == "all") | (self.share == "attention"))

    @property
    def mlp_units(self) -> int:
        """MLP units with weights of their own."""
        return self._units((self.share == "all") | (self.share == "mlp"))

    def _units(self, shared: bool) -> int:
        """One for every block where its loops share it, else one for every application."""
        return self.depth - shared * (self.depth - self.blocks)

    def schedule(self, tokens: int, permute: Permute) -> tuple[Application, ...]:
        """The block applications in order of execution.

        Weights are numbered by first use. Tokens are permuted from loop 2 on,
        where slicing matters: with one slice, or one token a slice, a
        permutation changes nothing.

        Args:
            tokens: Tokens of this stage.
            permute: The permutation mode of the architecture.
        """
        if self.order == "adjacent":
            pairs = [(b, loop) for b in range(self.blocks) for loop in range(self.recursions)]
        else:
            pairs = [(b, loop) for loop in range(self.recursions) for b in range(self.blocks)]
        return tuple(
            Application(
                attention=block if self.share in ("all", "attention") else step,
                mlp=block if self.share in ("all", "mlp") else step,
                groups=self.groups[loop],
                permuted=permutes(permute, loop, self.groups[loop], tokens),
            )
            for step, (block, loop) in enumerate(pairs)
        )


KINDS: dict[str, Kind] = {
    field: mark
    for field, info in Stage.model_fields.items()
    for mark in info.metadata
    if isinstance(mark, Kind)
}
"""Fields of a stage that are of a kind, in the order of ``Stage``."""

RATIOS: dict[str, bool] = {
    field: kind is Kind.OPTIONAL_RATIO
    for field, kind in KINDS.items()
    if kind in (Kind.RATIO, Kind.OPTIONAL_RATIO)
}
"""Fields that give hidden channels over the width, and whether 0 leaves their layer out."""


class Architecture(files.Record):
    """A Sliced Recursive Transformer.

    Attributes:
        image_size: Side of the square input in pixels.
        in_chans: Input channels.
        num_classes: Classes of the head; 0 leaves the head out.
        stem_stride: 1, 2, 4 or 8: the first log2 of it of the three stem
            convolutions have stride 2.
        residual_scale: Learnable residual coefficients (LRC) in every unit.
        permute: Permutation of the tokens before slicing, from loop 2 on:
            ``fixed`` draws afresh in training and uses one seeded permutation in
            eval (deterministic, exportable); ``random`` draws afresh at every
            call, as the published code does; ``none``.
        stages: One to eight stages; between two, a depthwise 3×3 convolution of
            stride 2.

    Raises:
        ArchitectureError: with every problem, its place and what is allowed.
    """

    top: ClassVar[bool] = True
    error: ClassVar[type[ArchitectureError]] = ArchitectureError

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    image_size: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] = 224
    in_chans: Annotated[int, Field(strict=True, ge=1, le=4096)] = 3
    num_classes: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 1000
    stem_stride: Literal[1, 2, 4, 8] = 8
    residual_scale: Annotated[bool, Field(strict=True)] = True
    permute: Permute = "fixed"
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=8)]

    def _problems(self) -> Iterator[Problem]:
        if self.image_size < self.stem_stride:
            yield Problem(
                ("stem_stride",),
                f"given {self.stem_stride} for an image of {self.image_size} px; "
                "allowed: no more than the image size",
            )
            return
        for i, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            here = ("stages", i)
            if i and self.sides[i - 1] < 2:
                yield Problem(
                    here,
                    f"stage {i} is 1×1 already, nothing is left to down-sample; allowed: a larger "
                    "image, a smaller stem_stride or fewer stages",
                )
                return
            before = self.stages[i - 1].dim if i else stage.dim
            if stage.dim % before:
                yield Problem(
                    (*here, "head_dim"),
                    f"width {stage.heads} × {stage.head_dim} = {stage.dim} is not a multiple of "
                    f"the width {before} of stage {i}, as its depthwise down-sampling needs; "
                    f"allowed with {stage.heads} heads: multiples of "
                    f"{before // math.gcd(before, stage.heads)}",
                )
            for loop, groups in enumerate(stage.groups):
                if side * side % groups:
                    yield Problem(
                        (*here, "groups", loop),
                        f"{side * side} tokens cannot be cut into {groups} groups; "
                        f"allowed here: {_listed(divisors(side * side))}",
                    )
        depth = sum(stage.depth for stage in self.stages)
        if depth > MAX_APPLICATIONS:
            yield Problem(
                ("stages",),
                f"{depth:,} block applications in all; allowed: at most {MAX_APPLICATIONS:,}",
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the token grid of every stage: each stride of 2 rounds up."""
        side = -(-self.image_size // self.stem_stride)
        sides = []
        for _ in self.stages:
            sides.append(side)
            side = -(-side // 2)
        return tuple(sides)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of every stage."""
        return tuple(side * side for side in self.sides)

    @property
    def depth(self) -> int:
        """Effective depth: block applications over all stages."""
        return sum(stage.depth for stage in self.stages)

    @property
    def schedules(self) -> tuple[tuple[Application, ...], ...]:
        """Per stage, the block applications in order of execution."""
        return tuple(
            stage.schedule(tokens, self.permute)
            for stage, tokens in zip(self.stages, self.tokens, strict=True)
        )

    def canonical(self) -> dict[str, Any]:
        """What the architecture builds, without the spellings that do not matter.

        ``order``, ``share``, ``blocks`` and ``recursions`` become the schedule of
        block applications; ratios become hidden channels; ``permute`` is dropped
        where nothing is permuted; the head count where every slice is one token
        (attention then returns its value unchanged).
        """
        schedules = self.schedules
        permuted = any(step.permuted for schedule in schedules for step in schedule)
        return {
            "image_size": self.image_size,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "stem_stride": self.stem_stride,
            "residual_scale": self.residual_scale,
            "permute": self.permute if permuted else "none",
            "stages": [
                {
                    "dim": stage.dim,
                    "heads": stage.heads if any(g != tokens for g in stage.groups) else 1,
                    "mlp_hidden": stage.mlp_hidden,
                    "nll_hidden": stage.nll_hidden,
                    "schedule": [[a, m, g, int(p)] for a, m, g, p in schedule],
                }
                for stage, tokens, schedule in zip(self.stages, self.tokens, schedules, strict=True)
            ],
        }

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of a SHA-256 of the canonical form.

        Equal for architectures that build the same function; stable over releases.
        """
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def at(
        self,
        *,
        image_size: int | None = None,
        stem_stride: int | None = None,
        width: float | None = None,
        num_classes: int | None = None,
        in_chans: int | None = None,
    ) -> Architecture:
        """The same design at another scale.

        A group count that does not divide the new number of tokens N is replaced
        by the divisor g of N whose slice size N/g is nearest to the one asked for
        (the larger slice where two are equally near); full attention stays full.
        ``width`` multiplies the head dimensions, rounded to the nearest (at least
        1) that the down-sampling accepts; head counts and ratios stay.

        Args:
            image_size: Side of the input in pixels.
            stem_stride: 1, 2, 4 or 8.
            width: Factor on every head dimension, more than 0.
            num_classes: Classes of the head.
            in_chans: Input channels.

        Raises:
            ArchitectureError: the design does not exist at that scale.
        """
        asked = {
            "image_size": image_size,
            "stem_stride": stem_stride,
            "num_classes": num_classes,
            "in_chans": in_chans,
        }
        data = self.to_dict() | {key: v for key, v in asked.items() if v is not None}
        for key in ("image_size", "stem_stride"):
            if type(data[key]) is not int or not 1 <= data[key] <= MAX_SIDE:
                raise ArchitectureError(
                    [Problem((key,), f"given {data[key]!r}; allowed: 1 to {MAX_SIDE}")]
                )
        if width is not None:
            if not (math.isfinite(width) and width > 0):
                raise ArchitectureError(f"width: given {width}; allowed: a factor more than 0")
            before = 1
            for stage in data["stages"]:
                step = before // math.gcd(before, stage["heads"])
                stage["head_dim"] = step * max(1, round(stage["head_dim"] * width / step))
                before = stage["head_dim"] * stage["heads"]
        side = -(-data["image_size"] // data["stem_stride"])
        for stage in data["stages"]:
            stage["groups"] = [nearest_groups(g, side * side) for g in stage["groups"]]
            side = -(-side // 2)
        return Architecture.model_validate(data)

    def to_dict(self) -> dict[str, Any]:
        """Plain, complete data in the order of the file format."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """The architecture file; ``load`` reads it back without loss."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)

    def to_json(self) -> str:
        """The same as JSON, on one line."""
        return json.dumps(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write the architecture file: JSON where the suffix says so, else YAML."""
        path = Path(path)
        files.write(path, (self.to_json() + "\n") if path.suffix == ".json" else self.to_yaml())

    @classmethod
    def from_yaml(cls, text: str) -> Architecture:
        """Read the text of an architecture file."""
        data, _ = files.parse_yaml(text)
        return cls.model_validate(data)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read an architecture from JSON text."""
        return cls.model_validate(files.parse_json(text))

    @classmethod
    def load(cls, source: Architecture | Mapping[str, Any] | str | Path) -> Architecture:
        """An architecture from a preset's name, a YAML or JSON file, ``RUN#N`` or a mapping.

        ``RUN#N`` is trial N of a run: its directory, or a study's name in
        ``$SRET_NAS_STORAGE``.

        Example:
            >>> Architecture.load("sret_t").depth
            20

        Raises:
            ArchitectureError: no such preset or file, or what it says is impossible.
            UsageError: the run has no such trial.
        """
        if isinstance(source, str) and "#" in source and not os.path.exists(source):  # noqa: PTH110
            run, _, number = source.rpartition("#")
            if not (run and number.isdecimal() and number.isascii()):
                raise UsageError(
                    f"'{source}': given '{number}' after #; allowed: RUN#N, e.g. runs/demo#7"
                )
            return OF_RUNS["#"](run, int(number))
        names = ", ".join(name for name in PRESETS if not name[-3:].isdigit())
        hint = f"presets: {names} (each also with _384 or _512); a file ends in .yaml or .json"
        return files.find(cls, source, PRESETS, hint)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema (2020-12) of the architecture file, for editors."""
        schema = cls.model_json_schema(by_alias=True)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "urn:sret-nas:architecture:1",
            **schema,
        }


OF_RUNS: dict[str, Callable[[str, int], Architecture]] = {}
"""Under ``#``, what finds trial N of a run; the package fills it in, since runs stand above."""

PRESETS: dict[str, Architecture] = {}
"""Architectures by name; ``sret_nas.zoo`` fills it with the published ones."""


def hidden(dim: int, ratio: float) -> int:
    """Hidden channels of one width and ratio, or of columns of them; rounded down."""
    channels: Any = dim * ratio
    whole: int = int(channels) if isinstance(channels, float) else channels.astype("int64")
    return whole


def shown(field: str, dim: int, value: Any) -> Any:
    """What can be seen of a field's value in a stage that is built: of a ratio, hidden channels.

    Args:
        field: Of ``Stage``.
        dim: Width of the stage.
        value: Of the field.
    """
    return hidden(dim, value) if field in RATIOS else value


def permutes(permute: Permute, loop: int, groups: int, tokens: int) -> bool:
    """Whether an application permutes its tokens; of columns, a column.

    Args:
        permute: Permutation mode of the architecture.
        loop: Index of the loop.
        groups: Its slices.
        tokens: Tokens of the stage.
    """
    return (loop > 0) & (groups > 1) & (groups < tokens) & (permute != "none")


def divisors(n: int) -> list[int]:
    """All divisors of ``n``, ascending: the group counts that ``n`` tokens allow."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def nearest_groups(groups: int, tokens: int) -> int:
    """The divisor of ``tokens`` whose slice size is nearest to ``tokens / groups``.

    Example:
        >>> nearest_groups(8, 784), nearest_groups(14, 576)
        (8, 16)
    """
    return min(divisors(tokens), key=lambda g: (abs(tokens * groups - tokens * g) / g, g))


def _listed(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f", … {numbers[-1]}" if len(numbers) > most else "")
