"""What a reader of some kind of data hands over, before it is split and decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sret_nas.data.items import Items


@dataclass(frozen=True)
class Source:
    """Undecoded data.

    Attributes:
        name: As the user names it.
        classes: Names of the classes, in the order of the labels.
        train: What may be trained on; validation is cut from it unless given.
        val: Validation images of the data's own, or ``None``.
        test: Opens the test images, or ``None`` where there are none.
        mirror: Whether a mirrored image keeps its class (not so for digits).
        notes: What a user should know about it.
    """

    name: str
    classes: tuple[str, ...]
    train: Items
    val: Items | None = None
    test: Callable[[], Items] | None = None
    mirror: bool = True
    notes: tuple[str, ...] = ()
