"""Evaluators by name, and those of others: imported when they are asked for, never before.

A new one is a file beside this one and a line in ``EVALUATORS`` (docs/extending.md); one
outside this package is named as ``module:name``, or registered as an entry point of the group
``sret_nas.evaluators``. No torch here.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sret_nas.errors import UsageError
from sret_nas.evaluate import Evaluator
from sret_nas.evaluators.checked import adopted
from sret_nas.files import nearest
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
    return functools.partial(adopted, name, code_of(name, folder).load(allow, expected))
