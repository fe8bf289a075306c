"""One exception family. Every error a user can cause is a ``SretNasError``.

The command line turns one into a single line, a hint and an exit code; a
script catches ``SretNasError``, or the child it can do something about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SretNasError(Exception):
    """Root of the family: something went wrong while running.

    Args:
        message: What is wrong, where, and what is allowed; one line.
        hint: The next step, or ``None``.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SretNasError):
    """A wrong argument, option or environment; the command exits with 2."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in something a person wrote.

    Attributes:
        path: Keys and indices that lead to the value, e.g. ``("stages", 1, "groups")``.
        message: What was given and what is allowed.
    """

    path: tuple[str | int, ...]
    message: str

    @property
    def where(self) -> str:
        """The path as a person says it: ``stage 2 groups`` (stages count from 1)."""
        words: list[str] = []
        for key in self.path:
            if isinstance(key, int):
                last = words[-1] if words else "item"
                words[-1:] = [f"{_one(last)} {key + 1}"]
            else:
                words.append(key)
        return " ".join(words)


def _one(words: str) -> str:
    """Of several things, what one is called."""
    if words.endswith("ies"):
        return f"{words.removesuffix('ies')}y"
    return words if words.endswith("ss") else words.removesuffix("s")


class ConfigError(SretNasError):
    """A file, mapping or name that does not say something possible.

    Attributes:
        problems: Everything that is wrong, in the order of the file.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[Problem], hint: str | None = None) -> None:
        if isinstance(problems, str):
            problems = [Problem((), problems)]
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(f"{p.where}: {p.message}" if p.path else p.message for p in self.problems),
            hint,
        )


class ArchitectureError(ConfigError):
    """An architecture that cannot be built, with all that is wrong in it."""


class BudgetError(ConfigError):
    """A budget that does not say what it bounds, or says the impossible."""


class InfeasibleError(SretNasError):
    """Nothing satisfies the budget; the command exits with 3."""

    exit_code = 3


class EvaluationError(SretNasError):
    """A candidate that cannot be evaluated; others may still be.

    Attributes:
        reason: Why, in a word or two, for tables.
    """

    reason = "failed"


class TrainingError(EvaluationError):
    """A training that came to nothing; others may still succeed."""
