"""What a file computes, held against what PyTorch computes; and how long both take.

Shapes: N images, C channels, S side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sret_nas.deploy.exporting import Runner
from sret_nas.errors import SretNasError
from sret_nas.latency.timing import MIN_ROUNDS, Summary, cpu_turn, interleave, summarise, warm_up

BATCH = 64
"""Images at a time as a file is run on all of them."""
TURN_S = 0.1
MOST_RUNS = 30


@dataclass(frozen=True)
class Comparison:
    """Logits of a file beside those of PyTorch.

    Attributes:
        difference: Largest absolute difference.
        scale: Largest absolute logit of PyTorch.
        equal_predictions: Share of images of the same class.
        top1: Accuracy of the file; ``None`` without labels.
    """

    difference: float
    scale: float
    equal_predictions: float
    top1: float | None


def logits(run: Runner, images_NCSS: Tensor, batch: int = BATCH) -> Tensor:
    """Logits of all images, (N, K), float32.

    Args:
        run: What computes them.
        images_NCSS: Normalised images.
        batch: Images at a time.
    """
    return torch.cat([run(some).detach().float() for some in torch.split(images_NCSS, batch)])


def compare(found_NK: Tensor, wanted_NK: Tensor, labels_N: Tensor | None) -> Comparison:
    """Hold logits of a file against PyTorch's.

    Args:
        found_NK: The file's.
        wanted_NK: PyTorch's.
        labels_N: Classes, or ``None``.

    Raises:
        SretNasError: another shape, or logits that are not finite.
    """
    if found_NK.shape != wanted_NK.shape:
        raise SretNasError(
            f"the file gives logits of shape {tuple(found_NK.shape)}, "
            f"PyTorch {tuple(wanted_NK.shape)}"
        )
    bad = int((~found_NK.isfinite()).any(1).sum())
    if bad:
        raise SretNasError(
            f"the file's logits of {bad:,} of {len(found_NK):,} images are not finite"
        )
    taken_N = found_NK.argmax(1)
    return Comparison(
        difference=float((found_NK - wanted_NK).abs().max()),
        scale=float(wanted_NK.abs().max()),
        equal_predictions=float((taken_N == wanted_NK.argmax(1)).double().mean()),
        top1=accuracy(found_NK, labels_N),
    )


def accuracy(logits_NK: Tensor, labels_N: Tensor | None) -> float | None:
    """Share of images whose class has the largest logit; ``None`` without labels."""
    return None if labels_N is None else float((logits_NK.argmax(1) == labels_N).double().mean())


def latencies(
    runners: Mapping[str, Runner], images_BCSS: Tensor, threads: int
) -> dict[str, Summary | None]:
    """Times of a batch, of all in turn, so that what else the machine does hits all alike.

    Args:
        runners: What to time, by name.
        images_BCSS: One batch.
        threads: Threads of PyTorch.

    Returns:
        By name; ``None`` for one that fails.
    """
    turns = {name: cpu_turn(_call(run, images_BCSS), threads) for name, run in runners.items()}
    runs = {
        name: max(1, min(MOST_RUNS, round(TURN_S / max(warm_up(turn, most_s=1), 1e-6))))
        for name, turn in turns.items()
    }
    taken = interleave(turns, runs, MIN_ROUNDS)
    return {
        name: None if isinstance(found, Exception) else summarise(found)
        for name, found in taken.items()
    }


def _call(run: Runner, images_BCSS: Tensor) -> Callable[[], object]:
    return lambda: run(images_BCSS)
