"""What a study of ours holds, checked before anything is shown or searched by it.

Anybody can write into a database; what was changed there is named in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, ValidationError

from sret_nas.errors import ConfigError
from sret_nas.study.records import CONFIRMATION


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)


class _Epoch(_Record):
    epoch: int
    train_loss: float | None = None
    val_loss: float
    val_accuracy: float
    seconds: float
    images: int = 0


class _Trial(_Record):
    id: str | None = None
    architecture: dict[str, Any] | None = None
    metrics: dict[str, float | None] = {}
    curve: list[_Epoch] = []
    seconds: dict[Literal["sampling", "latency", "training"], float] = {}
    rejected: dict[str, int] = {}
    interrupted: str | None = None
    reason: str | None = None
    error: str | None = None


class _Metrics(_Record):
    val_loss: float
    val_accuracy: float
    macs: float
    params: float


class _Complete(_Trial):
    id: str
    architecture: dict[str, Any]
    curve: list[_Epoch]


class _Session(_Record):
    seconds: float
    workers: int
    latency: float = 0.0
    machine: str = ""


class _Confirmed(_Record):
    reason: str | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0


class _Latency(_Record):
    median_ms: float


ATTRIBUTES: dict[str, type[BaseModel]] = {
    "session:": _Session,
    CONFIRMATION: _Confirmed,
    "latency:": _Latency,
}
"""Of a study, by how their names begin."""


def check(label: str, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> None:
    """Check what is read of a study later.

    Args:
        label: What the run is called.
        attributes: The study's.
        trials: Ours alone.

    Raises:
        ConfigError: with the first thing that is broken.
    """
    for problem in _problems(attributes, trials):
        raise ConfigError(f"{label}: broken: {problem}", "somebody changed it; restore a copy")


def _problems(attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> Iterator[str]:
    for trial in trials:
        complete = trial.state == TrialState.COMPLETE
        found = trial.user_attrs
        kind: type[BaseModel] = _Complete if complete else _Trial
        yield from _wrong(f"trial {trial.number}", kind, found)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            yield from _wrong(f"trial {trial.number} metrics", _Metrics, found.get("metrics"))
        if complete and not found.get("curve"):
            yield f"trial {trial.number} curve: it is empty"
    for key, value in attributes.items():
        for prefix, record in ATTRIBUTES.items():
            if key.startswith(prefix):
                yield from _wrong(key, record, value)
                if prefix == "session:" and not isinstance(value.get("from"), int | float):
                    yield f"{key}: from is no number"
                if prefix == CONFIRMATION and not all(p.isdigit() for p in key.split(":")[1:]):
                    yield f"{key}: not the name of a trial and a seed"


def _wrong(what: str, kind: type[BaseModel], value: Any) -> Iterator[str]:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(map(str, first["loc"]))
        given = repr(first["input"])
        yield f"{what} {where}: given {given[:60]}; {first['msg']}"
