"""What a search optimises: metrics by name, those that are found and those that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sret_nas.errors import UsageError
from sret_nas.files import nearest
from sret_nas.metrics import COSTS, MACS, Declaration, Metric


def quality(objectives: Sequence[Metric]) -> Metric:
    """The one that is found by evaluating."""
    (found,) = [objective for objective in objectives if not objective.known]
    return found


def costs(objectives: Sequence[Metric]) -> list[Metric]:
    """The others, in the run's order; MACs where quality alone is sought."""
    return [objective for objective in objectives if objective.known] or [MACS]


def default(declared: Declaration) -> tuple[str, ...]:
    """What is optimised where nothing is said: what the evaluator names first, and MACs."""
    return declared.quality.name, MACS.name


def parse(names: Sequence[str], declared: Declaration) -> tuple[Metric, ...]:
    """Objectives by name or alias, e.g. ``loss``, ``accuracy``, ``latency``, ``memory``.

    Args:
        names: As given.
        declared: What the evaluator finds.

    Raises:
        UsageError: unknown, twice, or not exactly one that the evaluator finds.
    """
    allowed = [*declared.metrics, *COSTS]
    by_word = {word: metric for metric in allowed for word in _words(metric)}
    known = [metric.name for metric in allowed] + [m.alias for m in allowed if m.alias]
    found: list[Metric] = []
    for name in names:
        if name not in by_word:
            guess = nearest(name, known)
            raise UsageError(
                f"objectives: given '{name}'" + (f"; did you mean '{guess}'?" if guess else ""),
                f"allowed: {', '.join(known)}",
            )
        if by_word[name] in found:
            raise UsageError(f"objectives: '{name}' is given twice")
        found.append(by_word[name])
    if sum(not objective.known for objective in found) != 1:
        evaluated = " or ".join(metric.name for metric in declared.metrics)
        first = declared.quality.alias or declared.quality.name
        what = "trained" if declared.trains else "evaluated"
        raise UsageError(
            f"objectives: exactly one of them must be {what}, {evaluated}; "
            f"given {', '.join(names) or 'none'}",
            f"e.g. --objectives {first},macs",
        )
    return tuple(found)


def _words(metric: Metric) -> Iterator[str]:
    yield metric.name
    if metric.alias:
        yield metric.alias


def losses(objectives: Sequence[Metric], metrics: Mapping[str, float]) -> list[float]:
    """The objectives of one candidate, all to minimise."""
    return [objective.loss(metrics[objective.name]) for objective in objectives]
