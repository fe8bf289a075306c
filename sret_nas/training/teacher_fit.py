"""What a teacher has to fit, and in which words one that does not is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from timm.models import is_model
from torch import nn

from sret_nas.errors import UsageError


@dataclass(frozen=True)
class Fit:
    """What a teacher has to fit.

    Attributes:
        num_classes: Classes of the data.
        side: Side of the student's images in px.
        in_chans: Channels of the student's images.
        classes: Their names, in order; empty where nobody knows them.
        data: How the user named the data.
    """

    num_classes: int
    side: int
    in_chans: int
    classes: tuple[str, ...] = ()
    data: str = "DATA"


def next_step(name: str, fit: Fit) -> str:
    """How to get a teacher that fits: by the same command."""
    plain = name if is_model(name) else "NAME"
    return (
        f"train it on these data first: sret-nas train {plain} --data {fit.data} "
        "--out models/teacher, then --teacher models/teacher"
    )


def refuse_classes(name: str, known: int, fit: Fit) -> None:
    """Refuse a model of another number of classes."""
    if known != fit.num_classes:
        raise UsageError(
            f"teacher {name}: knows {known:,} classes, the data have {fit.num_classes:,}",
            next_step(name, fit),
        )


def refuse_names(name: str, known: Sequence[str] | None, fit: Fit) -> None:
    """Classes are compared by their names where both sides know them: order matters."""
    names = tuple(known or ())
    if not names or not fit.classes or names == fit.classes:
        return
    other = "other classes" if set(names) != set(fit.classes) else "the classes in another order"
    at, own, theirs = next(
        (at, *pair)
        for at, pair in enumerate(zip_longest(fit.classes, names, fillvalue="none"))
        if pair[0] != pair[1]
    )
    raise UsageError(
        f"teacher {name}: knows {other}: its class {at} is '{theirs}', that of the data '{own}'",
        next_step(name, fit),
    )


def wrong_size(name: str, made_for: int, fit: Fit, error: Exception) -> UsageError:
    """What is said of a model of a fixed size that cannot have the student's."""
    return UsageError(
        f"teacher {name}: made for images of {made_for} px, and cannot be made for {fit.side} px: "
        f"{one_line(error)}",
        next_step(name, fit),
    )


def resized(name: str, module: nn.Module, made_for: int, side: int) -> str:
    """What a user should know of a teacher that sees images of another size than before.

    Args:
        name: The teacher.
        module: Its model.
        made_for: Side of the images that its weights were trained on, in px; 0 if unknown.
        side: Side of the student's, in px.
    """
    before = f"of {made_for} px" if made_for else "of another size"
    if getattr(module, "pretrained_cfg", {}).get("fixed_input_size"):
        return f"teacher {name}: trained on images {before}: made for {side} px by resampling"
    return f"teacher {name}: trained on images {before}, asked about images of {side} px"


def one_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:240]
