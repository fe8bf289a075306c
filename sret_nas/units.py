"""Quantities and budgets as people write them: ``4GFLOPs``, ``5M params``, ``2ms@32``, ``1GiB``.

Requires nothing. Counts are exact: ``1.2G`` is 1,200,000,000.

Convention: the vision literature's "FLOPs" are multiply-adds, so 1 FLOP of a
budget is 1 multiply-add; every output says MACs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from sret_nas.errors import BudgetError, Problem, UsageError

DURATIONS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
"""Seconds of each unit of time."""
SI = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30}
UNITS = {
    **dict.fromkeys(("flop", "flops", "mac", "macs"), "macs"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "params"),
    **dict.fromkeys(("b", "byte", "bytes"), "peak_bytes"),
    "ms": "latency_ms",
}
"""Metric of every unit, in lower case."""

FORMS = (
    "4GMACs or 4GFLOPs (multiply-adds), 5Mparams, 500MB or 1GiB (peak memory), "
    "2ms or 2ms@32 (latency of a batch); prefixes K, M, G, T, for bytes also Ki, Mi, Gi"
)
"""The accepted forms, as an error lists them."""

MOST = 10**24
"""A number from here on is a slip of the pen."""

MAX_BATCH = 1_000_000

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,4})?|[+-]?(?:nan|inf(?:inity)?))"
    r"\s*(?P<unit>[a-z]*(?:\s+[a-z]+)?)\s*(?:@\s*(?P<batch>\S*))?",
    re.IGNORECASE | re.ASCII,
)

PLAIN = {"macs": "MACs", "params": "params", "peak_bytes": "B", "latency_ms": "ms"}
"""The unit of each metric without a prefix."""


@dataclass(frozen=True)
class Budget:
    """An upper bound on one metric of the target architecture.

    Attributes:
        metric: ``macs``, ``params``, ``peak_bytes`` or ``latency_ms``.
        limit: The largest value allowed; a whole number but for ``latency_ms``.
        batch: Images at once, where the metric is ``latency_ms``; else 1.
        text: As it was written.
    """

    metric: str
    limit: int | float
    batch: int = 1
    text: str = ""

    @property
    def key(self) -> str:
        """The metric, with the batch where there is more than one image: ``latency_ms@32``."""
        return self.metric if self.batch == 1 else f"{self.metric}@{self.batch}"

    def __str__(self) -> str:
        shown = format_quantity(self.metric, self.limit)
        return shown if self.batch == 1 else f"{shown}@{self.batch}"

    @property
    def exact(self) -> str:
        """The bound with every digit, however it was written; ``parse`` reads it again."""
        shown = format_quantity(self.metric, self.limit)
        if "," in shown or _parse(shown).limit != self.limit:
            shown = f"{self.limit!r} {PLAIN[self.metric]}"
        return shown if self.batch == 1 else f"{shown}@{self.batch}"

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read one bound.

        Example:
            >>> Budget.parse("1.2GFLOPs").limit
            1200000000

        Raises:
            BudgetError: no unit, an unknown one, or a number that bounds nothing.
        """
        return _parse(text)


def parse_budgets(budgets: Iterable[Budget | str]) -> tuple[Budget, ...]:
    """Read several bounds that hold at once.

    Raises:
        BudgetError: with everything that is wrong, or one metric bounded twice.
    """
    if isinstance(budgets, str):
        budgets = [budgets]
    read: dict[str, Budget] = {}
    wrong: list[Problem] = []
    for text in budgets:
        try:
            budget = text if isinstance(text, Budget) else _parse(text)
        except BudgetError as error:
            wrong += error.problems
            continue
        other = read.setdefault(budget.key, budget)
        if other is not budget:
            wrong.append(
                Problem(
                    (),
                    f"budget '{budget.text or budget}': {budget.key} is bounded by "
                    f"'{other.text or other}' already; allowed: one bound for each",
                )
            )
    if wrong:
        raise BudgetError(wrong, f"accepted: {FORMS}")
    return tuple(read.values())


def as_mapping(budgets: Iterable[Budget]) -> Mapping[str, int | float]:
    """Limits by ``Budget.key``, such as ``latency_ms@32``, as machine formats print them."""
    return {budget.key: budget.limit for budget in budgets}


def _parse(text: str) -> Budget:
    def wrong(message: str) -> BudgetError:
        return BudgetError(f"budget '{text}': {message}", f"accepted: {FORMS}")

    if not isinstance(text, str):
        raise wrong(f"given a {type(text).__name__}; allowed: text")
    found = _QUANTITY.fullmatch(text.strip()) if len(text) <= 64 else None
    if found is None:
        raise wrong("given no number with a unit; allowed: e.g. 4GMACs")
    prefix, metric = _unit(found["unit"].lower())
    if metric is None:
        raise wrong(
            f"unknown unit '{found['unit']}'; allowed: MACs, FLOPs, params, B, ms"
            if found["unit"] and found["unit"].lower() not in SI | BINARY
            else "no unit; allowed: MACs, FLOPs, params, B, ms"
        )
    number = Decimal(found["number"])
    if not number.is_finite() or number <= 0:
        raise wrong(f"given {found['number']}; allowed: a finite number more than 0")
    with localcontext() as context:
        context.prec = 100
        number *= prefix
    if number >= MOST:
        raise wrong(f"given {number:.3g}; allowed: less than {MOST:.0e}")
    batch = 1
    if found["batch"] is not None:
        if metric != "latency_ms":
            raise wrong("given a batch size; allowed: only after ms, as in 2ms@32")
        batch = int(found["batch"]) if re.fullmatch(r"[0-9]{1,7}", found["batch"]) else 0
        if not 1 <= batch <= MAX_BATCH:
            raise wrong(f"given the batch size '{found['batch']}'; allowed: 1 to {MAX_BATCH:,}")
    if metric == "latency_ms":
        limit = float(number)
        if not limit:
            raise wrong(f"given {found['number']}; allowed: more than 0")
        return Budget(metric, limit, batch, text.strip())
    if number < 1:
        raise wrong(f"given {number.normalize()}; allowed: at least 1")
    return Budget(metric, int(number), batch, text.strip())


def _unit(text: str) -> tuple[int, str | None]:
    """The factor of the prefix and the metric; ``None`` where there is no such unit."""
    for prefix, factor in (SI | BINARY).items():
        metric = UNITS.get(text.removeprefix(prefix).strip()) if text.startswith(prefix) else None
        if metric is None or (metric == "latency_ms" and prefix):
            continue
        if prefix in SI or metric == "peak_bytes":
            return factor, metric
    return 1, None


def format_quantity(metric: str, value: float) -> str:
    """A value for people, in three digits: ``1.11G MACs``, ``4.76M params``, ``20.5 MB``, ``2 ms``.

    Args:
        metric: ``macs``, ``params``, ``peak_bytes``, ``latency_ms``, or any other
            name, which follows the number as it is.
        value: In the unit of the metric.
    """
    if metric == "latency_ms":
        return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"
    scaled, prefix = _scaled(value)
    if metric.endswith("bytes"):
        return f"{scaled} {prefix}B"
    return f"{scaled}{prefix} {'MACs' if metric == 'macs' else metric}"


def format_count(value: float) -> str:
    """A count in three digits with its prefix and no unit: ``4.76M``."""
    return "".join(_scaled(value))


def _scaled(value: float) -> tuple[str, str]:
    for prefix, factor in (("", 1), ("K", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        shown = f"{value / factor:.3g}"
        if abs(float(shown)) < 1000 or prefix == "T":
            # Without trailing exponent: a count past 1000T keeps all its digits.
            return (shown if "e" not in shown else f"{value / factor:,.0f}"), prefix
    raise AssertionError("unreachable")


def parse_duration(written: float | str) -> float:
    """A time in seconds, from a number of them or as people write it.

    Example:
        >>> parse_duration("30m"), parse_duration(90)
        (1800.0, 90)

    Raises:
        UsageError: it is none, or not more than 0.
    """
    if not isinstance(written, str):
        return written
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", written.lower())
    if not match or match[2] not in DURATIONS or not float(match[1]):
        raise UsageError(f"--timeout: given '{written}'; allowed: e.g. 90s, 30m, 2h")
    return float(match[1]) * DURATIONS[match[2]]
