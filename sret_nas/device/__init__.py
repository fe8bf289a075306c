"""The device: which one and why, what it can compute in, and its fingerprint.

torch is imported on first use.
"""

from sret_nas.device.cache import cache_folder
from sret_nas.device.choice import AUTO, NEEDED_BYTES, Choice, choose, resolve
from sret_nas.device.dtypes import DTYPES, Dtype, exact_fp32, has_dtype, torch_dtype
from sret_nas.device.hardware import Fingerprint, cores, fingerprint, processor

__all__ = [
    "AUTO",
    "DTYPES",
    "NEEDED_BYTES",
    "Choice",
    "Dtype",
    "Fingerprint",
    "cache_folder",
    "choose",
    "cores",
    "exact_fp32",
    "fingerprint",
    "has_dtype",
    "processor",
    "resolve",
    "torch_dtype",
]
