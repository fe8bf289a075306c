"""A model on labelled images: scores, predictions, throughput.

Shapes: N images, B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sret_nas.data import DataError, Split
from sret_nas.data.dataset import MOST_UNREADABLE
from sret_nas.deploy.opening import Opened, eval_views
from sret_nas.deploy.scoring import TOP, Scores, Tally
from sret_nas.device.hardware import cores
from sret_nas.errors import SretNasError, UsageError

AHEAD = 3
"""Batches that are read before they are asked for."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: Path or number of the image.
        label: Its class.
        prediction: The class of the largest probability.
        probability: That probability, 0 to 1.
        top5: Up to five classes, the likeliest first.
    """

    image: str
    label: str
    prediction: str
    probability: float
    top5: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on some images.

    Attributes:
        scores: Accuracy, loss, calibration, confusion.
        images_per_second: Throughput of the model alone, reading left out; of all batches but
            the first where there are several.
        seconds: How long all of it took, reading included.
        unreadable: Images that cannot be decoded, and were left out.
        predictions: One an image, in their order.
    """

    scores: Scores
    images_per_second: float
    seconds: float
    unreadable: tuple[str, ...]
    predictions: tuple[Prediction, ...]


def evaluate(
    opened: Opened,
    splits: Sequence[Split],
    classes: Sequence[str],
    *,
    batch: int = 64,
    keep: bool = False,
    tell: Tell = lambda _: None,
) -> Evaluation:
    """Ask a model about every image of some splits.

    Images are prepared by timm's own transform for evaluation, so that the accuracy is what
    timm's users get.

    Args:
        opened: The model.
        splits: Images with labels, as ``choose_images`` or ``load_data`` gives them.
        classes: Names of the classes in the order of the labels.
        batch: Images at a time, B.
        keep: Keep the predictions.
        tell: Told of the progress.

    Raises:
        UsageError: the classes are not those of the model.
        DataError: there are no images, or too many cannot be decoded.
        SretNasError: not enough memory, or logits that are not finite.
    """
    order = matched(opened, classes)
    tally, kept, unreadable = Tally(classes), list[Prediction](), list[str]()
    begun, spent, total = time.perf_counter(), list[tuple[int, float]](), sum(map(len, splits))
    done = 0
    for names, images_BCSS, labels_B, bad in _batches(opened, splits, batch):
        unreadable += bad
        done += len(names) + len(bad)
        if not names:
            continue
        start = time.perf_counter()
        logits_BK = _asked(opened, images_BCSS)
        spent.append((len(names), time.perf_counter() - start))
        logits_BK = logits_BK if order is None else logits_BK[:, order]
        tally.add(logits_BK, labels_B)
        if keep:
            kept += _predictions(names, logits_BK, labels_B, classes)
        elapsed = time.perf_counter() - begun
        tell(
            f"{done:,} of {total:,} images, {done / elapsed:,.0f} a second, "
            f"top-1 {tally.right / tally.images:.1%}"
        )
    if len(unreadable) > MOST_UNREADABLE * total:
        raise DataError(
            f"{len(unreadable):,} of {total:,} images cannot be decoded, the first: "
            f"{unreadable[0]}",
            f"remove or replace them; up to {MOST_UNREADABLE:.0%} are left out",
        )
    steady = spent[1:] or spent
    return Evaluation(
        scores=tally.scores(),
        images_per_second=sum(n for n, _ in steady) / sum(s for _, s in steady),
        seconds=time.perf_counter() - begun,
        unreadable=tuple(unreadable),
        predictions=tuple(kept),
    )


def matched(opened: Opened, classes: Sequence[str]) -> Tensor | None:
    """Positions of the data's classes among the model's, (K,); ``None`` where they are the same.

    Names decide where both are known; numbers of a data set without names are positions.

    Args:
        opened: The model.
        classes: Names of the classes of the data.

    Raises:
        UsageError: other classes, with the next step.
    """
    train = (
        "--data names the images to evaluate on; for a head of these classes: "
        f"sret-nas train … --init {opened.name} --data …"
    )
    if len(classes) != opened.num_classes:
        raise UsageError(
            f"{opened.name} knows {opened.num_classes:,} classes, the data have {len(classes):,}; "
            "allowed: the same",
            train,
        )
    numbered = tuple(classes) == tuple(map(str, range(len(classes))))
    known = [names for names in (opened.classes, opened.descriptions) if names is not None]
    if not known or numbered or tuple(classes) in known:
        return None
    for names in known:
        place = {name: at for at, name in enumerate(names)}
        if len(place) == len(names) and place.keys() == set(classes):
            return torch.tensor([place[name] for name in classes])
    strange = next((name for name in classes if name not in known[0]), classes[0])
    raise UsageError(
        f"{opened.name} does not know the class '{strange}' of the data; its classes: "
        f"{', '.join(known[0][:5])}{', …' if len(known[0]) > 5 else ''}",
        f"name the data's classes as the model does; or {train}",
    )


def _asked(opened: Opened, images_BCSS: Tensor) -> Tensor:
    try:
        return opened(images_BCSS)
    except torch.OutOfMemoryError as error:
        raise SretNasError(
            f"{opened.device}: out of memory at a batch of {len(images_BCSS)}",
            "a smaller --batch",
        ) from error


def _predictions(
    names: Sequence[str], logits_BK: Tensor, labels_B: Tensor, classes: Sequence[str]
) -> Iterator[Prediction]:
    top = logits_BK.double().softmax(1).topk(min(TOP, logits_BK.shape[1]))
    for name, label, values, order in zip(
        names, labels_B.tolist(), top.values.tolist(), top.indices.tolist(), strict=True
    ):
        found = tuple(classes[at] for at in order)
        yield Prediction(name, classes[label], found[0], values[0], found)


Looked = tuple[str, tuple[Tensor, int] | None]
"""An image's name with its view and label; why there is none, where it cannot be decoded."""


def _batches(
    opened: Opened, splits: Sequence[Split], size: int
) -> Iterator[tuple[list[str], Tensor, Tensor, list[str]]]:
    """Names, images (B, C, S, S), labels (B,), and names of what cannot be decoded.

    Read by threads ahead of the model: Pillow works outside Python's lock.
    """
    views = [eval_views(opened, split) for split in splits]
    places = [(one, at) for one, view in enumerate(views) for at in range(len(view))]
    if not places:
        raise DataError("no images to evaluate on")

    def look(place: tuple[int, int]) -> Looked:
        view, at = views[place[0]], place[1]
        try:
            return view.items.name(int(view.indices[at])), view[at]
        except DataError as error:
            return str(error), None

    pool = ThreadPoolExecutor(cores())
    ahead: deque[list[Future[Looked]]] = deque()
    try:
        for start in range(0, len(places) + AHEAD * size, size):
            ahead.append([pool.submit(look, place) for place in places[start : start + size]])
            if len(ahead) <= AHEAD:
                continue
            looked = [future.result() for future in ahead.popleft()]
            good = [(name, *view) for name, view in looked if view is not None]
            names = [name for name, *_ in good]
            images_BCSS = torch.stack([image for _, image, _ in good]) if good else torch.empty(0)
            labels_B = torch.tensor([label for *_, label in good], dtype=torch.int64)
            yield names, images_BCSS, labels_B, [name for name, view in looked if view is None]
    finally:
        pool.shutdown(cancel_futures=True)
