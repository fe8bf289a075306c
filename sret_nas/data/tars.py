"""A tar file of images, laid out as a folder of them is; also the same data to a run."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sret_nas.data.digests import Tell
from sret_nas.data.errors import DataError
from sret_nas.data.folder import LAYOUT, NO_TEST, TEST, TRAIN, VAL, left_out, suffixes
from sret_nas.data.items import IndexedItems
from sret_nas.data.pictures import shown
from sret_nas.data.source import Source

EVERY = 20_000
"""Members between two lines of progress."""


@dataclass(frozen=True)
class _Image:
    """One member: its path below the common folder, and where its bytes lie."""

    parts: tuple[str, ...]
    offset: int
    size: int


@dataclass
class _Listing:
    images: list[_Image] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    tars: int = 0


def tar(path: Path, tell: Tell = lambda _: None) -> Source | None:
    """Read the layout of a tar file: classes, or ``train`` with ``val`` and ``test`` beside it.

    Args:
        path: The file.
        tell: Told of the progress.

    Returns:
        ``None`` where it holds tar files, which timm reads.

    Raises:
        DataError: it cannot be read, or holds no classes of images.
    """
    try:
        listing = _list(path, tell)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shown(path)}: cannot be read as a tar file: {error}") from error
    if listing.tars:
        return None
    images = _below_the_common(listing.images)
    parts = {name: [] for name in (TRAIN, VAL, TEST)}  # type: dict[Sequence[str], list[_Image]]
    named = {names for names in parts for one in images if one.parts[0].lower() in names}
    if named and TRAIN not in named:
        raise DataError(f"{shown(path)}: has val/ or test/ but no train/", LAYOUT)
    for one in images:
        place = next((names for names in parts if one.parts[0].lower() in names), None)
        if not named:
            parts[TRAIN].append(one)
        elif place is not None:
            parts[place].append(_Image(one.parts[1:], one.offset, one.size))
        else:
            listing.others[f"beside {TRAIN[0]}/"] += 1
    notes = left_out(listing.others, path)
    classes = sorted({one.parts[0] for one in parts[TRAIN] if len(one.parts) > 1})
    if len(classes) < 2:
        found = f" ({shown(classes[0])})" if classes else ""
        raise DataError(
            f"{shown(path)}: {len(classes)} class folder(s) of images{found}; allowed: at least 2",
            LAYOUT,
        )
    train, val, test = (_items(path, parts[names], classes, tell) for names in (TRAIN, VAL, TEST))
    assert train is not None
    least = min(Counter(train.labels.tolist()).values())
    if val is None and least < 2:
        few = Counter(train.labels.tolist()).most_common()[-1][0]
        raise DataError(
            f"{shown(path)}: class '{shown(classes[few])}' has 1 image; allowed: at least 2, one "
            "to train on and one to validate"
        )
    if test is None:
        notes.append(NO_TEST.format(shown(path)))
    names = tuple(map(shown, classes))
    return Source(
        shown(path), names, train, val, None if test is None else lambda: test, notes=tuple(notes)
    )


def _list(path: Path, tell: Tell) -> _Listing:
    known, found = suffixes(), _Listing()
    with tarfile.open(path, "r:") as file:
        for number, member in enumerate(file):
            if number % EVERY == 0:
                tell(f"looking for images: {len(found.images):,} in {number:,} members")
            file.members = []  # type: ignore[attr-defined]  # a million of them take a gigabyte
            parts = tuple(part for part in member.name.split("/") if part not in ("", ".", ".."))
            if member.isdir() or any(part.startswith(".") for part in parts):
                continue
            suffix = os.path.splitext(member.name)[1].lower()
            if member.issym() or member.islnk():
                found.others["link"] += 1
            elif not member.isfile():
                found.others["no regular file"] += 1
            elif suffix == ".tar":
                found.tars += 1
            elif suffix in known:
                found.images.append(_Image(parts, member.offset_data, member.size))
            else:
                found.others[shown(suffix) or "without a suffix"] += 1
    return found


def _below_the_common(images: Sequence[_Image]) -> list[_Image]:
    """The images by their paths below the folders that all share."""
    if not images:
        return []
    folders = [one.parts[:-1] for one in images]
    pairs = zip(min(folders), max(folders), strict=False)
    depth = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return [_Image(one.parts[depth:], one.offset, one.size) for one in images]


def _items(
    path: Path, images: Sequence[_Image], classes: Sequence[str], tell: Tell
) -> TarItems | None:
    if not images:
        return None
    labels = {name: label for label, name in enumerate(classes)}
    for one in images:
        if one.parts[0] not in labels or len(one.parts) < 2:
            raise DataError(
                f"{shown(path)}: '{shown('/'.join(one.parts))}' is in none of the training classes "
                f"({', '.join(map(shown, classes[:8]))}{', …' if len(classes) > 8 else ''})"
            )
    # As the files of a folder are: class by class, folder by folder.
    ordered = sorted(images, key=lambda one: (labels[one.parts[0]], one.parts[1:]))
    return TarItems(path, ordered, [labels[one.parts[0]] for one in ordered], tell)


class TarItems(IndexedItems):
    """Images inside a tar file.

    Args:
        path: The file.
        images: Name, offset and size of each in it.
        labels: Class indices, (N,).
        tell: Told of the progress.
    """

    def __init__(
        self, path: Path, images: Sequence[_Image], labels: Sequence[int], tell: Tell
    ) -> None:
        places = [(one.offset, one.size) for one in images]
        self.names = ["/".join(one.parts) for one in images]
        paths = [os.path.abspath(path)] * len(places)
        super().__init__(Pieces(path, places), labels, shown(path), paths, places, tell)

    def name(self, index: int) -> str:
        """The tar file, and the path of an image in it."""
        return f"{self.title}: {shown(self.names[index])}"


class Pieces:
    """Pieces of a file by index, each read with a file of its own: threads share none.

    Args:
        path: The file.
        places: Offset and size of each piece in bytes.
    """

    def __init__(self, path: Path, places: Sequence[tuple[int, int]]) -> None:
        self.path, self.places = path, places

    def __getitem__(self, index: int) -> tuple[io.BytesIO]:
        start, size = self.places[index]
        with self.path.open("rb") as file:
            file.seek(start)
            return (io.BytesIO(file.read(size)),)
