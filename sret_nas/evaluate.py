"""``Evaluator``: from an architecture to what is found of it; who satisfies it, by name.

A new one is a file in ``evaluators/`` and a line in ``EVALUATORS`` (docs/extending.md); one
outside this package is named as ``module:name``, or registered as an entry point of the group
``sret_nas.evaluators``. No torch here: each is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, EvaluationError, SretNasError, UsageError
from sret_nas.files import nearest
from sret_nas.metrics import Declaration
from sret_nas.usercode import Allow, Code

if TYPE_CHECKING:
    import torch

    from sret_nas.data import DataSet
    from sret_nas.proxy import Proxy

PROXY = "proxy"
EVALUATORS = {
    PROXY: "sret_nas.evaluators.proxy:ProxyEvaluator",
    "dss": "sret_nas.evaluators.training_free:DSSEvaluator",
    "params": "sret_nas.evaluators.training_free:ParamsEvaluator",
}
"""By name; each is called with a proxy, the data and a device."""
GROUP = "sret_nas.evaluators"
"""Entry points by which other packages register theirs."""


@dataclass(frozen=True)
class Progress:
    """What is known of an evaluation after a step.

    Attributes:
        step: From 1.
        metrics: By name, declared as ``metrics`` and ``progress``.
        seconds: Of this step alone.
        images: Images seen in it.
    """

    step: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    images: int = 0


Report: TypeAlias = Callable[[Progress], bool]
"""Called after each step; ``False`` ends the evaluation there."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        metrics: By name, those that are declared.
        seconds: Wall time of it all.
        curve: Every step; empty where the evaluator has none.
        tests: What was found on test images, by name: of a confirmation that went to the
            end, where there are any.
        why_eager: Why it ran one operation at a time on a device where whole steps can be
            recorded; ``None`` where they were, and on other devices.
    """

    metrics: Mapping[str, float]
    seconds: float
    curve: tuple[Progress, ...] = ()
    tests: Mapping[str, float] = field(default_factory=dict)
    why_eager: str | None = None

    @property
    def step(self) -> int:
        """Steps done; 0 without steps."""
        return self.curve[-1].step if self.curve else 0


@dataclass(frozen=True)
class Work:
    """What an evaluation costs.

    Attributes:
        amount: Of one evaluation to the end.
        unit: Of the amount, e.g. ``training images``.
        per_second: What is done of it in a second, in this process.
    """

    amount: float
    unit: str
    per_second: float


class Evaluator(ABC):
    """Evaluates architectures. Equal architecture and seed: equal results, times aside.

    On a GPU, up to what its kernels leave open (docs/gpu.md).
    """

    @property
    @abstractmethod
    def declaration(self) -> Declaration:
        """What it finds, at which fidelities, and whether the seed matters."""

    @abstractmethod
    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Evaluate; never touches test images.

        Args:
            arch: The target architecture; the evaluator brings it to its own scale.
            seed: Of everything random.
            report: Called after each step; ``False`` ends the evaluation there.
                What it raises passes through.

        Raises:
            ArchitectureError: it does not exist at the evaluator's scale.
            EvaluationError: it cannot be evaluated, with the reason.
        """

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """The same for a member of the front: where it goes to the end, test images too."""
        return self.evaluate(arch, seed=seed, report=report)

    def fits(self, arch: Architecture) -> object:
        """Check that an architecture exists at the evaluator's scale; default: all do.

        Raises:
            ArchitectureError: it does not, with the reason.
        """
        return None

    def work(self, arch: Architecture) -> Work:
        """What evaluating an architecture costs, measured; default: by evaluating it once."""
        start = time.perf_counter()
        self.evaluate(arch)
        return Work(1, "evaluations", 1 / max(time.perf_counter() - start, 1e-9))


Make: TypeAlias = "Callable[[Proxy, DataSet, torch.device | None], Evaluator]"
"""Makes an evaluator: at what scale and for how long, on which data, on which device."""


def registered() -> dict[str, str]:
    """What a name stands for, as ``module:name``: ours, then those of other packages."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | EVALUATORS


def is_own(name: str) -> bool:
    """Whether an evaluator is one of this package, so that its code needs no leave."""
    return name in EVALUATORS


def code_of(name: str, folder: Path | None = None) -> Code:
    """The code of an evaluator.

    Args:
        name: Registered, or ``module:name``.
        folder: Where the module is looked for first.

    Raises:
        UsageError: there is none of that name.
    """
    known = registered()
    if name in known:
        return Code(known[name], "evaluator")
    module, colon, function = name.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return Code(name, "evaluator", folder, "into the current folder")
    guess = nearest(name, list(known))
    raise UsageError(
        f"evaluator: given '{name}'" + (f"; did you mean '{guess}'?" if guess else ""),
        f"allowed: {', '.join(known)}, or module:name",
    )


def load(
    name: str, folder: Path | None = None, allow: Allow = False, expected: str | None = None
) -> Make:
    """What makes the evaluator of a name.

    Args:
        name: Registered, or ``module:name``.
        folder: Where the module is looked for first.
        allow: Whether code that is not of this package may run.
        expected: What the ``digest`` of its module must be; ``None``: anything.

    Raises:
        UsageError: there is none of that name.
        ConfigError: its module is not there, fails, has another content or may not run.
    """
    if is_own(name):
        module, _, kind = EVALUATORS[name].partition(":")
        own: Make = getattr(importlib.import_module(module), kind)
        return own
    found = code_of(name, folder).load(allow, expected)

    def make(proxy: Proxy, data: DataSet, device: torch.device | None) -> Evaluator:
        try:
            made = found(proxy, data, device)
            if not isinstance(made, Evaluator):
                raise ConfigError(f"returned {_a(made)}", CALLED)
            return Checked(name, made)
        except ConfigError as error:
            said = "; ".join(str(error).splitlines())
            raise ConfigError(f"evaluator '{name}': {said}", error.hint) from error
        except SretNasError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"evaluator '{name}': {_brief(error)}", CALLED) from error

    return make


CALLED = (
    "it is called with (proxy, data, device) and returns a sret_nas.Evaluator; "
    "docs/extending.md has an example"
)


def _text(error: BaseException) -> str:
    """What an exception says, in a line."""
    return (str(error).strip().splitlines() or ["without a word"])[0]


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text(error)}"


class Checked(Evaluator):
    """An evaluator of somebody else's, held to what it declares.

    Args:
        name: What it is called.
        evaluator: Does the work.

    Raises:
        ConfigError: it declares what cannot be.
    """

    def __init__(self, name: str, evaluator: Evaluator) -> None:
        self.name = name
        self.evaluator = evaluator
        self._declaration = evaluator.declaration
        if not isinstance(self._declaration, Declaration):
            raise ConfigError("its declaration is no Declaration", CALLED)

    @property
    def declaration(self) -> Declaration:
        """What the other declares."""
        return self._declaration

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Evaluate.

        Raises:
            ConfigError: what comes back is not what was declared.
            EvaluationError: it fails on this architecture, or finds no finite number.
        """
        return self._hold(self.evaluator.evaluate, arch, seed, report)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """The same, with test images."""
        return self._hold(self.evaluator.confirm, arch, seed, report)

    def fits(self, arch: Architecture) -> object:
        """Whether the other can evaluate an architecture.

        Raises:
            ConfigError: it fails otherwise than by saying that it cannot.
        """
        try:
            return self.evaluator.fits(arch)
        except SretNasError:
            raise
        except (Exception, SystemExit) as error:
            raise self._wrong(f"fits: {_brief(error)}") from error

    def work(self, arch: Architecture) -> Work:
        """What the other says that it costs.

        Raises:
            EvaluationError: it fails on this architecture.
        """
        try:
            return self.evaluator.work(arch)
        except SretNasError:
            raise
        except (Exception, SystemExit) as error:
            raise _RaisedError(error) from error

    def _hold(
        self,
        run: Callable[..., Evaluation],
        arch: Architecture,
        seed: int,
        report: Report | None,
    ) -> Evaluation:
        passed: list[BaseException] = []
        ended: list[int] = []
        declared = self.declaration
        names = [metric.name for metric in declared.metrics]
        beside = [metric.name for metric in declared.progress]

        def heed(progress: Progress) -> bool:
            try:
                step = self._step(progress, [*beside, *names])
                go_on = report is None or report(step)
            except BaseException as error:
                passed.append(error)
                raise
            if not go_on:
                ended.append(step.step)
            return go_on

        try:
            found = run(arch, seed=seed, report=heed)
        except (Exception, SystemExit) as error:
            if error in passed or isinstance(error, SretNasError):
                raise
            raise _RaisedError(error) from error
        if not isinstance(found, Evaluation):
            raise self._wrong(f"returned {_a(found)}, not an Evaluation")
        curve = tuple(self._step(step, [*beside, *names]) for step in found.curve)
        steps = [step.step for step in curve]
        if steps != list(range(1, len(steps) + 1)):
            raise self._wrong("its curve does not have each step from 1")
        stopped = bool(ended) and steps[-1:] == ended[-1:]
        if len(steps) != declared.full and not stopped:
            declares = f"declared: {declared.full}" if declared.step else "none are declared"
            raise self._wrong(f"its curve has {len(steps)} steps; {declares}")
        return replace(
            found,
            metrics=self._numbers("its result", found.metrics, names),
            seconds=self._seconds("its result", found.seconds),
            curve=curve,
        )

    def _step(self, step: object, names: list[str]) -> Progress:
        if not isinstance(step, Progress):
            raise self._wrong(f"a step is {_a(step)}, not a Progress")
        where = f"step {step.step}"
        metrics = self._numbers(where, step.metrics, names)
        return replace(step, metrics=metrics, seconds=self._seconds(where, step.seconds))

    def _numbers(self, where: str, metrics: object, names: list[str]) -> dict[str, float]:
        """Metrics as plain numbers, those of NumPy among them, in the declared order."""
        if not isinstance(metrics, Mapping):
            raise self._wrong(f"{where}: metrics are {_a(metrics)}, not a mapping")
        if set(metrics) != set(names):
            given = ", ".join(sorted(map(str, metrics))) or "nothing"
            raise self._wrong(f"{where} has {given}; declared: {', '.join(names)}")
        return {name: self._number(f"{where}: {name}", metrics[name]) for name in names}

    def _number(self, what: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise self._wrong(f"{what} is {_a(value)}, not a number: float(…) makes one")
        if not math.isfinite(value):
            raise _NotFiniteError(f"{what} is {value}")
        return float(value)

    def _seconds(self, where: str, seconds: object) -> float:
        if not isinstance(seconds, Real) or not 0 <= float(seconds) < math.inf:
            raise self._wrong(f"{where}: given seconds={seconds!r}; allowed: a number from 0 on")
        return float(seconds)

    def _wrong(self, why: str) -> ConfigError:
        hint = "correct it; with another module it is another run, so choose another --out"
        return ConfigError(f"evaluator '{self.name}': {why}", hint)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


class _NotFiniteError(EvaluationError):
    reason = "not finite"


class _RaisedError(EvaluationError):
    """Whatever the code of an evaluator raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(_text(error))
        self.reason = type(error).__name__
