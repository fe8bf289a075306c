"""What a short training is: at what scale and for how long a candidate is tried.

Where a search has image sizes or stem strides to choose from, a proxy of one size and one
stride would hide what it searches. There the proxy's own stand for the largest of both, its
``reference``, and others are scaled with them. The largest, because then no image is larger
than the proxy's, and strides have room to fall. For an architecture of t tokens a side at the
reference's stride, where the reference has t₀ and the proxy tries that at p:

    tokens a side   p · t / t₀, rounded
    image size      those tokens times the proxy's stem stride; of the reference, the proxy's own
    stem stride     the proxy's · that of the architecture / that of the reference, at least 1

So the image size goes with the image size alone, half the stride has twice the tokens a side,
and a larger image or a smaller stride never has fewer tokens. Rounded is to an even number where
that is off by a sixteenth at most, for odd grids are halved unevenly by the later stages and cut
badly (of 121 tokens, 11 alone is a divisor), else to the nearest. Where rounding, or a stride
that can be no smaller than 1, makes two choices one, the search says so (``space/sight.py``).

No torch here: a plan can be printed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sret_nas import files
from sret_nas.arch import MAX_SIDE, Architecture
from sret_nas.errors import Problem
from sret_nas.metrics import Count, Declaration, training
from sret_nas.recipe import Recipe

if TYPE_CHECKING:
    from sret_nas.data import DataSet

RUNG_FACTOR = 2
VALIDATION_COST = 1 / 3
"""Work of validating an image over that of training on one: forward without backward."""


MAX_STRIDE = 8
OFF = 1 / 16
"""How far from the exact number of tokens a side an even one may be, as a share of it."""


class Reference(files.Record):
    """What the image size and the stem stride of a proxy stand for.

    Attributes:
        image_size: Side of the architecture's images in px.
        stem_stride: 1, 2, 4 or 8.
    """

    image_size: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]
    stem_stride: Literal[1, 2, 4, 8]


class Proxy(Recipe):
    """A short training that stands for a long one.

    Attributes:
        image_size: Side of the images in px.
        stem_stride: 1, 2, 4 or 8; with ``image_size`` it sets the number of tokens.
        width: Factor on every width of the architecture.
        subset: Most training images; ``null`` for all.
        val_images: Most validation images; ``null`` for all.
        rungs: Epochs after which a candidate is compared with others, ascending;
            the last is ``epochs``. Left out: a quarter, a half and all of them.
        seeds: Most trainings of a member of the front, its first included; those beyond the
            first are made where a decision hangs on them.
        reference: The architecture's image size and stem stride that those above stand for;
            others are scaled with them. ``null``: all are tried at those above. A search
            fills it in with the largest of its space, where there are several.
    """

    image_size: Annotated[int, Field(strict=True, ge=4, le=1024)]
    stem_stride: Literal[1, 2, 4, 8] = 4
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    subset: Count | None = None
    val_images: Count | None = None
    rungs: tuple[Count, ...] = ()
    seeds: Count = 3
    reference: Reference | None = None

    @model_validator(mode="before")
    @classmethod
    def _geometric_rungs(cls, data: Any) -> Any:
        """No rungs written means a quarter, a half and all of the epochs."""
        if isinstance(data, Mapping) and not data.get("rungs") and type(data.get("epochs")) is int:
            epochs = data["epochs"]
            rungs = sorted({-(-epochs // RUNG_FACTOR**k) for k in range(3)}) if epochs > 0 else ()
            return {**data, "rungs": tuple(rungs)}
        return data

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a reference nothing is said of it, as in runs of before there was one."""
        data: dict[str, Any] = handler(self)
        if self.reference is None:
            data.pop("reference", None)
        return data

    def _problems(self) -> Iterator[Problem]:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1:] != (self.epochs,):
            yield Problem(
                ("rungs",),
                f"given {list(self.rungs)}; allowed: ascending, the last being "
                f"epochs = {self.epochs}",
            )

    @classmethod
    def load(cls, source: Proxy | Mapping[str, Any] | str | Path) -> Proxy:
        """A proxy from a preset's name, a YAML or JSON file, or a mapping.

        Example:
            >>> Proxy.load("fast").rungs
            (1, 2, 4)

        Raises:
            ConfigError: no such preset or file, or what it says is impossible.
        """
        hint = f"presets: {', '.join([AUTO, *PRESETS])}; a file ends in .yaml or .json"
        return files.find(cls, source, PRESETS, hint, words=[AUTO])

    def referring(self, image_sizes: Iterable[int], stem_strides: Iterable[int]) -> Proxy:
        """The proxy of a search among these, of which the largest become its reference.

        Args:
            image_sizes: Sides that are searched, in px.
            stem_strides: Stem strides that are searched.

        Returns:
            The proxy itself where there is but one of each, or where it has a reference.
        """
        sizes, strides = set(image_sizes), set(stem_strides)
        if self.reference is not None or len(sizes) * len(strides) == 1:
            return self
        largest = Reference.model_validate({"image_size": max(sizes), "stem_stride": max(strides)})
        return self.model_copy(update={"reference": largest})

    def scale(self, image_size: int, stem_stride: int) -> tuple[int, int]:
        """Image size and stem stride at which an architecture of such is tried.

        Example:
            >>> Proxy.load("fast").referring([160, 192, 224], [4, 8]).scale(160, 4)
            (24, 2)

        Args:
            image_size: Of the architecture, in px.
            stem_stride: Of the architecture.
        """
        of = self.reference
        if of is None:
            return self.image_size, self.stem_stride
        whole = -(-self.image_size // self.stem_stride)
        side, largest = -(-image_size // of.stem_stride), -(-of.image_size // of.stem_stride)
        tokens = whole if side == largest else _rounded(whole * side / largest)
        stride = self.stem_stride * stem_stride // of.stem_stride
        return (
            self.image_size if tokens == whole else tokens * self.stem_stride,
            min(max(stride, 1), MAX_STRIDE),
        )

    def apply(self, arch: Architecture, data: DataSet | Architecture) -> Architecture:
        """The architecture as it is tried: the same design at the proxy's scale.

        It is trained on ``data.at(its image_size)``, by ``suited(its image_size)``.

        Raises:
            ArchitectureError: the design does not exist at that scale.
        """
        image_size, stem_stride = self.scale(arch.image_size, arch.stem_stride)
        return arch.at(
            image_size=image_size,
            stem_stride=stem_stride,
            width=self.width,
            num_classes=data.num_classes,
            in_chans=data.in_chans,
        )

    def suited(self, image_size: int) -> Proxy:
        """The proxy for images of another side in px: it moves them as far in proportion."""
        pad = round(self.pad * image_size / self.image_size)
        return self if pad == self.pad else self.model_copy(update={"pad": pad})

    @property
    def declaration(self) -> Declaration:
        """What an evaluator declares that trains by this proxy."""
        return training(self.rungs, self.seeds)

    def load_options(self) -> dict[str, Any]:
        """Keywords of ``load_data`` that make the data of this proxy."""
        return {
            "image_size": self.image_size,
            "subset": self.subset,
            "val_images": self.val_images,
        }

    def images(self, epochs: int, data: DataSet) -> int:
        """Work of one training in training images, its validation included."""
        per_epoch = len(data.train) + VALIDATION_COST * len(data.val)
        return round(epochs * per_epoch)


def _rounded(tokens: float) -> int:
    """A whole number of tokens a side, even where an even one is near."""
    even = 2 * round(tokens / 2)
    return even if abs(even - tokens) <= OFF * tokens else max(1, round(tokens))


AUTO = "auto"

PRESETS = {
    "fast": Proxy(
        image_size=32,
        stem_stride=4,
        width=0.5,
        subset=4_000,
        val_images=2_000,
        epochs=4,
        rungs=(1, 2, 4),
        batch=64,
        lr=2e-3,
        pad=2,
    ),
    "standard": Proxy(
        image_size=32,
        stem_stride=2,
        width=1.0,
        subset=40_000,
        val_images=10_000,
        epochs=16,
        rungs=(2, 4, 8, 16),
        batch=256,
        lr=2e-3,
        pad=4,
    ),
    "thorough": Proxy(
        image_size=64,
        stem_stride=4,
        width=1.0,
        epochs=60,
        rungs=(8, 15, 30, 60),
        batch=512,
        lr=2e-3,
        pad=8,
    ),
}
"""``fast`` for a CPU, ``standard`` for a GPU, ``thorough`` for a GPU and a night."""


def choose(source: Proxy | Mapping[str, Any] | str | Path, device: str) -> tuple[Proxy, str]:
    """The proxy that is meant, and what to call it.

    Args:
        source: As of ``Proxy.load``, or ``auto``: by the device.
        device: ``cpu``, ``cuda``, …

    Example:
        >>> choose("auto", "cpu")[1]
        'fast (auto: for a CPU)'
    """
    if source != AUTO:
        name = source if isinstance(source, str) else "custom"
        return Proxy.load(source), name
    if device.startswith("cpu"):
        return PRESETS["fast"], "fast (auto: for a CPU)"
    return PRESETS["standard"], f"standard (auto: for {device})"
