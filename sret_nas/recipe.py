"""How a network is trained: for a short while (``Proxy``), or in full.

No torch here.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from sret_nas import files
from sret_nas.errors import Problem
from sret_nas.metrics import Count

PICTURE_LEVEL = ("scale", "auto_augment", "jitter", "erasing", "cutmix", "repeats")
"""What is done to whole images, one by one, by timm; the rest is done on the device."""
_DEVIATION = {"mstd": (float, 0, 1000)}
_MAGNITUDE = {"m": (int, 0, 10), **_DEVIATION}
POLICIES: Mapping[str, Mapping[str, tuple[type, int, int]]] = {
    "rand": {**_MAGNITUDE, "n": (int, 1, 16), "p": (float, 0, 1), "mmax": (int, 1, 10),
             "inc": (int, 0, 1)},
    "augmix": {**_MAGNITUDE, "w": (int, 1, 16), "d": (int, 1, 16), "a": (float, 0, 100),
               "b": (int, 0, 1)},
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), _DEVIATION),
}  # fmt: skip
"""Timm's policies: the sections of each, whether they are whole numbers, and their bounds."""
CHOICES = ("tweights", "t3a", "t3aw")
"""Sections of ``rand`` that name a set of operations."""
Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(files.Record):
    """How a network is trained, whatever it is trained for.

    Attributes:
        epochs: Runs through the training images.
        batch: Images per step.
        lr: Peak learning rate of AdamW.
        weight_decay: On matrices and kernels; never on vectors or what the model names.
        warmup: Share of the steps in which the rate rises linearly.
        final_lr: Rate at the end of the cosine, over the peak.
        label_smoothing: Probability spread evenly over the classes.
        clip: Largest norm of the gradient.
        mixup: Alpha of mixup (arXiv 1710.09412); 0 is none.
        flip: Mirror half of the images, where the data allow it.
        pad: Crop at random after a border of this many px.
        drop_path: Stochastic depth; ``null`` is the architecture's published default.
    """

    top: ClassVar[bool] = True

    epochs: Count
    batch: Annotated[int, Field(strict=True, ge=2, le=65_536)] = 64
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.01
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    flip: Annotated[bool, Field(strict=True)] = True
    pad: Annotated[int, Field(strict=True, ge=0, le=256)] = 0
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None

    @property
    def rate(self) -> float:
        """Peak learning rate for the batch."""
        return self.lr


class FullRecipe(Recipe):
    """How a network is trained to be used.

    Attributes:
        lr_batch: Images of a batch that ``lr`` is meant for: the rate is
            ``lr · batch / lr_batch``. ``null``: ``lr`` as it is.
        image_size: Side of the images in px; ``null`` is the architecture's own.
        mixup: As everywhere; with ``cutmix`` or other work on whole images by timm.
        cutmix: Alpha of cutmix (arXiv 1905.04899); 0 is none.
        mix_prob: Share of the batches that are blended.
        switch_prob: Of those, the share that cutmix takes where there is mixup too.
        scale: Area of a random crop, smallest and largest share; ``null`` is none.
        auto_augment: A policy of timm's, e.g. ``rand-m9-mstd0.5-inc1``; ``null`` is none.
        jitter: Strength of colour jitter; timm leaves it out where there is a policy.
        erasing: Share of the images of which a box is erased (arXiv 1708.04896).
        repeats: Views of an image in an epoch (arXiv 1901.09335); as many views in all as ever.
        ema: Decay of the moving average of the weights, which is then what is kept;
            ``null`` is none. It warms up, so that a short training has one too.
        accumulate: Parts that a batch is computed in, one after another.
        dtype: ``auto`` (bf16 where the device computes in it), ``fp32``, ``bf16`` or ``fp16``.
        compile: Whether the network is compiled by ``torch.compile``.
        graphs: Whether steps become CUDA graphs on a GPU.
        distill: What a teacher's answers are for: ``soft`` (alone, as SReT was distilled) or
            ``hard`` (half of the loss, arXiv 2012.12877).
        temperature: Softens the teacher's answers and the network's, for ``soft``.
    """

    lr_batch: Annotated[int, Field(strict=True, ge=1)] | None = None
    image_size: Annotated[int, Field(strict=True, ge=4, le=1024)] | None = None
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    mix_prob: Share = 1.0
    switch_prob: Share = 0.5
    scale: tuple[float, float] | None = None
    auto_augment: str | None = None
    jitter: Annotated[float, Field(ge=0, le=2)] = 0.0
    erasing: Share = 0.0
    repeats: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    accumulate: Annotated[int, Field(strict=True, ge=1, le=4096)] = 1
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Annotated[bool, Field(strict=True)] = False
    graphs: Annotated[bool, Field(strict=True)] = True
    distill: Literal["soft", "hard"] = "soft"
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0

    def _problems(self) -> Iterator[Problem]:
        if self.auto_augment is not None:
            yield from _policy_problems(self.auto_augment)
        if self.scale and not 0 < self.scale[0] <= self.scale[1] <= 1:
            yield Problem(
                ("scale",), f"given {list(self.scale)}; allowed: ascending, above 0 and up to 1"
            )
        if self.pad and self.on_pictures:
            what = ", ".join(self.on_pictures)
            yield Problem(("pad",), f"given {self.pad}; allowed with {what}: 0 (scale crops there)")
        if self.accumulate > self.batch:
            yield Problem(("accumulate",), f"given {self.accumulate}; allowed: up to the batch")

    @property
    def on_pictures(self) -> tuple[str, ...]:
        """What of the recipe is done to whole images."""
        usual = type(self).model_fields
        return tuple(k for k in PICTURE_LEVEL if getattr(self, k) != usual[k].default)

    @property
    def rate(self) -> float:
        """Peak learning rate for the batch, by the rule of ``lr_batch``."""
        return self.lr * self.batch / (self.lr_batch or self.batch)

    @classmethod
    def load(cls, source: Self | Mapping[str, Any] | str | Path) -> Self:
        """A recipe from a preset's name, a YAML or JSON file, or a mapping.

        Example:
            >>> FullRecipe.load("sret").rate
            0.002

        Raises:
            ConfigError: no such preset or file, or what it says is impossible.
        """
        hint = f"recipes: {', '.join(presets())}; a file ends in .yaml or .json"
        if isinstance(source, str) and source in presets():
            source = presets()[source]
        return files.find(cls, source, {}, hint, words=list(presets()))


def _policy_problems(text: str) -> Iterator[Problem]:
    """What is wrong with a policy: timm itself passes over some of it, and fails late over more."""
    kind, *sections = text.split("-")
    if kind not in POLICIES:
        yield Problem(
            ("auto_augment",),
            f"given '{text}'; allowed: a policy of timm's: {', '.join(POLICIES)}, "
            "as in rand-m9-mstd0.5-inc1",
        )
        return
    allowed = POLICIES[kind]
    for section in sections:
        if kind == "rand" and section in CHOICES:
            continue
        found = re.fullmatch(r"([a-z]+)([0-9]+(?:\.[0-9]+)?)", section)
        what, low, high = allowed.get(found[1] if found else "", (None, 0, 0))
        fine = found and what and low <= float(found[2]) <= high
        if not fine or (found and what is int and "." in found[2]):
            bounds = ", ".join(f"{key} {a} to {b}" for key, (_, a, b) in allowed.items())
            more = f", {', '.join(CHOICES)}" if kind == "rand" else ""
            yield Problem(
                ("auto_augment",),
                f"given '{section}' in '{text}'; allowed with {kind}: {bounds}{more}",
            )
            return


@functools.cache
def presets() -> dict[str, Path]:
    """The recipes that come with the package, by name: files to copy and edit."""
    folder = Path(str(importlib.resources.files("sret_nas") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
