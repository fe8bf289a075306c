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

        self.inside = False

    def __enter__(self) -> None:
        self._swap()
        self.inside = True

    def __exit__(self, *exc: object) -> None:
        self._swap()
        self.inside = False

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """The states of both generators, whether inside or outside."""
        if not self.inside:
            return {"cpu": self.cpu, "cuda": self.cuda}
        on_gpu = self.cuda is not None
        return {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,
        }

    def load_state_dict(self, state: dict[str, torch.Tensor | None]) -> None:
        """Go on from states; outside.

        Args:
            state: As of ``state_dict``, of the same kind of device.
        """
        assert state["cpu"] is not None
        self.cpu, self.cuda = state["cpu"], state["cuda"]

    def _swap(self) -> None:
        outside = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        self.cpu = outside
        if self.cuda is not None:
            outside = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.cuda, self.device)
            self.cuda = outside
