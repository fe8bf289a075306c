"""What a user says is known, checked; what is wrong is told by the name the user knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from sret_nas.samplers.candidates import Params


def uncertain(known: Collection[int], objectives: int) -> int:
    """The index of the one objective that is not known.

    Args:
        known: Indices of the known objectives.
        objectives: How many the study has.

    Raises:
        ValueError: there is none, or more than one, or an index is not of the study.
    """
    rest = [i for i in range(objectives) if i not in known]
    if len(rest) != 1 or max(known, default=0) >= objectives:
        raise ValueError(
            f"KnownCostSampler: known objectives {sorted(known)} of a study with "
            f"{objectives}; allowed: all but one"
        )
    return rest[0]


def call(name: str, function: Callable[[Params], Any], params: Params) -> Any:
    """What a function says of a copy of the parameters.

    Args:
        name: The argument of the sampler, as the user knows it: ``known[1]``.
        function: The user's function.
        params: Parameters of one candidate.

    Raises:
        ValueError: it needs a parameter that is not there, or a known cost is no finite number.
    """
    try:
        found = function(dict(params))
    except KeyError as error:
        raise ValueError(
            f"KnownCostSampler: {name} needs parameter {error}; every trial has "
            f"{', '.join(params) or 'none'}"
        ) from error
    if name.startswith("known") and not math.isfinite(found):
        raise ValueError(f"KnownCostSampler: {name} says {found} of {params}")
    return found


def checked(name: str, function: Callable[[Params], Any] | None) -> Any:
    """Make a function of the parameters that ``call`` checks; ``None`` stays ``None``."""
    return function and (lambda params: call(name, function, params))


def compare(known: Mapping[int, Callable[[Params], float]], trial: FrozenTrial) -> None:
    """Compare what is said to be known with what a complete trial returned.

    Raises:
        ValueError: they differ by more than rounding, or a known cost is no finite number.
    """
    for index, cost in known.items():
        said, returned = call(f"known[{index}]", cost, trial.params), trial.values[index]
        if not math.isclose(said, returned, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(
                f"KnownCostSampler: known[{index}] says {said:g} of trial {trial.number}, "
                f"which returned {returned:g}; is it another objective's?"
            )
