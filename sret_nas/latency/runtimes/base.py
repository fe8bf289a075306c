"""What a runtime is: it makes a model a call, which is then checked and timed like any other.

A further one is a file beside this one, and a line in ``runtimes/__init__.py``.

Requires torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.errors import UsageError
from sret_nas.latency.default import TORCH
from sret_nas.latency.modes import Call, Setting
from sret_nas.latency.settings import Settings


@dataclass(frozen=True)
class Exported:
    """A model as a file of a runtime's own, which is measured as it is.

    Attributes:
        path: The file.
        runtime: Name of the runtime that it is for.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``: of the weights.
        images: Type of the images, as torch's.
        shape: Channels, height and width of one image.
        batch: Images at once, where the file fixes it.
        weight_bytes: Bytes of all weights.
        arch: The architecture, where the file says it.
    """

    path: Path
    runtime: str
    dtype: str
    images: torch.dtype
    shape: tuple[int, int, int]
    batch: int | None
    weight_bytes: int
    arch: Architecture | None


Source: TypeAlias = Architecture | nn.Module | Exported
"""What can be measured: an architecture, a module (which is copied), a file of a runtime's own."""


@dataclass(frozen=True)
class Ready:
    """A call as a runtime hands it over: not yet checked, not yet run.

    Attributes:
        call: What is to be timed; it keeps alive what it reads.
        expected: What it must return: the output of the eager model in fp32.
        held_bytes: Weights and input, once each.
        allocating: What runs in torch's allocator as the call does; ``None`` where the runtime
            has an allocator of its own, so that peak memory is not known.
    """

    call: Call
    expected: list[Tensor]
    held_bytes: int
    allocating: Callable[[], object] | None = None


class Runtime(ABC):
    """A way to run models on a device.

    Attributes:
        name: Its name, as ``--runtime`` has it.
        modes: The modes it has; elsewhere than on a GPU perhaps fewer.
        suffix: That of files of its own; ``None`` where there are none.
        tolerance: By dtype, the largest norm of an output's difference from that of eager fp32,
            over its norm.
    """

    name: ClassVar[str]
    modes: ClassVar[tuple[str, ...]]
    tolerance: ClassVar[Mapping[str, float]]
    suffix: ClassVar[str | None] = None

    @abstractmethod
    def setting(self, device: torch.device, mode: str | None, dtype: str | None) -> Setting:
        """Mode and dtype, where not both are asked for.

        Args:
            device: The device; this machine need not have it.
            mode: The mode that is asked for, or ``None``.
            dtype: The dtype that is asked for, or ``None``.
        """

    @abstractmethod
    def images(self, dtype: str, device: torch.device) -> torch.dtype:
        """Type of the images of a model in that dtype.

        Raises:
            UsageError: no such dtype here.
        """

    def check(self, device: torch.device, mode: str) -> None:
        """Look whether it can run here.

        Raises:
            UsageError: it is not installed, or lacks this device or mode.
        """
        if mode not in self.modes:
            beside = "" if self.name == TORCH else f" of runtime {self.name}"
            raise UsageError(f"mode: given {mode!r}; allowed{beside}: {', '.join(self.modes)}")

    def version(self) -> str | None:
        """Name and version, for the fingerprint; ``None`` where that has it anyway.

        Raises:
            UsageError: it is not installed.
        """
        return None

    def packages(self) -> dict[str, str]:
        """Versions of the packages that decide its times, beside torch."""
        return {}

    def opened(self, path: Path) -> Exported:
        """A file of its own, to be measured as it is.

        Raises:
            UsageError: it has none, or is not installed.
            ConfigError: not such a file.
        """
        raise UsageError(f"{path}: no file that {self.name} measures")

    def ahead(  # noqa: B027 (most have nothing to do)
        self, sources: Iterable[Source], settings: Settings, progress: Callable[[str], None]
    ) -> None:
        """Do for many models at once what would take long one by one.

        Args:
            sources: The models; ``ready`` is called for each of them afterwards.
            settings: Device, dtype, mode and threads.
            progress: Told what takes long.
        """

    def one_piece(self, mode: str) -> str | None:
        """Why a model has no stages to be timed in that mode; ``None`` where it has."""
        return f"{self.name} runs a model as one piece"

    @abstractmethod
    def ready(
        self,
        name: str,
        source: Source,
        batch: int,
        settings: Settings,
        progress: Callable[[str], None],
    ) -> Ready:
        """Make a model a call.

        Args:
            name: What to call it.
            source: The model.
            batch: Images at once.
            settings: Device, dtype, mode and threads.
            progress: Told what takes long.

        Raises:
            SretNasError: it cannot run it.
        """
