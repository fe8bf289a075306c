"""Formulas compiled for one architecture.

A formula of this package works on numbers or on columns. Run once on names, it
writes down what it does with them; what it has written is compiled, and does the
same arithmetic in a tenth of the time. There is still one copy of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from sret_nas.cost.shapes import ABSENT, Number, Shape

Formula = Callable[[Shape], Number]


class _Name:
    """A number that is not known yet: what is done with it is written down, each thing once.

    Args:
        text: What it is called.
        lines: Names by their expressions, for all names of a program.
        expression: What it is; empty for an input.
        uses: The names in it.
    """

    def __init__(
        self, text: str, lines: dict[str, _Name], expression: str = "", uses: tuple[Any, ...] = ()
    ) -> None:
        self.text, self.lines, self.expression, self.uses = text, lines, expression, uses

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise TypeError("a formula must not branch on a number: it is to hold for columns too")

    def _write(self, template: str, *numbers: Any) -> _Name:
        expression = template.format(*numbers)
        if expression not in self.lines:
            text, uses = f"x{len(self.lines)}", tuple(n for n in numbers if isinstance(n, _Name))
            self.lines[expression] = _Name(text, self.lines, expression, uses)
        return self.lines[expression]

    def __add__(self, other: Number) -> _Name:
        return self if other == 0 else self._write("{} + {}", self, other)

    def __radd__(self, other: Number) -> _Name:
        return self if other == 0 else self._write("{} + {}", other, self)

    def __sub__(self, other: Number) -> _Name:
        return self._write("{} - {}", self, other)

    def __rsub__(self, other: Number) -> _Name:
        return self._write("{} - {}", other, self)

    def __mul__(self, other: Number) -> _Name:
        return self._write("{} * {}", self, other)

    def __rmul__(self, other: Number) -> _Name:
        return self if other == 1 else self._write("{} * {}", other, self)

    def __floordiv__(self, other: Number) -> _Name:
        return self._write("{} // {}", self, other)

    def __pow__(self, other: Number) -> _Name:
        return self._write("{} ** {}", self, other)

    def __gt__(self, other: Number) -> _Name:
        return self._write("{} > {}", self, other)

    def __array_ufunc__(self, ufunc: Any, method: str, *numbers: Number) -> Any:
        if ufunc is not np.maximum or method != "__call__":
            return NotImplemented
        return self._write("max({}, {})", *numbers)


@functools.cache
def compiled(formula: Formula, stages: int) -> Callable[[Shape], int]:
    """A formula as a program for architectures with so many stages.

    Raises:
        TypeError: it branches on a number, or does with one what is not foreseen here.
    """
    namespace: dict[str, Any] = {}
    exec(source(formula, stages), namespace)  # noqa: S102 (our own formula, as it wrote itself)
    program: Callable[[Shape], int] = namespace["program"]
    return program


def source(formula: Formula, stages: int) -> str:
    """The text of the program."""
    lines: dict[str, _Name] = {}
    numbers = (_Name(f"n{i}", lines) for i in itertools.count())
    shape = Shape(0, 0, 0, 0, (0, 0, 0), (ABSENT,) * stages).map(lambda _: next(numbers))
    result = formula(shape)
    needed: set[_Name] = set()
    todo = [result]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += name.uses
    body = [f"{_pattern(shape)} = shape"]
    body += [f"{name} = {name.expression}" for name in lines.values() if name in needed]
    return "\n    ".join(["def program(shape):", *body, f"return {result}"])


def _pattern(part: Any) -> str:
    """Nested tuples of names as Python writes them to the left of an assignment."""
    return f"({', '.join(map(_pattern, part))},)" if isinstance(part, tuple) else str(part)
