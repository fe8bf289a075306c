"""What is to be trained: an architecture, a member of a run, or a model of timm's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, UsageError
from sret_nas.files import nearest
from sret_nas.model import create_model
from sret_nas.runner import Member, load
from sret_nas.study.rundir import RunDir


@dataclass(frozen=True)
class Subject:
    """A network by its name, not yet built.

    Attributes:
        source: As the user named it; a run's member as ``RUN#N``.
        arch: Its architecture, or ``None`` of a model of timm's.
    """

    source: str
    arch: Architecture | None

    @property
    def name(self) -> str:
        """A short name for its folder.

        Example:
            >>> Subject("runs/demo#7", None).name
            'demo-7'
        """
        run, _, number = self.source.partition("#")
        stem = Path(run).stem if Path(run).suffix in (".yaml", ".yml", ".json") else Path(run).name
        return f"{stem}-{number}" if number else stem

    def side(self, wanted: int | None) -> int:
        """Side of its images in px.

        Args:
            wanted: What a recipe asks for; ``None`` is the network's own.
        """
        if wanted is not None:
            return wanted
        if self.arch is not None:
            return self.arch.image_size
        return int(timm.get_pretrained_cfg(self.source).input_size[-1])

    def sized(self, side: int, num_classes: int, in_chans: int) -> Architecture | None:
        """The architecture for some data.

        Raises:
            ArchitectureError: the design does not exist at that size.
        """
        if self.arch is None:
            return None
        return self.arch.at(image_size=side, num_classes=num_classes, in_chans=in_chans)

    def build(
        self, side: int, num_classes: int, in_chans: int, drop_path: float | None
    ) -> nn.Module:
        """Make the network, its weights fresh.

        Args:
            side: Side of its images in px.
            num_classes: Logits.
            in_chans: Channels of its images.
            drop_path: Stochastic depth; ``None`` is the network's default.

        Raises:
            UsageError: timm's model cannot be made so.
        """
        arch = self.sized(side, num_classes, in_chans)
        if arch is not None:
            return create_model(arch, drop_path_rate=drop_path)
        options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
        if timm.get_pretrained_cfg(self.source).fixed_input_size:
            options["img_size"] = side
        if drop_path:
            options["drop_path_rate"] = drop_path
        try:
            model: nn.Module = timm.create_model(self.source, **options)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            untaken = drop_path and "drop_path_rate" in text
            raise UsageError(
                f"timm model '{self.source}' at {side} px: {text}",
                "a recipe with drop_path: 0" if untaken else None,
            ) from error
        return model


def subject_of(source: str) -> Subject:
    """What a name, a file, ``RUN#N``, or a run (its best member) stands for.

    Raises:
        ArchitectureError: a file that is no architecture.
        UsageError: nothing is called so, or the run has no front.
    """
    if "#" not in source and Path(source).is_dir() and RunDir(Path(source)).exists:
        return _member(source, best(source, 1)[0])
    try:
        return Subject(source, Architecture.load(source))
    except ArchitectureError:
        if timm.is_model(source.split(".")[0]):
            _refuse_tag(source)
            return Subject(source, None)
        if "#" in source or Path(source).exists():
            raise
        guess = nearest(source, timm.list_models())
        raise UsageError(
            f"'{source}' is neither an architecture, a run nor a model of timm's"
            + (f"; did you mean '{guess}'?" if guess else ""),
            "a preset (sret_t), a file, RUN#N, a run's folder, or timm's name",
        ) from None


def _refuse_tag(source: str) -> None:
    """A tag behind timm's name must be one of its weights: they say the size of its images."""
    name = source.split(".")[0]
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{name}.*")]
    if "." in source and source.partition(".")[2] not in tags:
        raise UsageError(
            f"timm model '{name}': no weights '{source.partition('.')[2]}'; allowed: "
            f"{', '.join(tags[:8]) or 'none'}{', …' if len(tags) > 8 else ''}",
            f"'{name}' alone is trained all the same",
        )


def best(run: str, count: int) -> list[Member]:
    """Members of a run's front, the recommended one first, then by what was reached.

    Args:
        run: The run's directory.
        count: How many at most.

    Raises:
        UsageError: its front is empty.
    """
    outcome = load(run)
    chosen = outcome.recommended()
    if chosen is None:
        raise UsageError(f"{run}: its front is empty", "let the search go on, or train RUN#N")
    goal = outcome.config.declaration.quality
    others = [
        member
        for member in outcome.front
        if member.trial != chosen.trial and member.reached(goal.name) is not None
    ]
    others.sort(key=lambda member: (member.dethroned, goal.loss(member.reached(goal.name) or 0.0)))
    return [chosen, *others][:count]


def _member(run: str, member: Member) -> Subject:
    return Subject(f"{run}#{member.trial}", member.architecture)


def members(run: str, count: int) -> list[tuple[Subject, Member]]:
    """Several members of a run, to be trained.

    Args:
        run: The run's directory.
        count: How many.

    Raises:
        UsageError: the front has not as many.
    """
    found = best(run, count)
    if len(found) < count:
        raise UsageError(f"--top {count}: the front of {run} has {len(found)} members")
    return [(_member(run, member), member) for member in found]
