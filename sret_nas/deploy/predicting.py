"""A model on image files without labels: classes with probabilities."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sret_nas.data.pictures import UNREADABLE, open_picture, shown, whole
from sret_nas.deploy.opening import Opened, Prepared
from sret_nas.deploy.scoring import TOP
from sret_nas.errors import SretNasError, UsageError


@dataclass(frozen=True)
class Guess:
    """A class that an image may have.

    Attributes:
        index: Position of its logit.
        label: What it is called.
        probability: From 0 to 1.
    """

    index: int
    label: str
    probability: float


def predict(opened: Opened, path: str, most: int = TOP) -> list[Guess]:
    """The likeliest classes of an image file, the likeliest first.

    Args:
        opened: The model.
        path: The file; whatever Pillow reads.
        most: How many classes at most.

    Raises:
        UsageError: it is no image, or cannot be read.
        SretNasError: the logits are not finite.
    """
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            raise UsageError(f"{shown(path)}: no such file")
        # Opened here: Pillow leaves a file open that it cannot read.
        with warnings.catch_warnings(), Path(path).open("rb") as file, open_picture(file) as image:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            picture = whole(image, opened.in_chans)
    except UNREADABLE as error:
        raise UsageError(f"{shown(path)}: {_why(error)}") from error
    logits_K = opened(Prepared(opened.preprocessing)(picture)[None])[0].double()
    if not logits_K.isfinite().all():
        raise SretNasError(f"{shown(path)}: the logits are not finite", "compute in fp32")
    top = torch.softmax(logits_K, 0).topk(min(most, len(logits_K)))
    return [
        Guess(index, opened.label(index), probability)
        for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = re.sub(r"\s*<_io\.[^>]*>", "", str(error))
    return " ".join(text.split()) or "cannot be decoded"


def predict_all(
    opened: Opened, paths: Sequence[str], most: int = TOP
) -> tuple[dict[str, list[Guess]], list[SretNasError]]:
    """``predict`` of several files; what cannot be predicted does not stop the others.

    Args:
        opened: The model.
        paths: The files.
        most: How many classes at most.

    Returns:
        The classes by file, and what went wrong with the others.
    """
    found: dict[str, list[Guess]] = {}
    failures: list[SretNasError] = []
    for path in dict.fromkeys(paths):
        try:
            found[path] = predict(opened, path, most)
        except SretNasError as error:
            failures.append(error)
    return found, failures
