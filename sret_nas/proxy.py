"""What a short training is: at what scale and for how long a candidate is tried.

No torch here: a plan can be printed without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.errors import Problem
from sret_nas.metrics import Count, Declaration, training
from sret_nas.recipe import Recipe

if TYPE_CHECKING:
    from sret_nas.data import DataSet

RUNG_FACTOR = 2
VALIDATION_COST = 1 / 3
"""Work of validating an image over that of training on one: forward without backward."""


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
        seeds: Trainings of a member of the front in all, its first included.
    """

    image_size: Annotated[int, Field(strict=True, ge=4, le=1024)]
    stem_stride: Literal[1, 2, 4, 8] = 4
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    subset: Count | None = None
    val_images: Count | None = None
    rungs: tuple[Count, ...] = ()
    seeds: Count = 3

    @model_validator(mode="before")
    @classmethod
    def _geometric_rungs(cls, data: Any) -> Any:
        """No rungs written means a quarter, a half and all of the epochs."""
        if isinstance(data, Mapping) and not data.get("rungs") and type(data.get("epochs")) is int:
            epochs = data["epochs"]
            rungs = sorted({-(-epochs // RUNG_FACTOR**k) for k in range(3)}) if epochs > 0 else ()
            return {**data, "rungs": tuple(rungs)}
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

    def apply(self, arch: Architecture, data: DataSet) -> Architecture:
        """The architecture as it is tried: the same design at the proxy's scale.

        Raises:
            ArchitectureError: the design does not exist at that scale.
        """
        return arch.at(
            image_size=self.image_size,
            stem_stride=self.stem_stride,
            width=self.width,
            num_classes=data.num_classes,
            in_chans=data.in_chans,
        )

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
