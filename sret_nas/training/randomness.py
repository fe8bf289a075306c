"""Randomness of its own for what draws from torch's global generators."""

from __future__ import annotations

import contextlib

import torch


class Random(contextlib.AbstractContextManager[None]):
    """Global generators of torch that belong to one training while it runs.

    Layers draw from the global generators (initial weights, drop-path,
    permutations). Inside, these continue where this training left them; outside,
    nobody notices.

    Args:
        seed: Seed of both generators.
        device: Where the training runs: the CPU, or a GPU whose generator is swapped too.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.Generator().manual_seed(seed).get_state()
        self.cuda = (
            torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
        )

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *exc: object) -> None:
        self._swap()

    def _swap(self) -> None:
        outside = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        self.cpu = outside
        if self.cuda is not None:
            outside = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.cuda, self.device)
            self.cuda = outside
