"""An evaluator of somebody else's, its answers checked before anything is built on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, EvaluationError, SretNasError
from sret_nas.evaluate import Evaluation, Evaluator, Progress, Report, Work
from sret_nas.metrics import Declaration

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sret_nas.data import DataSet
    from sret_nas.proxy import Proxy


CALLED = (
    "it is called with (proxy, data, device) and returns a sret_nas.Evaluator; "
    "docs/extending.md has an example"
)


def adopted(
    name: str,
    code: Callable[..., Any],
    proxy: Proxy,
    data: DataSet,
    device: torch.device | None,
) -> Evaluator:
    """Let somebody else's code make an evaluator, and hold it to what it declares.

    Args:
        name: What it is called.
        code: Makes it.
        proxy: At what scale and for how long.
        data: On what.
        device: Where.

    Raises:
        ConfigError: it cannot, or makes something else.
    """
    try:
        made = code(proxy, data, device)
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

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """The same, from where it was ended."""
        run = functools.partial(self.evaluator.resume, folder=folder)
        return self._hold(run, arch, seed, report)

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
