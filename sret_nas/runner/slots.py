"""Where the workers of one machine sit: GPUs in turn, one thread of torch each on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

THREADS = 1
"""Of torch in each worker on a CPU, so that as many workers as cores share them evenly.

Two threads of one worker wait for each other at every operation: on two cores that others
used too, one thread trained 10 to 20 times as fast.
"""


@dataclass(frozen=True)
class Slot:
    """The place of one worker.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of torch.
        shared: Whether others sit on the same GPU.
        guest: Whether it is this one that leaves where not all fit.
        team: Name of the process that gives the slots.
    """

    device: str
    threads: int = THREADS
    shared: bool = False
    guest: bool = False
    team: str = ""


def slots(device: str, workers: int, gpus: int, team: str = "") -> list[Slot]:
    """Seats for the workers of one machine.

    Args:
        device: ``cpu``, ``cuda`` (all GPUs, in turn) or ``cuda:N`` (that one).
        workers: How many.
        gpus: GPUs that can be seen.
        team: Name of the process that gives the slots.

    Example:
        >>> [slot.device for slot in slots("cuda", 3, gpus=2)]
        ['cuda:0', 'cuda:1', 'cuda:0']
    """
    if device != "cuda":
        names = [device] * workers
    else:
        names = [f"cuda:{k % max(1, gpus)}" for k in range(workers)]
    return [
        Slot(
            name,
            shared=name != "cpu" and names.count(name) > 1,
            guest=name != "cpu" and name in names[:k],
            team=team,
        )
        for k, name in enumerate(names)
    ]
