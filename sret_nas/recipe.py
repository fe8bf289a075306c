"""How a network is trained.

No torch here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sret_nas import files
from sret_nas.metrics import Count


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
