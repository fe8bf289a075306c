"""What runs a model: a file each, and a line each in ``RUNTIMES``.

Requires torch.
"""

from __future__ import annotations

from pathlib import Path

from sret_nas.errors import UsageError
from sret_nas.latency.runtimes.base import Exported, Runtime
from sret_nas.latency.runtimes.onnx_runtime import OnnxRuntime
from sret_nas.latency.runtimes.pytorch import PyTorch

RUNTIMES: dict[str, Runtime] = {one.name: one for one in (PyTorch(), OnnxRuntime())}
"""Every runtime, by name."""


def named(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in RUNTIMES:
        raise UsageError(f"runtime: given {name!r}; allowed: {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def opened(path: Path) -> Exported | None:
    """A file of a runtime's own; ``None`` where it is of none.

    Raises:
        UsageError: its runtime is not installed.
        ConfigError: not such a file.
    """
    for one in RUNTIMES.values():
        if one.suffix and path.suffix.lower() == one.suffix:
            return one.opened(path)
    return None
