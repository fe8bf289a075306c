"""What a run was asked for: resolved once, written down, compared on resume."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from packaging.version import InvalidVersion, Version
from pydantic import Field, PrivateAttr

import sret_nas
from sret_nas import files
from sret_nas.device import AUTO
from sret_nas.errors import ConfigError, UsageError
from sret_nas.evaluators import registry
from sret_nas.latency.default import TORCH
from sret_nas.metrics import Declaration, Metric
from sret_nas.proxy import PRESETS, Proxy
from sret_nas.space import SearchSpace, transform
from sret_nas.space.grammar import SpaceFile
from sret_nas.study.objectives import parse
from sret_nas.units import Budget, parse_budgets
from sret_nas.usercode import Code

RECORDED = ("torch", "timm", "optuna", "numpy")
"""Packages whose versions are written down."""


class RunConfig(files.Record):
    """Everything that decides what a run does.

    Attributes:
        space: The whole space file, without what the evaluator cannot see.
        unseen: What that is, in sentences.
        space_folder: Where it lay; a callable's module is looked for there.
        space_code: Hash of that module; ``None`` without a callable. Only a module of that
            content runs, and only in a configuration made by ``trusting``.
        budget: As written, e.g. ``4GFLOPs``.
        objectives: Metric names.
        evaluator: Name of the evaluator, or ``module:name``.
        evaluator_folder: Where that module is looked for first.
        evaluator_code: Hash of that module; ``None`` for evaluators of this package. Only a
            module of that content runs, and only in a configuration made by ``trusting``.
        declared: What the evaluator declares; ``None`` for the proxy, which says it itself.
        data: Name or path, and the content hash of the splits.
        images: What of the data is used: ``DataSet.describe``.
        proxy: The whole proxy.
        sampler: Name of the sampler.
        seed: Of everything random.
        published: Whether the published variants are tried first.
        device: Where candidates train: the device that was chosen, once the run is written.
        latency_mode: How latencies are measured: ``eager``, ``compile`` or ``graph``; ``None``
            where none matters, or for the device's default: ``with_latency`` fills it in.
        latency_dtype: The same for ``fp32``, ``bf16`` or ``fp16``.
        latency_runtime: What runs the model then; ``None`` where none matters, and in runs of
            before there was a choice: torch.
        trials: Candidates over the whole run; ``None`` for no limit.
        timeout_s: Seconds over the whole run; ``None`` for no limit.
        workers: Processes.
        heartbeat_s: Seconds between two signs of life of a worker.
        versions: Of the packages, when the run began.
        later_versions: Others that it went on with, by leave of ``accepting_versions``.
        commit: Of the checkout, when the run began; ``None`` outside one.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    space: dict[str, Any]
    unseen: tuple[str, ...] = ()
    space_folder: str | None = None
    space_code: str | None = None
    budget: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("val_loss", "macs")
    evaluator: str = registry.PROXY
    evaluator_folder: str | None = None
    evaluator_code: str | None = None
    declared: Declaration | None = None
    data: dict[str, str]
    images: dict[str, Any] = Field(default_factory=dict)
    proxy: Proxy
    sampler: str = "auto"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    published: bool = True
    device: str = AUTO
    latency_mode: str | None = None
    latency_dtype: str | None = None
    latency_runtime: str | None = None
    trials: Annotated[int, Field(strict=True, ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    workers: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    heartbeat_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    versions: dict[str, str] = Field(default_factory=dict)
    later_versions: tuple[dict[str, str], ...] = ()
    commit: str | None = None
    _allow_code: bool = PrivateAttr(default=False)  # never from a file or a study
    _accept_versions: bool = PrivateAttr(default=False)

    def trusting(self) -> RunConfig:
        """The same with leave to run the modules that it names, if their hashes agree."""
        config = self.model_copy()
        config._allow_code = True
        return config

    def accepting_versions(self) -> RunConfig:
        """The same with leave to go on with a run that was begun with other versions."""
        config = self.model_copy()
        config._accept_versions = True
        return config

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The bounds."""
        return parse_budgets(self.budget)

    @property
    def declaration(self) -> Declaration:
        """What the evaluator finds, at which fidelities."""
        return self.declared or self.proxy.declaration

    @property
    def goals(self) -> tuple[Metric, ...]:
        """The objectives."""
        return parse(self.objectives, self.declaration)

    @property
    def latency_batches(self) -> list[int]:
        """Images at once of the latencies that matter; the first's is a trial's metric."""
        found = [bound.batch for bound in self.budgets if bound.metric == "latency_ms"]
        if any(goal.name == "latency_ms" for goal in self.goals):
            found = found or [1]
        return found

    @property
    def latency(self) -> dict[str, Any] | None:
        """How the latencies of the run are measured; ``None`` where none matters."""
        batches = self.latency_batches
        if not batches or self.latency_mode is None:
            return None
        return {
            "runtime": self.latency_runtime or TORCH,
            "mode": self.latency_mode,
            "dtype": self.latency_dtype,
            "batch": batches[0],
            "device": self.device,
        }

    def with_latency(self) -> RunConfig:
        """The same with how latencies are measured on its device, where one matters.

        Raises:
            UsageError: that was asked for and none matters; or it lacks that mode, dtype or
                runtime.
        """
        asked = self.latency_mode or self.latency_dtype or self.latency_runtime
        if not self.latency_batches:
            if asked:
                raise UsageError(
                    f"latency: given {asked}, but no budget and no objective is a latency",
                    "e.g. --budget 2ms, or --objectives loss,latency",
                )
            return self
        import torch

        from sret_nas.latency import check
        from sret_nas.latency.runtimes import named

        runs = named(self.latency_runtime or TORCH)
        place = torch.device("cuda:0" if self.device == "cuda" else self.device)
        if place.type == "cpu" or torch.cuda.is_available():
            check(self.latency_dtype, str(place), self.latency_mode, runtime=runs.name)
        mode, dtype = runs.setting(place, self.latency_mode, self.latency_dtype)
        how = {"latency_mode": mode, "latency_dtype": dtype, "latency_runtime": runs.name}
        return self.model_copy(
            update=how | {"versions": self.versions | (runs.packages() if self.versions else {})}
        )

    def search_space(self) -> SearchSpace:
        """The space.

        Raises:
            ConfigError: its callable is not here, has changed since the run began, or
                may not run.
        """
        return SearchSpace(
            SpaceFile.model_validate(self.space),
            self._folder,
            self._allow_code,
            code=self.space_code or "",
        )

    @property
    def _folder(self) -> Path | None:
        return Path(self.space_folder) if self.space_folder else None

    def make_evaluator(self) -> registry.Make:
        """What makes the evaluator, in any process.

        Raises:
            ConfigError: its module is not here, has changed since the run began, or may
                not run.
        """
        return registry.load(
            self.evaluator, self._evaluator_folder, self._allow_code, self.evaluator_code or ""
        )

    @property
    def _evaluator_folder(self) -> Path | None:
        return Path(self.evaluator_folder) if self.evaluator_folder else None

    @property
    def code(self) -> list[Code]:
        """What of a user's it would run: the space's callable, the evaluator."""
        name = self.space.get("callable")
        found = [] if name is None else [transform.code(str(name), self._folder)]
        if not registry.is_own(self.evaluator):
            found.append(registry.code_of(self.evaluator, self._evaluator_folder))
        return found

    def identity(self) -> dict[str, Any]:
        """What may not differ when a run is continued."""
        how = list(self._how.values())
        unusual = how[1:] if how[0] == TORCH else how
        if not self.latency_batches or unusual == ["eager", "fp32"]:
            unusual = []  # as of runs before there was a choice
        return {
            "space": self.space,
            **({"callable": self.space_code} if self.space_code else {}),
            **({"latency": unusual} if unusual else {}),
            **({} if self.evaluator == registry.PROXY else {"evaluator": self.evaluator}),
            **({"evaluator code": self.evaluator_code} if self.evaluator_code else {}),
            "budget": sorted(budget.exact for budget in self.budgets),
            "objectives": list(self.objectives),
            "data": self.data["fingerprint"],
            "proxy": self.proxy.model_dump(mode="json"),
            "sampler": self.sampler,
            "seed": self.seed,
            "published": self.published,
        }

    @property
    def _how(self) -> dict[str, str]:
        """How latencies are measured, as runs of before there was a choice did it."""
        return {
            "runtime": self.latency_runtime or TORCH,
            "mode": self.latency_mode or "eager",
            "dtype": self.latency_dtype or "fp32",
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
        before, now = earlier.identity(), self.identity()
        if earlier.latency_batches and self.latency_batches:
            before["latency"], now["latency"] = earlier._how, self._how
        other = list(differences(before, now))
        if not other:
            return
        hint = "choose another --out, or ask for what the run was begun with (its config.yaml)"
        if earlier.device != self.device and earlier.proxy != self.proxy:
            plain = earlier.proxy.model_copy(update={"reference": None})
            names = [name for name, plan in PRESETS.items() if plan == plain]
            hint += (
                f"; it was begun on {earlier.device}, this is {self.device}, and --proxy auto "
                "goes by the device: "
                + "".join(f"--proxy {name}, or " for name in names)
                + f"--device {earlier.device}"
            )
        raise ConfigError(f"{where} is another run: {'; '.join(other)}", hint)

    def going_on(self, earlier: RunConfig, where: Path | str) -> RunConfig:
        """This configuration for a run that was begun before: its versions are kept.

        Raises:
            ConfigError: it is another run, or was begun with other versions, unless those
                are accepted; then those here are written down too.
        """
        later = earlier.later_versions
        if not self._accept_versions:
            refuse_other_versions(earlier.model_dump(), str(where))
        elif other_versions(earlier.model_dump()):
            later = (*later, versions(*self.versions))
        self.refuse_other(earlier, where)
        kept = {"versions": earlier.versions, "later_versions": later, "commit": earlier.commit}
        return self.model_copy(update=kept)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """In what two configurations differ, a few words for each value.

    Args:
        before: The earlier one.
        now: The later one.
        path: Where both are in a larger one.
    """
    for key in {**before, **now}:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{path}{key} ")
        elif a != b:
            yield f"{path}{key} was {_short(a)}, now {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def code_of(space: SearchSpace) -> str | None:
    """Hash of the module of a space's callable; ``None`` without one."""
    name = space.file.callable
    return None if name is None else transform.code(name, space.folder).digest()


def versions(*more: str) -> dict[str, str]:
    """Versions of this package and of those that decide its numbers.

    Args:
        more: Further packages; those that are not here are left out.
    """
    found = {"sret_nas": sret_nas.__version__} | {name: version(name) for name in RECORDED}
    for name in more:
        with suppress(PackageNotFoundError):
            found.setdefault(name, version(name))
    return found


def other_versions(config: Mapping[str, Any]) -> list[str]:
    """Which packages here are others than a run was begun with, or went on with by leave.

    Builds of one release (``2.11.0+cpu``, ``2.11.0+cu128``) count as the same.

    Args:
        config: A run's configuration as it was written, perhaps by another version.
    """
    begun, later = config.get("versions"), config.get("later_versions")
    accepted = [one for one in (begun, *(later or ())) if isinstance(one, dict)]
    here = versions(*(str(name) for one in accepted for name in one))
    differences = [
        [
            f"{name} is {here[name]} here, {begun[name]} there"
            for name in here
            if name in begun and _release(str(begun[name])) != _release(here[name])
        ]
        for begun in accepted
    ]
    return differences[0] if differences and all(differences) else []


def _release(text: str) -> str:
    try:
        return Version(text).public
    except InvalidVersion:
        return text


def refuse_other_versions(config: Mapping[str, Any], where: str) -> None:
    """Check that the packages here give the numbers of those that a run was begun with.

    Args:
        config: A run's configuration as it was written, perhaps by another version.
        where: The run, for the message.

    Raises:
        ConfigError: with every difference.
    """
    other = other_versions(config)
    if other:
        raise ConfigError(
            f"{where} was begun with other versions: {'; '.join(other)}",
            "install those here, or go on with: sret-nas search … --accept-versions; numbers "
            "of different versions may not compare",
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
