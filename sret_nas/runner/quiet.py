"""Whether another process works on a GPU, as the driver says it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

QUIET = 5
"""Percent of the time, up to which a card counts as idle."""
LOOKS = 8
PAUSE_S = 0.25
"""The driver's figure is of the last second at most (NVML, ``nvmlUtilization_t``): so long
after our own work it is of others alone."""

Busy = Callable[[], int | None]
"""Percent of the time in which the card worked; ``None`` where nobody can say."""


def busy(device: torch.device) -> int | None:
    """Percent of the last moments in which a device worked, whoever it worked for.

    Args:
        device: A GPU; of anything else, and without ``nvidia-smi``, nothing is known.
    """
    program = shutil.which("nvidia-smi")
    if device.type != "cuda" or program is None:
        return None
    import torch

    uuid = torch.cuda.get_device_properties(device).uuid
    command = [program, f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu"]
    try:
        answer = subprocess.run(  # noqa: S603 (a fixed program, fixed arguments)
            [*command, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = answer.stdout.strip()
    return int(text) if text.isdigit() else None


def others_work(busy: Busy, pause: Callable[[float], None] = time.sleep) -> bool:
    """Whether a device does not come to rest although nothing of ours computes on it.

    Args:
        busy: Says how busy it is.
        pause: Lets seconds pass.
    """
    for look in range(LOOKS):
        if look:
            pause(PAUSE_S)
        percent = busy()
        if percent is None or percent <= QUIET:
            return False
    return True
