"""Making soft labels: crops are cut in threads, a teacher is asked, its answers are stored.

Shapes: N images of a split, R crops of each, B crops asked about at once, T labels stored of a
crop, C channels, S side, K classes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sret_nas.data import Split, Views
from sret_nas.data.items import FileItems
from sret_nas.device import cache_folder, exact_fp32
from sret_nas.errors import SretNasError
from sret_nas.files import write
from sret_nas.training.block_file import BlockFile
from sret_nas.training.crops import cut
from sret_nas.training.failures import is_out_of_memory, needing_room
from sret_nas.training.randomness import Random
from sret_nas.training.soft_labels import LabelRecipe, SoftLabels, record_of
from sret_nas.training.teachers import Teacher

BLOCK_CROPS = 4096
"""Crops, about, whose labels a kill may lose."""
PIECE_BYTES = 16 << 20
"""Of crops of one image that a thread cuts in its turn: what one decoding serves."""
AHEAD = 2
"""Pieces a thread that are cut before the teacher is asked about them."""

Progress = Callable[[int, int], None]
"""Told of crops that have labels, and of all."""
Piece = tuple[int, int, int]
"""Position of an image, and the first and last of its crops."""
Cut = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_]]


def soft_labels(
    split: Split,
    teacher: Teacher,
    recipe: LabelRecipe,
    *,
    folder: Path | None = None,
    batch: int = 256,
    progress: Progress = lambda done, total: None,
) -> SoftLabels:
    """A teacher's labels for the images of a split; those that are not there are computed.

    Killed at any moment, the same call goes on. Several at once wait for each other. What is
    there is read and compared with its checksums.

    Args:
        split: The training images.
        teacher: Who labels them.
        recipe: Crops and what is stored of them.
        folder: Where labels are kept; default beside the images, else in the user's cache.
        batch: Crops that the teacher is asked about at once.
        progress: Told of crops that have labels, and of all.

    Raises:
        DataError: an image cannot be decoded, or the split has no source.
        OutOfMemoryError: there is no room for one image in the teacher.
        SretNasError: the labels cannot be written, or there is no room for them.
    """
    views = Views(split)
    recipe = replace(recipe, k=min(recipe.k, teacher.num_classes))
    each = max(1, BLOCK_CROPS // recipe.crops) * recipe.crops
    what = {
        "schema": 1,
        "data": _hash(views.items.fingerprint().encode(), views.indices.tobytes()),
        "images": len(views),
        "channels": views.items.channels,
        "classes": teacher.num_classes,
        "teacher": teacher.fingerprint,
        "block": each,
        **asdict(recipe),
    }
    key = _hash(json.dumps(what, sort_keys=True).encode())
    name = f"{recipe.side}px-{recipe.crops}crops-{key}"
    place = folder / name if folder else _folder(views, name)
    record = record_of(recipe.k, teacher.num_classes)
    file = BlockFile(place, key, len(views) * recipe.crops, record, each)
    labels = SoftLabels(file, len(views), teacher.num_classes, recipe)
    missing, _ = file.missing()
    if missing:
        with file.held():
            missing, labels.damaged = file.missing()  # somebody else may have been at work
            _describe(place, {**what, "teachers": teacher.names, "record": record.descr})
            file.begin()
            _label(labels, views, teacher, missing, batch, progress)
            file.finish()
        labels.computed = sum(last - first for first, last in map(file.range, missing))
    return labels


def _label(
    labels: SoftLabels,
    views: Views,
    teacher: Teacher,
    missing: Sequence[int],
    batch: int,
    progress: Progress,
) -> None:
    """Compute blocks of labels, and write each as it is done."""
    file, recipe = labels.file, labels.recipe
    done = file.count - sum(last - first for first, last in map(file.range, missing))
    progress(done, file.count)

    def look(piece: Piece) -> Cut:
        return _cut(views, recipe, piece)

    plan = [_pieces(file.range(block), recipe, views.items.channels) for block in missing]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cuts = _ahead(pool, look, itertools.chain.from_iterable(plan))
        for block, pieces in zip(missing, plan, strict=True):
            first, last = file.range(block)
            records = np.zeros(last - first, file.record)
            at = 0
            # What a network draws, it draws for this block alone: as it was, after a kill.
            with Random(recipe.seed + block, teacher.device):
                for images, boxes, flips in _batches(itertools.islice(cuts, len(pieces)), batch):
                    part = records[at : at + len(images)]
                    part["box"], part["flip"] = boxes, flips
                    classes_BT, probabilities_BT = _asked(teacher, images, recipe)
                    part["classes"], part["probabilities"] = classes_BT, probabilities_BT
                    at += len(images)
                    progress(done + at, file.count)
            file.write(block, records)
            done += at


def _pieces(crops: tuple[int, int], recipe: LabelRecipe, channels: int) -> list[Piece]:
    """The images of a block, each with as many of its crops as are cut at once."""
    most = max(1, PIECE_BYTES // (channels * recipe.side**2))
    first, last = (at // recipe.crops for at in crops)
    return [
        (position, start, min(recipe.crops, start + most))
        for position in range(first, last)
        for start in range(0, recipe.crops, most)
    ]


def _cut(views: Views, recipe: LabelRecipe, piece: Piece) -> Cut:
    """Views uint8 (n, C, S, S), boxes (n, 4) and which are mirrored (n,)."""
    position, first, last = piece
    picture = views.picture(position)
    boxes, flips = recipe.draw(picture.size, int(views.indices[position]))
    boxes, flips = boxes[first:last], flips[first:last]
    seen = [
        np.asarray(cut(picture, tuple(box), flip, recipe.side))
        for box, flip in zip(boxes.tolist(), flips.tolist(), strict=True)
    ]
    images = np.stack(seen)
    return (images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)), boxes, flips


def _ahead(
    pool: ThreadPoolExecutor, look: Callable[[Piece], Cut], pieces: Iterable[Piece]
) -> Iterator[Cut]:
    """Results in order, while the next pieces are at work."""
    waiting = iter(pieces)
    most = AHEAD * (os.cpu_count() or 1)
    ahead = deque(pool.submit(look, piece) for piece in itertools.islice(waiting, most))
    try:
        while ahead:
            found = ahead.popleft().result()
            ahead.extend(pool.submit(look, piece) for piece in itertools.islice(waiting, 1))
            yield found
    finally:
        for future in ahead:
            future.cancel()


def _batches(cuts: Iterable[Cut], size: int) -> Iterator[Cut]:
    """The same crops in the same order, so many at once."""
    held: list[Cut] = []
    for found in cuts:
        held.append(found)
        while sum(len(part[0]) for part in held) >= size:
            whole = [np.concatenate(parts) for parts in zip(*held, strict=True)]
            yield whole[0][:size], whole[1][:size], whole[2][:size]
            held = [(whole[0][size:], whole[1][size:], whole[2][size:])]
    whole = [np.concatenate(parts) for parts in zip(*held, strict=True)]
    if whole and len(whole[0]):
        yield whole[0], whole[1], whole[2]


def _asked(
    teacher: Teacher, images: npt.NDArray[np.uint8], recipe: LabelRecipe
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Classes (B, T), likeliest first, and their probabilities; in halves where memory is short."""
    try:
        with exact_fp32():
            x_BCSS = torch.from_numpy(np.ascontiguousarray(images)).to(teacher.device)
            found_BK = teacher.probabilities(teacher.normalise(x_BCSS), recipe.temperature)
            top: tuple[Tensor, Tensor] = found_BK.topk(recipe.k, dim=1)
            return top[1].cpu().numpy(), top[0].cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(images) == 1:
            with needing_room("the teacher", teacher.device):
                raise
    if teacher.device.type == "cuda":
        torch.cuda.empty_cache()
    halves = [_asked(teacher, half, recipe) for half in np.array_split(images, 2)]
    return np.concatenate([h[0] for h in halves]), np.concatenate([h[1] for h in halves])


def _folder(views: Views, name: str) -> Path:
    """Beside the images, where they are files and something can be written; else the user's cache.

    Beside and not within: a folder among those of classes would be taken for one by others.
    """
    places = [cache_folder() / "soft-labels"]
    if isinstance(views.items, FileItems):
        root = Path(views.items.root).absolute()
        places.insert(0, root.with_name(f"{root.name}.soft-labels"))
    for place in places:
        if (place / name / "recipe.json").exists():
            return place / name
    for place in places[:-1]:
        try:
            place.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place / name
        except OSError:
            continue
    return places[-1] / name


def _describe(folder: Path, what: dict[str, Any]) -> None:
    """Write down what lies there, for people and for other programs."""
    try:
        write(folder / "recipe.json", json.dumps(what, indent=2) + "\n")
    except OSError as error:
        raise SretNasError(f"{folder}: cannot be written: {error.strerror}") from error


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
