"""What a run was asked for: resolved once, written down, compared on resume."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from packaging.version import Version
from pydantic import Field

import sret_nas
from sret_nas import files
from sret_nas.errors import ConfigError
from sret_nas.proxy import Proxy
from sret_nas.search.objectives import Objective, parse
from sret_nas.space import SearchSpace
from sret_nas.space.grammar import SpaceFile
from sret_nas.units import Budget, parse_budgets

RECORDED = ("torch", "timm", "optuna", "numpy")
"""Packages whose versions are written down."""


class RunConfig(files.Record):
    """Everything that decides what a run does.

    Attributes:
        space: The whole space file.
        space_folder: Where it lay; a callable's module is looked for there.
        space_code: Hash of that module; ``None`` without a callable.
        budget: As written, e.g. ``4GFLOPs``.
        objectives: Metric names.
        data: Name or path, and the content hash of the splits.
        proxy: The whole proxy.
        sampler: Name of the sampler.
        seed: Of everything random.
        published: Whether the published variants are tried first.
        device: Where candidates train.
        trials: Candidates over the whole run; ``None`` for no limit.
        timeout_s: Seconds over the whole run; ``None`` for no limit.
        workers: Processes.
        heartbeat_s: Seconds between two signs of life of a worker.
        versions: Of the packages, when the run began.
        commit: Of the checkout, when the run began; ``None`` outside one.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    space: dict[str, Any]
    space_folder: str | None = None
    space_code: str | None = None
    budget: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("val_loss", "macs")
    data: dict[str, str]
    proxy: Proxy
    sampler: str = "auto"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    published: bool = True
    device: str = "cpu"
    trials: Annotated[int, Field(strict=True, ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    workers: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    heartbeat_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The bounds."""
        return parse_budgets(self.budget)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives."""
        return parse(self.objectives)

    def search_space(self) -> SearchSpace:
        """The space.

        Raises:
            ConfigError: its callable is not here, or has changed since the run began.
        """
        folder = Path(self.space_folder) if self.space_folder else None
        space = SearchSpace(SpaceFile.model_validate(self.space), folder)
        if self.space_code not in (None, code_of(space)):
            raise ConfigError(
                f"callable '{space.file.callable}' is not the one that the run was begun with: "
                "its module has another content",
                "bring the module of that run here",
            )
        return space

    def identity(self) -> dict[str, Any]:
        """What may not differ when a run is continued."""
        return {
            "space": self.space,
            **({"callable": self.space_code} if self.space_code else {}),
            "budget": sorted(str(budget) for budget in self.budgets),
            "objectives": list(self.objectives),
            "data": self.data["fingerprint"],
            "proxy": self.proxy.model_dump(mode="json"),
            "sampler": self.sampler,
            "seed": self.seed,
            "published": self.published,
        }

    @property
    def name(self) -> str:
        """A name that the same request always gets."""
        text = json.dumps(self.identity(), sort_keys=True)
        words = [str(self.space.get("name", "space")), *self.budget]
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-.")
        return f"{slug[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def save(self, path: Path) -> None:
        """Write the configuration file of a run."""
        files.write(
            path, yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False)
        )

    def refuse_other(self, earlier: RunConfig, where: Path | str) -> None:
        """Check that a run is continued as it began.

        Raises:
            ConfigError: with every difference.
        """
        differences = list(_differences(earlier.identity(), self.identity()))
        if differences:
            raise ConfigError(
                f"{where} is another run: {'; '.join(differences)}",
                "choose another --out, or ask for what the run was begun with (its config.yaml)",
            )


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> Iterator[str]:
    for key in {**before, **now}:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{path}{key} ")
        elif a != b:
            yield f"{path}{key} was {_short(a)}, now {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def code_of(space: SearchSpace) -> str | None:
    """Hash of the module of a space's callable; ``None`` where there is none to read."""
    if space.transform is None:
        return None
    try:
        source = inspect.getsourcefile(inspect.unwrap(space.transform))
        return hashlib.sha256(Path(source or "").read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return None


def versions() -> dict[str, str]:
    """Versions of this package and of those that decide its numbers."""
    return {"sret_nas": sret_nas.__version__} | {name: version(name) for name in RECORDED}


def refuse_other_versions(config: Mapping[str, Any], where: str) -> None:
    """Check that the packages here give the numbers of those that a run was begun with.

    Builds of one release (``2.11.0+cpu``, ``2.11.0+cu128``) count as the same.

    Args:
        config: A run's configuration as it was written, perhaps by another version.
        where: The run, for the message.

    Raises:
        ConfigError: with every difference.
    """
    begun = config.get("versions") or {}
    here = versions()
    other = [
        f"{name} is {here[name]} here, {begun[name]} there"
        for name in here
        if name in begun and Version(begun[name]).public != Version(here[name]).public
    ]
    if other:
        raise ConfigError(
            f"{where} was begun with other versions: {'; '.join(other)}",
            "install those here: numbers of different versions cannot be compared",
        )


def commit() -> str | None:
    """The commit of the checkout that this package runs from, or ``None``."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
