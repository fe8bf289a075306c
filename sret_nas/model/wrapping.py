"""The weights in what a trainer wrote.

Trainers wrap: under a key (``state_dict``, ``model``, ``model_ema``, …), behind the
attribute of a LightningModule (``model.``), and by what torch puts around modules (DDP,
``torch.compile``, FSDP, activation checkpointing). Instead of a list of trainers there is
one rule: weights are where the first convolution's are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sret_nas.errors import ConfigError

FIRST = ("stem.0.weight", "patch_embed.conv1.weight", "transformers.0.blocks.0.norm1.weight")
"""Keys by which weights are known: ours, and two of the official layout."""

AROUND = (
    r"(?:(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)"
)
AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|shadow)(?:[._]|$)")
USUAL = ("state_dict", "model", "model_state_dict", "net", "network", "student", "backbone")
"""Names of the weights that a training goes on with, the likeliest first."""

DEPTH = 4
_log = logging.getLogger(__name__)


def unwrap(checkpoint: object, use_ema: bool = True) -> dict[str, Any]:
    """The state dict in a checkpoint, by its own names.

    Args:
        checkpoint: What was read: names and tensors, perhaps under keys and prefixes of others.
        use_ema: Where there are several, take the moving average; else what it averages.

    Raises:
        ConfigError: not a mapping, or several sets of weights between which nothing decides.
    """
    if not isinstance(checkpoint, Mapping):
        raise ConfigError(
            f"not a checkpoint: given {type(checkpoint).__name__}; allowed: names and tensors, "
            "or such under a key, e.g. 'state_dict'"
        )
    found = dict(_states(checkpoint))
    if not found:
        return {str(key): value for key, value in checkpoint.items()}
    averages = {place for place in found if AVERAGE.search(place.lower())}
    chosen = (averages if use_ema else set(found) - averages) or set(found)
    if len(chosen) > 1:
        usual = sorted(chosen, key=_rank)
        if _rank(usual[0]) == _rank(usual[1]):
            raise ConfigError(
                f"several sets of weights: {some(found)}; allowed: one, and its moving average"
            )
        chosen = {usual[0]}
    place = chosen.pop()
    if len(found) > 1:
        _log.info("weights taken from '%s' of %s", place, some(found))
    return found[place]


def _rank(place: str) -> int:
    words = place.rstrip(".").split(".")
    return min((USUAL.index(word) for word in words if word in USUAL), default=len(USUAL))


def _states(checkpoint: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every set of weights in a checkpoint, by the names that lead to it."""
    named = {key: value for key, value in checkpoint.items() if isinstance(key, str)}
    prefixes = {p for key in named if (p := _prefix(key)) is not None}
    for prefix in prefixes:
        longer = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
        yield (
            re.sub(AROUND, "", f"{place}{prefix}"),
            {
                re.sub(rf"(?:(?<=\.)|^){AROUND}+", "", key.removeprefix(prefix)): value
                for key, value in named.items()
                if key.startswith(prefix) and not (longer and key.startswith(longer))
            },
        )
    if place.count(".") < DEPTH:
        for key, value in named.items():
            if isinstance(value, Mapping):
                yield from _states(value, f"{place}{key}.")


def _prefix(key: str) -> str | None:
    for first in FIRST:
        inner = rf"\.{AROUND}*".join(map(re.escape, first.split(".")))
        match = re.match(rf"((?:.*\.)?){inner}$", key)
        if match:
            return match[1]
    return None


def some(keys: Iterable[str], most: int = 6) -> str:
    """The first few of many names as a list in words, and how many more there are."""
    keys = list(keys)
    return ", ".join(keys[:most]) + (f", … ({len(keys) - most} more)" if len(keys) > most else "")
