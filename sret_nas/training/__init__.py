"""One training loop, for proxies and for real.

AdamW, linear warm-up and cosine, gradient clipping, label smoothing, bf16
autocast where the device computes in bf16, else fp32, never TF32. Everything random
comes from the seed: on a CPU with one thread, two runs of a seed are equal bit by bit,
and the global generators are left as they were. On a GPU whole steps are CUDA graphs.
"""

from sret_nas.training.failures import DivergedError, NotFiniteError, OutOfMemoryError
from sret_nas.training.optimiser import schedule
from sret_nas.training.trainer import EpochResult, Trainer

__all__ = [
    "DivergedError",
    "EpochResult",
    "NotFiniteError",
    "OutOfMemoryError",
    "Trainer",
    "schedule",
]
