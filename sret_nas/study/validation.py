"""What a study of ours holds, checked before anything is shown or searched by it.

Anybody can write into a database; what was changed there is named in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sret_nas.errors import ConfigError
from sret_nas.metrics import Declaration
from sret_nas.study.records import CONFIRMATION


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)


class _Trial(_Record):
    id: str | None = None
    architecture: dict[str, Any] | None = None
    metrics: dict[str, float | None] = {}
    curve: list[dict[str, Any]] = []
    seconds: dict[Literal["sampling", "latency", "training"], float] = {}
    rejected: dict[str, int] = {}
    interrupted: str | None = None
    reason: str | None = None
    error: str | None = None


class _Complete(_Trial):
    id: str
    architecture: dict[str, Any]


class _Session(_Record):
    seconds: float
    workers: int
    latency: float = 0.0
    machine: str = ""


class _Failed(_Record):
    reason: str


class _Latency(_Record):
    median_ms: float


@dataclass(frozen=True)
class _Kinds:
    """Records that depend on what the evaluator declares."""

    step: type[BaseModel]
    metrics: type[BaseModel]
    confirmed: type[BaseModel]

    @classmethod
    def of(cls, declared: Declaration) -> _Kinds:
        found: dict[str, Any] = {metric.name: (float, ...) for metric in declared.metrics}
        beside: dict[str, Any] = {one.name: (float | None, None) for one in declared.progress}
        again = found | {one.name: (float | None, None) for one in declared.tests}
        own: dict[str, Any] = {declared.step: (int, ...)} if declared.step else {}
        own |= beside | found | {"seconds": (float, ...), "images": (int, 0)}
        known: dict[str, Any] = {"macs": (float, ...), "params": (float, ...)}
        fields: dict[str, Any] = again | {"seconds": (float, 0.0)}
        return cls(
            create_model("_Step", __base__=_Record, **own),
            create_model("_Metrics", __base__=_Record, **found, **known),
            create_model("_Confirmed", __base__=_Record, **fields),
        )


def check(
    label: str,
    declared: Declaration,
    attributes: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
) -> None:
    """Check what is read of a study later.

    Args:
        label: What the run is called.
        declared: What its evaluator declares.
        attributes: The study's.
        trials: Ours alone.

    Raises:
        ConfigError: with the first thing that is broken.
    """
    for problem in _problems(_Kinds.of(declared), bool(declared.step), attributes, trials):
        raise ConfigError(f"{label}: broken: {problem}", "somebody changed it; restore a copy")


def _problems(
    kinds: _Kinds, steps: bool, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]
) -> Iterator[str]:
    for trial in trials:
        complete = trial.state == TrialState.COMPLETE
        found = trial.user_attrs
        kind: type[BaseModel] = _Complete if complete else _Trial
        broken = list(_wrong(f"trial {trial.number}", kind, found))
        yield from broken
        for i, step in enumerate([] if broken else found.get("curve", [])):
            yield from _wrong(f"trial {trial.number} curve {i}", kinds.step, step)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            yield from _wrong(f"trial {trial.number} metrics", kinds.metrics, found.get("metrics"))
        if complete and steps and not found.get("curve"):
            yield f"trial {trial.number} curve: it is empty"
    known: dict[str, type[BaseModel]] = {
        "session:": _Session, CONFIRMATION: kinds.confirmed, "latency:": _Latency,
    }  # fmt: skip
    for key, value in attributes.items():
        for prefix, record in known.items():
            if key.startswith(prefix):
                failed = prefix == CONFIRMATION and isinstance(value, dict) and "reason" in value
                yield from _wrong(key, _Failed if failed else record, value)
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
