"""Images that an exported file is held against PyTorch with, and calibrated on.

Shapes: N images, C channels, S side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sret_nas.data import DataError, Stream, Views
from sret_nas.data.items import Indices, Items
from sret_nas.data.loading import divide, find
from sret_nas.data.splits import stratified
from sret_nas.deploy.evaluation import matched
from sret_nas.deploy.opening import Opened, Prepared
from sret_nas.device.hardware import cores
from sret_nas.errors import UsageError

MOST_BYTES = 1 << 29
"""Of images that are held in memory at once."""


@dataclass(frozen=True)
class Sample:
    """Normalised images, as the model wants them.

    Attributes:
        images: Validation images, (N, C, S, S).
        labels: Their classes as positions of the model's logits, (N,); ``None`` where the
            data have other classes.
        calibration: Training images, (M, C, S, S).
        name: The data.
        notes: What a user should know.
    """

    images: Tensor
    labels: Tensor | None
    calibration: Tensor
    name: str
    notes: tuple[str, ...]


def take(
    opened: Opened,
    source: str | Path,
    side: int,
    images: int,
    calibration: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Sample:
    """Read images of a data set: validation as in training, by timm's transform for evaluation.

    Args:
        opened: The model.
        source: As in ``load_data``.
        side: Side of the images in px, S.
        images: Most validation images, class shares kept; fewer where they would not fit.
        calibration: Most training images.
        tell: Told of the progress.

    Raises:
        DataError: no such data, or none of the images can be decoded.
    """
    found = find(str(source), side, tell=tell)
    cut = divide(found)
    fitting = max(1, MOST_BYTES // (4 * opened.in_chans * side * side))
    transform = Prepared({**opened.preprocessing, "input_size": (opened.in_chans, side, side)})
    notes = list(found.notes)

    def read(what: str, items: Items, chosen: Indices, most: int) -> tuple[Tensor, Tensor]:
        some = chosen[stratified(items.labels[chosen], min(most, fitting), 0)]
        views = Views(Stream(items, some, side), transform)

        def look(at: int) -> tuple[Tensor, int] | str:
            try:
                return views[at]
            except DataError as error:
                return str(error)

        tell(f"reading {len(views):,} {what} images")
        with ThreadPoolExecutor(cores()) as pool:
            looked = list(pool.map(look, range(len(views))))
        good = [one for one in looked if not isinstance(one, str)]
        bad = [one for one in looked if isinstance(one, str)]
        if bad:
            notes.append(f"{len(bad):,} {what} images cannot be decoded, the first: {bad[0]}")
        if not good:
            raise DataError(f"{found.name}: no {what} images to run the file on")
        return torch.stack([image for image, _ in good]), torch.tensor([at for _, at in good])

    images_NCSS, labels_N = read("validation", cut.val, cut.val_chosen, images)
    calibration_NCSS = images_NCSS[:0]
    if calibration:
        calibration_NCSS, _ = read("training", cut.train, cut.chosen, calibration)
    known: Tensor | None = labels_N
    try:
        order = matched(opened, found.classes)
        known = labels_N if order is None else order[labels_N]
    except UsageError as error:
        known = None
        notes.append(f"{error}: only compared, no accuracy")
    return Sample(images_NCSS, known, calibration_NCSS, found.name, tuple(notes))
