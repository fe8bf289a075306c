"""What an exporter is: from a model to a file of one kind, and from that file to logits again.

Shapes: B batch, C channels, S side, K classes.
Requires torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sret_nas.errors import SretNasError, UsageError
from sret_nas.model.frozen import Half, frozen
from sret_nas.model.onnx import needed, root, silent

Runner = Callable[[Tensor], Tensor]
"""Normalised images (B, C, S, S), float32, to logits (B, K), float32."""
FloatType = Literal["fp32", "fp16"]


class NotHere(Exception):  # noqa: N818 - nothing is wrong
    """A file that cannot be run on this machine, and why."""


@dataclass(frozen=True)
class Wanted:
    """What a file shall be like.

    Attributes:
        side: Side of the images in px, S.
        in_chans: Channels of the images, C.
        dtype: What it computes in.
        batch: Images at a time; ``None`` for any number.
        opset: Version of ONNX's operators; ``None`` for ours.
        classes: Names of the classes, (K,).
        preprocessing: As timm's ``resolve_model_data_config``.
    """

    side: int
    in_chans: int
    dtype: FloatType = "fp32"
    batch: int | None = None
    opset: int | None = None
    classes: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] | None = field(default=None, repr=False)


class Exporter(ABC):
    """One kind of file.

    Attributes:
        name: What ``--to`` calls it.
        suffix: How its files end.
        package: The package that runs it.
        needs: Packages to import.
        extra: The extra that installs them; ``None`` where all is installed with us.
        dtypes: What its files may compute in.
        int8: Whether there are files in int8.
        free_batch: Whether a file may take any number of images; else it takes one at a time
            unless another number is asked for.
        tolerance: Largest difference of logits, as a share of the largest logit, by dtype.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    package: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    dtypes: ClassVar[tuple[FloatType, ...]] = ("fp32", "fp16")
    int8: ClassVar[bool] = False
    free_batch: ClassVar[bool] = True
    tolerance: ClassVar[Mapping[FloatType, float]] = {"fp32": 1e-3, "fp16": 5e-2}

    def prepare(self) -> None:
        """Import what is needed.

        Raises:
            UsageError: a package is missing, with the extra.
        """
        with silent():
            needed(*self.needs, extra=self.extra or self.name)

    @property
    def runtime(self) -> str:
        """What runs the files, with its version."""
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return self.package

    @abstractmethod
    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        """Write a file.

        Args:
            model: The model; left as it is.
            path: The file.
            wanted: What it shall be like.

        Raises:
            SretNasError: the model cannot be such a file.
        """

    def runner(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """Load a file into its own runtime, for any number of images at a time.

        Args:
            path: The file.
            wanted: What it is like.
            threads: Threads to compute with.

        Raises:
            NotHere: the runtime is not on this machine.
        """
        fixed = wanted.batch
        run = self.open(path, wanted, threads)

        def in_turn(x_BCSS: Tensor) -> Tensor:
            found = []
            for some in torch.split(x_BCSS, fixed or max(1, len(x_BCSS))):
                lacking = fixed - len(some) if fixed else 0
                filled = F.pad(some, (0, 0, 0, 0, 0, 0, 0, lacking)) if lacking else some
                found.append(run(filled)[: len(some)])
            return torch.cat(found)

        return in_turn

    @abstractmethod
    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        """As ``runner``, for as many images at a time as the file takes.

        Args:
            path: The file.
            wanted: What it is like.
            threads: Threads to compute with.

        Raises:
            NotHere: the runtime is not on this machine.
        """

    def quantised(
        self, model: nn.Module, path: Path, wanted: Wanted, calibration_NCSS: Tensor, place: Path
    ) -> Iterator[tuple[str, Path | Exception]]:
        """Files in int8, one for each way to make them.

        Args:
            model: The model; left as it is.
            path: Its file in float.
            wanted: What that file is like.
            calibration_NCSS: Training images, normalised.
            place: A folder for the files.

        Yields:
            What the way is called, and its file or what went wrong.

        Raises:
            UsageError: there is no int8 of this kind.
        """
        raise UsageError(f"--int8 with --to {self.name}: not offered; allowed: with onnx or torch")


def exported(model: nn.Module, wanted: Wanted) -> Any:
    """A model as ``torch.export`` sees it, on which other exporters stand.

    Args:
        model: The model; left as it is.
        wanted: What the file shall be like.

    Raises:
        SretNasError: ``torch.export`` cannot follow the model.
    """
    still = frozen(model, wanted.side)
    if wanted.dtype == "fp16":
        still = Half(still).eval()
    return program(still, wanted, type(model).__name__)


def program(still: nn.Module, wanted: Wanted, name: str) -> Any:
    """As ``exported``, of a model that is ready for it.

    Args:
        still: What is exported, as it is.
        wanted: What the file shall be like.
        name: What to call the model in an error.
    """
    count = wanted.batch or 2  # never 1 where any number is wanted: it would be built in
    images_BCSS = torch.zeros(count, wanted.in_chans, wanted.side, wanted.side)
    free = {} if wanted.batch else {0: torch.export.Dim("batch", min=1)}
    try:
        with silent(), torch.no_grad():
            return torch.export.export(still, (images_BCSS,), dynamic_shapes=(free,))
    except Exception as error:  # of whatever the model is made of
        raise SretNasError(f"{name}: torch.export cannot follow it: {root(error)}") from error
