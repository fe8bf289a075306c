"""``SearchSpace``: a file of choices as encodings, architectures and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sret_nas import files, zoo
from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, UsageError
from sret_nas.latency import bounds
from sret_nas.latency.bounds import Clock
from sret_nas.space import budget, encoding, transform
from sret_nas.space.bundled import bundled
from sret_nas.space.coding import Codes, Coding
from sret_nas.space.dimensions import Dimension, Value
from sret_nas.space.encodings import Encodings
from sret_nas.space.frames import METRICS, Frames
from sret_nas.space.grammar import SpaceFile
from sret_nas.space.sampling import Draws
from sret_nas.space.size import Count, count_distinct
from sret_nas.units import Budget, parse_budgets
from sret_nas.usercode import Allow

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

Encoding = tuple[int, ...]
"""One small integer per coordinate: the number of its choice."""


def is_space(source: str) -> bool:
    """Whether a name or a file is a search space, possibly with mistakes in it."""
    if source in bundled():
        return True
    try:
        data, _ = files.read(Path(source))
        if isinstance(data, Mapping) and {"all_stages", "each_stage"} & set(data):
            return True
        SpaceFile.model_validate(data)
    except ConfigError:
        return False
    return True


def _is_architecture(path: Path) -> bool:
    try:
        Architecture.load(path)
    except ConfigError:
        return False
    return True


def _mistaken(source: str) -> ConfigError:
    return ConfigError(
        f"{source}: an architecture, not a search space", f"sret-nas profile {source}"
    )


class SearchSpace:
    """Choices for every field of an architecture.

    Args:
        file: The file as it was read.
        folder: Where it lies; a callable's module is looked for there first.
        allow_code: Whether a callable's module may run; a function is told of it first.
        code: What the module's hash must be; ``None``: anything.

    Attributes:
        file: The file as it was read.
        name: Its name.
        description: For whom it is.
        coding: Between encodings and architectures; for arrays of them.
        encodings: Arrays of encodings as architectures and costs.
        folder: Where it lies.

    Raises:
        ConfigError: the callable may not run, cannot be loaded, or fails on some
            architecture.
    """

    def __init__(
        self,
        file: SpaceFile,
        folder: Path | None = None,
        allow_code: Allow = False,
        code: str | None = None,
    ) -> None:
        self.file = file
        self.name = file.name
        self.description = file.description
        self.coding = Coding(file.reading.top, file.reading.stages)
        self.folder = folder
        changes = None
        if file.callable:
            changes = transform.code(file.callable, folder).load(allow_code, code)
        self.encodings = Encodings(self.coding, changes, file.callable)
        if changes is not None:
            self.decode_many(self.coding.random_codes(16, np.random.default_rng(0)))

    @classmethod
    def load(
        cls,
        source: SearchSpace | str | Path | Mapping[str, Any],
        allow_code: Allow = False,
    ) -> SearchSpace:
        """A space from the name of a bundled one, a YAML or JSON file, or a mapping.

        Example:
            >>> SearchSpace.load("smoke").name
            'smoke'

        Args:
            source: Which.
            allow_code: Whether the module of a ``callable`` may run; a function is told
                of it before.

        Raises:
            ConfigError: no such space, or what the file says is impossible; with the
                line, the field, what was given and what is allowed.
        """
        if isinstance(source, SearchSpace):
            return source
        if isinstance(source, Mapping):
            return cls(SpaceFile.model_validate(dict(source)), allow_code=allow_code)
        known = bundled()
        path = known.get(source, Path(source)) if isinstance(source, str) else Path(source)
        if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
            try:
                file = files.load(SpaceFile, path)
            except ConfigError as error:
                if _is_architecture(path):
                    raise _mistaken(str(path)) from error
                raise
            if "name" not in file.model_fields_set:
                file = file.model_copy(update={"name": path.stem})
            return cls(file, path.parent, allow_code)
        if source in zoo.PRESETS:
            raise _mistaken(str(source))
        guess = files.nearest(str(source), list(known))
        raise ConfigError(
            f"'{source}' is neither a bundled search space nor a file"
            + (f"; did you mean '{guess}'?" if guess else ""),
            f"bundled: {', '.join(known)}; a file ends in .yaml or .json",
        )

    @property
    def coordinates(self) -> tuple[Dimension, ...]:
        """What an encoding chooses, in order: the dimensions with more than one choice."""
        return self.coding.coordinates

    def choices(self, field: str) -> tuple[Value, ...]:
        """The choices of a field of the architecture, e.g. ``image_size``; numbers ascending."""
        return self.coding.top[field].choices

    @property
    def transform(self) -> transform.Transform | None:
        """The callable that changes every architecture, or ``None``."""
        return self.encodings.transform

    @property
    def size(self) -> int:
        """Encodings, exactly."""
        return self.encodings.size

    @cached_property
    def distinct(self) -> Count:
        """Architectures that differ by ``id``: exact where countable, else an interval."""
        return count_distinct(self.encodings)

    # -- encodings ---------------------------------------------------------------------------

    def decode(self, encoding: Sequence[int]) -> Architecture:
        """The architecture of an encoding; every encoding has one.

        What cannot hold together is repaired, always alike: see ``widths`` for
        widths; a group count that does not divide the tokens becomes the nearest
        that does (``Architecture.at``); groups of loops not there are ignored.

        Raises:
            UsageError: not an encoding of this space.
        """
        counts = [len(d.choices) for d in self.coordinates]
        if len(encoding) != len(counts):
            raise UsageError(
                f"encoding of {len(encoding)} integers; allowed in '{self.name}': {len(counts)}"
            )
        for d, number in zip(self.coordinates, encoding, strict=True):
            if not 0 <= number < len(d.choices):
                raise UsageError(
                    f"encoding: given {number} for {d.name}; allowed: 0 to {len(d.choices) - 1}"
                )
        return self.decode_many(self.coding.array([encoding]))[0]

    def decode_many(self, codes: Codes) -> list[Architecture]:
        """The architectures of an array of encodings, (n, coordinates)."""
        return self.encodings.decode_many(codes)

    def encode(self, arch: Architecture) -> Encoding:
        """An encoding that decodes to an architecture of the same ``id``.

        With a callable, one is found where the callable leaves the architecture as
        it is, or in a space of up to ``transform.MOST_LISTED`` encodings.

        Raises:
            UsageError: the architecture is not in the space, or none is found.
        """
        found = self._encode(arch)
        if found is None:
            raise UsageError(f"architecture {arch.id} is not in space '{self.name}'")
        return found

    def _encode(self, arch: Architecture) -> Encoding | None:
        found = encoding.encode(self.coding, arch)
        if self.transform is None:
            return found
        if found is not None and self.decode(found).id == arch.id:
            return found
        if self.size <= transform.MOST_LISTED:
            codes = self.coding.all_codes(0, self.size)
            for row, other in zip(codes.tolist(), self.decode_many(codes), strict=True):
                if other.id == arch.id:
                    return tuple(row)
        return None

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Architecture) and self._encode(arch) is not None

    def neighbours(self, encoding: Sequence[int]) -> list[Encoding]:
        """Encodings one choice away whose architectures differ from it and from each other.

        A number moves to the next smaller and the next larger choice; a word to
        every other.
        """
        ids = {self.decode(encoding).id}
        moves: list[list[int]] = []
        for j, d in enumerate(self.coordinates):
            here = int(encoding[j])
            numbers = (here - 1, here + 1) if d.ordered else range(len(d.choices))
            steps = [k for k in numbers if k != here and 0 <= k < len(d.choices)]
            moves += [[*encoding[:j], k, *encoding[j + 1 :]] for k in steps]
        found: list[Encoding] = []
        for move, arch in zip(moves, self.decode_many(self.coding.array(moves)), strict=True):
            if arch.id not in ids:
                ids.add(arch.id)
                found.append(tuple(map(int, move)))
        return found

    # -- Optuna ------------------------------------------------------------------------------

    def suggest(self, trial: BaseTrial) -> Architecture:
        """Ask a trial for every coordinate, by name; store on it what was really built.

        The distributions are fixed. Evenly spaced numbers are ranges, so that a
        sampler knows their order; everything else is categorical.
        """
        params: dict[str, Any] = {}
        for d in self.coordinates:
            match _spacing(d):
                case int() as step:
                    low, high = int(d.choices[0]), int(d.choices[-1])
                    params[d.name] = trial.suggest_int(d.name, low, high, step=step)
                case float() as step:
                    low_f, high_f = float(d.choices[0]), float(d.choices[-1])
                    params[d.name] = trial.suggest_float(d.name, low_f, high_f, step=step)
                case None:
                    params[d.name] = trial.suggest_categorical(d.name, d.choices)
        arch = self.decode(self.from_params(params))
        store(trial, arch)
        return arch

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What ``suggest`` asks for, as Optuna's distributions."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        found: dict[str, BaseDistribution] = {}
        for d in self.coordinates:
            match _spacing(d):
                case int() as step:
                    found[d.name] = IntDistribution(
                        int(d.choices[0]), int(d.choices[-1]), step=step
                    )
                case float() as step:
                    low, high = float(d.choices[0]), float(d.choices[-1])
                    found[d.name] = FloatDistribution(low, high, step=step)
                case None:
                    found[d.name] = CategoricalDistribution(d.choices)
        return found

    def params(self, encoding: Sequence[int]) -> dict[str, Value]:
        """Parameters of a trial, by name, for ``study.enqueue_trial``."""
        return {d.name: d.choices[k] for d, k in zip(self.coordinates, encoding, strict=True)}

    def from_params(self, params: Mapping[str, Any]) -> Encoding:
        """The encoding of a trial's parameters.

        Raises:
            UsageError: a parameter is missing or is none of its choices.
        """
        return tuple(_number(d, params.get(d.name)) for d in self.coordinates)

    # -- costs -------------------------------------------------------------------------------

    def costs(self, codes: Codes, quantities: Sequence[str] = METRICS) -> dict[str, NDArray[Any]]:
        """Costs of an array of encodings as int64 columns, by the formulas of ``cost``."""
        return self.encodings.costs(codes, quantities)

    def cost_table(
        self, n: int, seed: int, quantities: Sequence[str] = METRICS
    ) -> dict[str, NDArray[Any]]:
        """Costs of ``n`` encodings drawn uniformly, as int64 columns.

        Args:
            n: Rows.
            seed: Of the draw; the same rows come from the same seed.
            quantities: Names from ``cost.QUANTITIES``; with ``encoding``, also the
                encodings themselves, (n, coordinates).
        """
        rng = np.random.default_rng(seed)
        codes = self.coding.random_codes(n, rng)
        costs = self.costs(codes, [name for name in quantities if name != "encoding"])
        return costs | ({"encoding": codes} if "encoding" in quantities else {})

    @cached_property
    def lightest(self) -> Frames:
        """Few architectures among which every metric's smallest value is, under any bounds."""
        return budget.lightest(self.encodings)

    @cached_property
    def extremes(self) -> dict[str, budget.Extreme]:
        """Exact smallest and largest ``macs``, ``params``, ``peak_bytes``; and who has them."""
        return budget.find_extremes(self.encodings)

    def fitted(self, *, num_classes: int, in_chans: int) -> SearchSpace:
        """The same space for certain data, where its file names no other classes and channels.

        Example:
            >>> SearchSpace.load("sret").fitted(num_classes=10, in_chans=1).sample(1)[0].num_classes
            10

        Args:
            num_classes: Classes of the data.
            in_chans: Channels of the data.
        """
        file = self.file.fitted(num_classes=num_classes, in_chans=in_chans)
        return SearchSpace(file, self.folder, allow_code=self.transform is not None)

    # -- budgets -----------------------------------------------------------------------------

    def examine(self, budgets: Iterable[Budget | str]) -> tuple[budget.Bound, ...]:
        """Every bound on macs, params or memory against the space, computed.

        Raises:
            BudgetError: not a budget.
            BudgetInfeasible: nothing satisfies all bounds; with the smallest value for
                each, the architecture that reaches it, and which is the tightest.
        """
        return budget.examine(self.name, self.lightest, self.extremes, parse_budgets(budgets))

    def draws(
        self,
        seed: int,
        budgets: Iterable[Budget | str] = (),
        clock: Clock | None = None,
    ) -> Iterable[Architecture]:
        """Distinct architectures that satisfy all bounds, until the space holds no more.

        Args:
            seed: The same seed gives the same architectures.
            budgets: Bounds; an architecture satisfies a bound on latency where the
                latency and its margin stay below it.
            clock: Tells latencies; needed for a bound in ms. See ``latency.clock``.

        Raises:
            BudgetInfeasible: nothing satisfies the bounds.
        """
        read = parse_budgets(budgets)
        self.examine(read)
        limits = {b.metric: b.limit for b in read if b.metric in METRICS}
        timed = [b for b in read if b.metric not in METRICS]
        found = Draws(self.encodings, limits, np.random.default_rng(seed))
        return bounds.satisfying(found, timed, clock, self.name) if timed else found

    def sample(
        self,
        n: int,
        seed: int,
        budgets: Iterable[Budget | str] = (),
        clock: Clock | None = None,
    ) -> list[Architecture]:
        """``n`` distinct architectures that satisfy all bounds; arguments as in ``draws``.

        Fewer only where the space holds fewer. ``sampling`` says how they are
        distributed: uniformly over feasible encodings where those are not rare.
        """
        return list(itertools.islice(self.draws(seed, budgets, clock), n))


def store(trial: BaseTrial, arch: Architecture) -> None:
    """Write on a trial what was really built: attributes ``architecture`` and ``id``."""
    trial.set_user_attr("architecture", arch.to_dict())
    trial.set_user_attr("id", arch.id)


def _spacing(d: Dimension) -> int | float | None:
    """The step of evenly spaced numbers; ``None`` for anything else."""
    if not d.ordered:
        return None
    # In decimals, as Optuna steps, so that the last choice is reached exactly.
    numbers = [Decimal(str(x)) for x in d.choices]
    step = numbers[1] - numbers[0]
    if any(x != numbers[0] + k * step for k, x in enumerate(numbers)):
        return None
    return int(step) if isinstance(d.choices[0], int) else float(step)


def _number(d: Dimension, value: Any) -> int:
    if isinstance(value, float) and _spacing(d) is not None:
        near = [k for k, c in enumerate(d.choices) if math.isclose(float(c), value, abs_tol=1e-9)]
        if near:
            return near[0]
    for k, choice in enumerate(d.choices):
        if type(choice) is type(value) and choice == value:
            return k
    raise UsageError(
        f"parameter {d.name}: given {value!r}; allowed: {', '.join(map(str, d.choices))}"
    )
