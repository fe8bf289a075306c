"""The GPUs that torch sees, and whether they can be used.

torch is imported on first use. Nothing here starts work on a GPU, but to ask one for its
memory begins a CUDA context on it; so each is looked at only when its turn comes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it.

    Attributes:
        name: Name of the model, as its maker calls it.
        capability: Its compute capability: major and minor version.
        free_bytes: Memory that nobody holds, and what this process keeps for itself.
        total_bytes: Memory in all.
        problem: Why it does not answer; ``None`` where it does.
    """

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    problem: str | None = None

    def obstacle(self, built_for: Sequence[str], needed_bytes: int) -> tuple[str, str] | None:
        """Why the GPU cannot be used, and the next step; ``None`` where it can.

        Args:
            built_for: What torch is built for, as ``torch.cuda.get_arch_list`` says it.
            needed_bytes: Free memory that the work needs.
        """
        if self.problem:
            return self.problem, "nvidia-smi says who uses it, and in which mode"
        major, minor = self.capability
        known = sorted(_versions(built_for))
        if known and not _runs(self.capability, built_for):
            age = "old" if self.capability < known[0] else "new"
            return (
                f"compute capability {major}.{minor} is too {age} for this torch, built for "
                + ", ".join(f"{a}.{b}" for a, b in known),
                f"install a build of torch for {major}.{minor}",
            )
        if self.free_bytes < needed_bytes:
            free, total, needed = (
                n / 2**30 for n in (self.free_bytes, self.total_bytes, needed_bytes)
            )
            return (
                f"too full: {free:.1f} of {total:.1f} GiB free, needed {needed:.1f}",
                "nvidia-smi says who holds it",
            )
        return None


def _versions(built_for: Sequence[str]) -> set[tuple[int, int]]:
    """Compute capabilities of ``sm_90``, ``sm_100a``, …; others (AMD's) are not known."""
    found = (re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", name) for name in built_for)
    return {(int(match[1]), int(match[2])) for match in found if match}


def _runs(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Machine code runs on later GPUs of its major version, intermediate code on all later."""
    code = [name for name in built_for if name.startswith("sm_")]
    later = [name for name in built_for if name.startswith("compute_")]
    return any(
        capability[0] == version[0] and capability >= version for version in _versions(code)
    ) or any(capability >= version for version in _versions(later))


def seen() -> tuple[int, str]:
    """How many GPUs torch sees; of none, why, in words."""
    import torch

    with warnings.catch_warnings(record=True) as said:  # as of a driver that is too old
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return torch.cuda.device_count(), ""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return 0, "this torch is built without CUDA"
    return 0, "torch sees no GPU" + "".join(f": {str(one.message).strip()}" for one in said[:1])


def look(index: int) -> Gpu:
    """The GPU of a number: its memory as it is now, and whether it answers at all."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, problem = 0, None
    try:
        free = torch.cuda.mem_get_info(index)[0]
        free += torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    except torch.OutOfMemoryError:
        pass  # not even room to ask
    except RuntimeError as error:  # another process has it alone, or it is broken
        problem = str(error).splitlines()[0]
    capability = (properties.major, properties.minor)
    return Gpu(properties.name, capability, free, properties.total_memory, problem)


def built_for() -> list[str]:
    """What this torch is built for: ``sm_90``, …, as ``torch.cuda.get_arch_list`` says it."""
    import torch

    return list(torch.cuda.get_arch_list())
