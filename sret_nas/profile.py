"""What one model costs, from formula, counters and clock together.

An architecture is costed by formula, and so is a model of one, as a folder or a file says it;
any other timm model by torch's counter, any other file not at all.

Requires torch only where something is counted or measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sret_nas.arch import Architecture
from sret_nas.cost import Cost, cost
from sret_nas.errors import ArchitectureError, SretNasError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from sret_nas.counters import Count
    from sret_nas.latency import Latency
    from sret_nas.latency.roofline import Bound
    from sret_nas.latency.runtimes.base import Source


@dataclass(frozen=True)
class Measured:
    """One batch size of one model on a device.

    Attributes:
        latency: Time and memory.
        bound: The least time the device needs; ``None`` where MACs are unknown.
    """

    latency: Latency
    bound: Bound | None

    def to_dict(self) -> dict[str, Any]:
        """The measurement with its bound under ``roofline``, as plain data for JSON."""
        bound = None
        if self.bound:
            bound = asdict(self.bound) | {
                key: getattr(self.bound, key) for key in ("least_ms", "share", "note")
            }
        return self.latency.to_dict() | {"roofline": bound}


@dataclass(frozen=True)
class Profile:
    """Everything known of one model; what does not apply is ``None``.

    Attributes:
        name: As it was asked for.
        arch: The architecture; ``None`` for a timm model.
        params: Unique parameters; ``None`` for a file that does not say its architecture.
        macs: Multiply-adds of one image.
        cost: The analytic cost; ``None`` for a timm model.
        counters: What other counters say, by name.
        measured: One entry a batch size that was measured.
        failures: What could not be measured, and why.
        time_share: Share of the run time by stage; empty where not measured.
        time_note: Why that was left out, where something was measured.
    """

    name: str
    arch: Architecture | None
    params: int | None
    macs: int | None
    cost: Cost | None
    counters: Mapping[str, Count] = field(default_factory=dict)
    measured: Sequence[Measured] = ()
    failures: Sequence[SretNasError] = ()
    time_share: Mapping[str, float] = field(default_factory=dict)
    time_note: str | None = None

    def to_dict(self, by_layer: bool = False) -> dict[str, Any]:
        """Plain data for JSON.

        Args:
            by_layer: With the rows by layer.
        """
        measured = [one.to_dict() for one in self.measured]
        data: dict[str, Any] = {
            "schema": 1,
            "name": self.name,
            "id": self.arch and self.arch.id,
            "params": self.params,
            "macs": self.macs,
            "depth": self.cost and self.cost.depth,
            "activations": self.cost and self.cost.activations,
            "weight_bytes": self.cost and self.cost.weight_bytes,
            "peak_bytes": self.cost and self.cost.peak_bytes,
            "by_stage": self.by_stage(),
            "time_share_note": self.time_note,
        }
        if by_layer:
            data["by_layer"] = [asdict(row) for row in self.cost.by_layer] if self.cost else None
        if self.counters:
            data["counters"] = {name: count.to_dict() for name, count in self.counters.items()}
        data["latency"] = measured[0] if measured else None
        data["latencies"] = measured
        data["failures"] = [str(failure) for failure in self.failures]
        data["architecture"] = self.arch and self.arch.to_dict()
        return data

    def by_stage(self) -> list[dict[str, Any]] | None:
        """Rows by stage with shares of parameters, MACs and time; ``None`` without a formula."""
        if self.cost is None:
            return None
        return [
            asdict(row)
            | {
                "params_share": row.params / self.cost.params,
                "macs_share": row.macs / self.cost.macs,
                "time_share": self.time_share.get(row.stage),
            }
            for row in self.cost.by_stage
        ]


@dataclass(frozen=True)
class Measurement:
    """How to measure: the arguments of ``latency.measure``.

    Attributes:
        batches: Batch sizes, in images.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``; ``None`` for the runtime's default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: One of the runtime's; ``None`` for its default.
        threads: Threads on the CPU; ``None`` for as many as torch has.
        seconds: Stop measuring after this long.
        runtime: Name of the runtime; ``None`` for torch, and for a file its own.
    """

    batches: Sequence[int] = (1,)
    dtype: str | None = None
    device: str = "auto"
    mode: str | None = None
    threads: int | None = None
    seconds: float = 6.0
    runtime: str | None = None

    def check(self) -> None:
        """Look whether it can be done here, before anything takes time.

        Raises:
            UsageError: no such device, type, mode, runtime, batch or number of threads.
        """
        for batch in self.batches:
            if batch < 1:
                raise UsageError(f"batch: given {batch}; allowed: at least 1")
        from sret_nas.latency import check

        check(self.dtype, self.device, self.mode, self.threads, self.runtime)


def profile(
    names: Sequence[str],
    *,
    counters: bool = False,
    measurement: Measurement | None = None,
    resolve: Callable[[str], Architecture] = Architecture.load,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Profile]:
    """Profile architectures and models; measurements are interleaved.

    Args:
        names: Presets, files, model folders, files of a runtime's own or names of timm models.
        counters: Ask the other counters as well.
        measurement: What to measure; ``None`` measures nothing.
        resolve: Finds the architecture of a name.
        progress: Told a line for every step that takes long.

    Raises:
        ArchitectureError: a name is neither an architecture nor a timm model, or
            its file is wrong.
        UsageError: the measurement cannot be done on this machine.
    """
    if measurement is not None:
        measurement.check()
    found = {name: _find(name, resolve) for name in names}
    archs = {name: arch for name, one in found.items() if (arch := _arch(one))}
    costs = {name: cost(arch) for name, arch in archs.items()}
    counts: dict[str, Mapping[str, Count]] = {name: {} for name in found}
    for name, one in found.items():
        counted = archs.get(name) or _module(one)
        wanted = None if counters else [] if name in archs else ["torch"]
        if wanted != [] and counted is not None:
            from sret_nas.counters import count

            progress(f"counting {name}")
            counts[name] = count(counted, wanted)
    macs = {name: costs[name].macs if name in costs else _counted(counts[name]) for name in found}
    measured, failures, stages = _measure(found, archs, macs, measurement, progress)
    return [
        Profile(
            name=name,
            arch=archs.get(name),
            params=costs[name].params if name in costs else _params(_module(one)),
            macs=macs[name],
            cost=costs.get(name),
            counters=counts[name] if counters or name not in archs else {},
            measured=measured.get(name, []),
            failures=failures.get(name, []),
            time_share=stages[name][0] if name in stages else {},
            time_note=stages[name][1] if name in stages else None,
        )
        for name, one in found.items()
    ]


ARCHITECTURES = (".yaml", ".yml", ".json")
"""How files of architectures end."""
Stages: TypeAlias = "tuple[Mapping[str, float], str | None]"
"""Shares of the time by stage, and why there are none."""


def _find(name: str, resolve: Callable[[str], Architecture]) -> Source:
    path = Path(name)
    if (path / "config.json").is_file():
        from sret_nas.model import load_any

        return load_any(path).eval()
    if path.is_file() and path.suffix.lower() not in ARCHITECTURES:
        from sret_nas.latency.runtimes import opened

        file = opened(path)
        if file is not None:
            return file
    try:
        return resolve(name)
    except ArchitectureError as error:
        if not _plausible(name):
            raise
        import timm

        if not timm.is_model(name):
            raise ArchitectureError(f"{error}; nor is it a timm model", error.hint) from error
        try:
            model: nn.Module = timm.create_model(name, pretrained=False)
        except (RuntimeError, ValueError) as unknown:  # a tag that timm does not know
            raise ArchitectureError(f"timm model '{name}': {unknown}", error.hint) from unknown
        return model.eval()


def _plausible(name: str) -> bool:
    """Whether a name could be timm's, before timm is imported to look."""
    return name.replace("_", "").replace(".", "").isalnum() and not name.endswith(ARCHITECTURES)


def _arch(source: Source) -> Architecture | None:
    """The architecture of a source, where it is of one."""
    found = source if isinstance(source, Architecture) else getattr(source, "arch", None)
    return found if isinstance(found, Architecture) else None


def _module(source: Source) -> nn.Module | None:
    """The source itself where it is a module; a file of a runtime's own is none."""
    return cast("nn.Module", source) if hasattr(source, "parameters") else None


def _params(model: nn.Module | None) -> int | None:
    return None if model is None else sum(one.numel() for one in model.parameters())


def _counted(counts: Mapping[str, Count]) -> int | None:
    """MACs as torch's dispatcher counts them, where it was asked."""
    return counts["torch"].macs if "torch" in counts else None


def _measure(
    found: Mapping[str, Source],
    archs: Mapping[str, Architecture],
    macs: Mapping[str, int | None],
    how: Measurement | None,
    progress: Callable[[str], None],
) -> tuple[dict[str, list[Measured]], dict[str, list[SretNasError]], dict[str, Stages]]:
    measured: dict[str, list[Measured]] = {}
    failures: dict[str, list[SretNasError]] = {}
    stages: dict[str, Stages] = {}
    if how is None:
        return measured, failures, stages
    from sret_nas.device import resolve
    from sret_nas.latency import Latency, measure
    from sret_nas.latency.roofline import roofline

    device = str(resolve(how.device))  # one for everything below
    results = measure(
        found,
        batches=how.batches,
        dtype=how.dtype,
        device=device,
        mode=how.mode,
        threads=how.threads,
        seconds=how.seconds,
        runtime=how.runtime,
        progress=progress,
    )
    timed = {key: one for key, one in results.items() if isinstance(one, Latency)}
    for (name, _), result in results.items():
        if not isinstance(result, Latency):
            failures.setdefault(name, []).append(result)
    bounds: dict[tuple[str, int], Bound] = {}
    for again in (False, True):
        if timed and (not again or any(bound.beaten for bound in bounds.values())):
            progress("measuring what the device can do at best (once)")
            ceilings = roofline(device, how.threads, again)
            bounds = {
                key: bound
                for key, one in timed.items()
                if (count := macs[key[0]])
                and (
                    bound := ceilings.bound(
                        count * one.batch, one.least_bytes, one.dtype, one.median_ms
                    )
                )
            }
    for key, one in timed.items():
        measured.setdefault(key[0], []).append(Measured(one, bounds.get(key)))
    for name in measured:
        if name in archs:
            stages[name] = _by_stage(archs[name], measured[name][0].latency, how, progress)
    return measured, failures, stages


def _by_stage(
    arch: Architecture, whole: Latency, how: Measurement, progress: Callable[[str], None]
) -> Stages:
    """Shares of the time in the mode that was measured, or why there are none."""
    from sret_nas.latency.breakdown import time_by_stage
    from sret_nas.latency.runtimes import named

    why = named(whole.runtime).one_piece(whole.mode)
    if why is not None:
        return {}, why
    progress(f"timing the stages of {whole.name}")
    try:
        found = time_by_stage(
            arch, whole.batch, whole.dtype, whole.device, threads=how.threads, mode=whole.mode
        )
    except (SretNasError, RuntimeError) as error:  # such as too little memory for both
        return {}, str(error).splitlines()[0]
    return found.shares, found.note
