"""Which block applications of a trained relative a new model goes on with.

Plain arithmetic on two schedules; ``growing`` copies weights by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sret_nas.arch import Application, Architecture, Stage
from sret_nas.model.channels import NEW


@dataclass(frozen=True)
class Flow:
    """What one stage does with tokens, as two stages are compared by it.

    Attributes:
        stage: The stage.
        schedule: Its block applications.
        mode: Permutation mode of the architecture.
        first: Index of its first application in the network, by which ``fixed`` permutes.
        tokens: Tokens of the stage.
    """

    stage: Stage
    schedule: tuple[Application, ...]
    mode: str
    first: int
    tokens: int

    @classmethod
    def of(cls, arch: Architecture) -> list[Flow]:
        """All stages of an architecture."""
        found, first = [], 0
        for stage, schedule, tokens in zip(arch.stages, arch.schedules, arch.tokens, strict=True):
            found.append(cls(stage, schedule, arch.permute, first, tokens))
            first += stage.depth
        return found

    def step(self, block: int, loop: int) -> int:
        """Which application of the stage applies a block in one of its loops."""
        if self.stage.order == "adjacent":
            return block * self.stage.recursions + loop
        return loop * self.stage.blocks + block

    def slices(self, step: int) -> tuple[object, ...]:
        """What two attentions of equal weights differ by."""
        use = self.schedule[step]
        if not use.permuted:
            return (use.groups,)
        return (use.groups, self.mode, self.first + step if self.mode == "fixed" else None)

    @property
    def sees_values_only(self) -> bool:
        """Whether each slice is one token, so that heads, queries and keys change nothing."""
        return all(groups == self.tokens for groups in self.stage.groups)


def applications(source: Flow, target: Flow) -> tuple[list[int], list[str]]:
    """For every application of the target, the one of the source that it goes on with.

    Others are new, and identities at first where their weights are their own. The function
    stays the same where the source's applications are all there, in order, each on its own
    slices, and where no weights of the target serve two of the source's, or an old and a new
    application. Of three ways to match, the first that manages that is taken: block by block
    and loop by loop; the whole source by the leading blocks; and, where loops share nothing,
    each application by the next that slices alike. Where none does, the one that takes over
    the most units.

    Returns:
        Indices, or ``NEW``; and why the function changes, in sentences, if it does.
    """
    ways = [_by_grid(source, target), _by_leading_blocks(source, target)]
    if target.stage.share == "none":
        ways.append(_by_slices(source, target))
    found = [(way, list(_changes(source, target, way))) for way in ways]
    for way, changes in found:
        if not changes:
            return way, []
    return max(found, key=lambda one: _units_taken(source, target, one[0]))


def _by_grid(source: Flow, target: Flow) -> list[int]:
    way = [NEW] * len(target.schedule)
    for block in range(min(source.stage.blocks, target.stage.blocks)):
        for loop in range(min(source.stage.recursions, target.stage.recursions)):
            way[target.step(block, loop)] = source.step(block, loop)
    return way


def _by_leading_blocks(source: Flow, target: Flow) -> list[int]:
    way = [NEW] * len(target.schedule)
    loops = target.stage.recursions
    blocks = min(-(-len(source.schedule) // loops), target.stage.blocks)
    steps = sorted(target.step(block, loop) for block in range(blocks) for loop in range(loops))
    for old, step in enumerate(steps[: len(source.schedule)]):
        way[step] = old
    return way


def _by_slices(source: Flow, target: Flow) -> list[int]:
    way, old = [NEW] * len(target.schedule), 0
    for step in range(len(way)):
        if old < len(source.schedule) and target.slices(step) == source.slices(old):
            way[step], old = old, old + 1
    return way


def _changes(source: Flow, target: Flow, way: Sequence[int]) -> Iterator[str]:
    """Why the function of a stage changes when its applications are matched so."""
    kept = [old for old in way if old != NEW]
    if len(kept) < len(source.schedule):
        yield f"keeps {len(kept)} of the source's {len(source.schedule)} block applications"
    if kept != sorted(kept):
        yield "the blocks are applied in another order"
    pairs = [(step, old) for step, old in enumerate(way) if old != NEW]
    if any(target.schedule[step].groups != source.schedule[old].groups for step, old in pairs):
        yield "attention is sliced otherwise"
    elif any(target.slices(step) != source.slices(old) for step, old in pairs):
        yield "tokens are permuted otherwise before they are sliced"
    elif "random" in (source.mode, target.mode) and (
        sum(use.permuted for use in source.schedule) != sum(use.permuted for use in target.schedule)
    ):
        yield "other numbers of random permutations are drawn"
    for part in ("attention", "mlp"):
        served: dict[int, set[int]] = {}
        for step, old in enumerate(way):
            unit = NEW if old == NEW else getattr(source.schedule[old], part)
            served.setdefault(getattr(target.schedule[step], part), set()).add(unit)
        name = "MLP" if part == "mlp" else part
        if any(NEW in old and len(old) > 1 for old in served.values()):
            yield f"{name} weights that loops share are applied more often"
        if any(len(old - {NEW}) > 1 for old in served.values()):
            yield f"loops share one set of {name} weights instead of several; the first is taken"


def serving(source: Flow, target: Flow, way: Sequence[int], part: str) -> dict[int, int]:
    """Which unit of the source each unit of the target takes its weights from, or ``NEW``.

    Args:
        source: Stage of the source.
        target: Stage of the target.
        way: As ``applications`` found it.
        part: ``attention``, ``mlp`` or ``nll``.
    """
    units: dict[int, int] = {}
    for step, old in enumerate(way):
        if part == "nll":
            units[step] = old
            continue
        unit = getattr(target.schedule[step], part)
        if units.get(unit, NEW) == NEW:
            units[unit] = NEW if old == NEW else getattr(source.schedule[old], part)
    return units


def _units_taken(source: Flow, target: Flow, way: Sequence[int]) -> int:
    parts = ("attention", "mlp", "nll")
    return sum(len({*serving(source, target, way, part).values()} - {NEW}) for part in parts)
