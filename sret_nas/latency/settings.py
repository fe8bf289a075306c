"""What all models of one measurement share: device, precision, mode and runtime.

Requires torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sret_nas.device import Fingerprint
from sret_nas.latency.default import TORCH


@dataclass(frozen=True)
class Settings:
    """What all models of one measurement share.

    Attributes:
        dtype_name: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        dtype: That of the images, as torch's.
        device: The device.
        mode: One of the runtime's: torch has ``eager``, ``compile`` and ``graph``.
        l2: Whether the L2 cache of a GPU is left ``warm`` or is ``flushed`` before each run.
        fingerprint: The device as it was found.
        runtime: Name of the runtime.
    """

    dtype_name: str
    dtype: torch.dtype
    device: torch.device
    mode: str
    l2: str
    fingerprint: Fingerprint
    runtime: str = TORCH

    def where(self, name: str, batch: int) -> str:
        """What is measured, in words, for messages: name, batch, dtype and device."""
        return f"{name}, batch {batch}, {self.dtype_name} on {self.device}"
