"""All counters side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from sret_nas.arch import Architecture
from sret_nas.cost import macs
from sret_nas.counters.dispatcher import by_torch
from sret_nas.counters.fvcore import by_fvcore
from sret_nas.counters.ptflops import by_aten, by_modules
from sret_nas.counters.record import Count, Subject
from sret_nas.errors import UsageError

COUNTERS: dict[str, Callable[[Subject], Count]] = {
    "torch": by_torch,
    "fvcore": by_fvcore,
    "ptflops-pytorch": by_modules,
    "ptflops-aten": by_aten,
}
"""The counters by name; torch and fvcore count the fused path, ptflops the reference path."""


def count(
    model: nn.Module | Architecture,
    counters: Sequence[str] | None = None,
    input_size: tuple[int, int, int] | None = None,
) -> dict[str, Count]:
    """What the counters say of a model, by name.

    Args:
        model: An architecture, or any module that maps images to a result. A
            module of timm's is switched to plain matrix products where a counter
            needs them.
        counters: Names from ``COUNTERS``; default all.
        input_size: Channels, height and width of an image; default what the
            architecture, or timm's configuration of the model, says.

    Example:
        >>> from sret_nas.zoo import PUBLISHED
        >>> count(PUBLISHED["sret_t"], ["torch"])["torch"].note
        'equals the analytic count'

    Raises:
        UsageError: an unknown counter, or no input size is known.
    """
    names = list(COUNTERS) if counters is None else list(counters)
    for name in names:
        if name not in COUNTERS:
            raise UsageError(f"counter: given '{name}'; allowed: {', '.join(COUNTERS)}")
    subject = Subject.of(model, input_size)
    analytic = None if subject.shape is None else int(macs(subject.shape))
    found = {}
    for name in names:
        # The generator of the process is left as it was, whatever a model draws.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                result = COUNTERS[name](subject)
            except Exception as error:  # others' code on any model: its failure is the result
                lines = str(error).splitlines()
                result = Count(
                    name, None, "MACs", "", "", failure=lines[0] if lines else repr(error)
                )
        found[name] = replace(result, analytic=analytic)
    return found
