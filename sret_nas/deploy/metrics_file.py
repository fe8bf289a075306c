"""``metrics.json`` of a model folder: what a trained model is worth, costs, and takes.

No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from sret_nas import files
from sret_nas.errors import ConfigError

if TYPE_CHECKING:
    from sret_nas.latency import Latency

METRICS = "metrics.json"
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Number = Annotated[int, Field(ge=0)]


class _Part(files.Record):
    """A record that a later version may have written more into."""

    model_config = ConfigDict(extra="ignore")


class Worth(_Part):
    """What the model is worth on some images, as ``Scores.to_dict`` says it.

    Attributes:
        images: How many.
        top1: Accuracy; shares are from 0 to 1.
        top1_low: Lower end of its 95% Wilson interval.
        top1_high: Upper end.
        top5: Share of images whose class is among the five likeliest; ``None`` below six classes.
        loss: Mean cross-entropy in nats.
        calibration_error: Expected calibration error in 15 bins (arXiv 1706.04599).
        per_class: Accuracy by class; ``None`` for one without images.
        confusion: Class, predicted class and number of images, where there are any.
    """

    images: Annotated[int, Field(ge=1)]
    top1: Share
    top1_low: Share
    top1_high: Share
    top5: Share | None
    loss: Amount
    calibration_error: Share
    per_class: dict[str, Share | None] = Field(default_factory=dict)
    confusion: tuple[tuple[str, str, Number], ...] = ()


class Costs(_Part):
    """What one image costs.

    Attributes:
        params: Unique parameters.
        macs: Multiply-adds; ``None`` where unknown.
        peak_bytes: Peak memory of inference; ``None`` where unknown.
    """

    params: Number
    macs: Number | None
    peak_bytes: Number | None = None


class Timed(_Part):
    """A latency that was measured.

    Attributes:
        runtime: ``torch`` or ``onnxruntime``.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        batch: Images at a time.
        device: The device in words.
        median_ms: Median of all runs.
        p95_ms: Their 95th percentile.
        mode: ``eager``, ``compile`` or ``graph``; ``None`` of other runtimes.
        file: The exported file that was timed; ``None`` for the model itself.
    """

    runtime: str = "torch"
    dtype: str
    batch: Annotated[int, Field(ge=1)]
    device: str
    median_ms: Amount
    p95_ms: Amount
    mode: str | None = None
    file: str | None = None

    @classmethod
    def of(cls, latency: Latency, *, runtime: str = "torch", file: str | None = None) -> Timed:
        """What ``sret_nas.latency.measure`` found.

        Args:
            latency: Of one batch.
            runtime: What computed.
            file: Name of the exported file that was timed.
        """
        return cls(
            runtime=runtime,
            dtype=latency.dtype,
            batch=latency.batch,
            device=str(latency.fingerprint),
            median_ms=latency.median_ms,
            p95_ms=latency.p95_ms,
            mode=latency.mode if runtime == "torch" else None,
            file=file,
        )

    @property
    def _what(self) -> tuple[object, ...]:
        return self.runtime, self.dtype, self.batch, self.device, self.mode, self.file


class Metrics(_Part):
    """The content of ``metrics.json``.

    Attributes:
        schema_version: 1.
        epoch: The epoch that validated best, whose weights these are.
        epochs: Epochs in all.
        seconds: How long the training took.
        device: Where, in words.
        cost: What one image costs.
        validation: On the images that chose the epoch.
        test: On the test images, read once; ``None`` where there are none.
        latency: What was measured of it, by device and runtime.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    epoch: Number | None = None
    epochs: Number | None = None
    seconds: Amount | None = None
    device: str | None = None
    cost: Costs | None = None
    validation: Worth | None = None
    test: Worth | None = None
    latency: tuple[Timed, ...] = ()

    def save(self, folder: str | Path) -> None:
        """Write it into a folder.

        Raises:
            OSError: it cannot be written.
        """
        _write(Path(folder) / METRICS, self.model_dump(mode="json", by_alias=True))

    @classmethod
    def load(cls, folder: str | Path) -> Metrics | None:
        """What a folder says, or ``None`` where it says nothing.

        Raises:
            ConfigError: its file is broken.
        """
        path = Path(folder) / METRICS
        content = _content(path)
        if content is None:
            return None
        try:
            return cls.model_validate(content)
        except ConfigError as error:
            text = "; ".join(str(error).splitlines())
            raise ConfigError(f"{path}: {text}", error.hint) from error


def note_latency(folder: str | Path, timed: Iterable[Timed]) -> None:
    """Write measured latencies into the ``metrics.json`` of a folder.

    One of the same runtime, precision, batch and device replaces the earlier; all else in the
    file stays as it is.

    Args:
        folder: The model folder.
        timed: What was measured.

    Raises:
        ConfigError: the file that is there is broken.
        OSError: it cannot be written.
    """
    path = Path(folder) / METRICS
    known = Metrics.load(folder)
    kept = {one._what: one for one in (*(known.latency if known else ()), *timed)}
    content = _content(path) or {"schema": 1}
    content["latency"] = [one.model_dump(mode="json") for one in kept.values()]
    _write(path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    files.write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _content(path: Path) -> dict[str, Any] | None:
    """The file as it is: confusion of many classes may make it larger than what people write."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: given a {type(content).__name__}; allowed: a mapping")
    return content
