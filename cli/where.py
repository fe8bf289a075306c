"""Which run a command is about: a directory, or a study in a storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sret_nas.errors import UsageError

from .output import note

if TYPE_CHECKING:
    from sret_nas.runner import RunResult
    from sret_nas.space import SearchSpace

RUNS = Path("runs")
CodeOption = Annotated[
    bool,
    typer.Option("--allow-code", help="Run the Python module that a space or a study names."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="fp32, bf16 or fp16, int8 of onnxruntime; default bf16 on a GPU, fp32 on a CPU.",
        show_default=False,
    ),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        help="eager, compile or graph; default graph on a GPU, eager on a CPU.", show_default=False
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        help="What runs the model: torch or onnxruntime; default torch, of an .onnx file its own.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads on the CPU.")]
RunArgument = Annotated[
    Path | None,
    typer.Argument(help="Run directory; default the newest in runs/.", show_default=False),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="SRET_NAS_STORAGE",
        help="Address of a storage: postgresql://…, mysql://…, sqlite:///FILE, grpc://HOST:PORT, "
        "or @FILE with it.",
        show_default=False,
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", help="Name of the study in the storage.", show_default=False),
]


def space_of(source: str, allow_code: bool) -> SearchSpace:
    """A space; the module of its callable is named before it runs.

    Raises:
        ConfigError: no such space, or it needs code that may not run.
    """
    from sret_nas.space import SearchSpace

    return SearchSpace.load(source, tell_code if allow_code else False)


def choose_device(device: str) -> str:
    """The device that was chosen, which is said: ``cpu`` or ``cuda:N``.

    Raises:
        UsageError: there is no such device, or it cannot be used.
    """
    from sret_nas.device import choose

    choice = choose(device)
    note(f"device  {choice}")
    return choice.name


@contextmanager
def alone(device: str) -> Iterator[None]:
    """Within, nothing of ours computes on the device: a search waits after its epoch.

    Raises:
        UsageError: there is no such device, or nothing can be kept in the cache folder.
    """
    from sret_nas.device import resolve
    from sret_nas.runner.lease import lease

    with lease(resolve(device)).measuring(note):
        yield


def tell_code(name: str, path: Path, what: str = "callable") -> None:
    """Name the code that is about to run."""
    note(f"code    {what} '{name}' runs {path}")


def find(run: Path | None, storage: str | None, study: str | None) -> RunResult:
    """The run that is meant: its directory, or ``--storage`` and ``--study``, or the newest.

    Raises:
        UsageError: none is given and there is none in runs/, or the storage has several studies.
        ConfigError: no run is there.
    """
    from sret_nas.runner import load

    if run is None and storage is None and study is None:
        run = _newest()
        note(f"run     {run}")
    if run is not None:
        if study is not None:
            raise UsageError("given a run directory and --study; allowed: one of the two")
        found = load(run, storage)
    else:
        found = load(storage=storage, study=the_study(storage, study))
    tell_foreign(found)
    return found


def tell_foreign(outcome: RunResult) -> None:
    """Say that trials of others are left out."""
    if outcome.foreign:
        some = "1 trial" if outcome.foreign == 1 else f"{outcome.foreign} trials"
        note(f"note: {some} in the study, not made by sret-nas, left out")


def _newest() -> Path:
    """The run in runs/ that was written to last."""
    found = list(RUNS.glob("*/config.yaml"))
    if not found:
        raise UsageError(
            "which run? there is none in runs/",
            "give its directory, or --storage and --study; sret-nas search makes runs",
        )
    return max(found, key=lambda path: max(p.stat().st_mtime for p in path.parent.iterdir())).parent


def the_study(storage: str | None, study: str | None) -> str:
    """The name of the study that is meant; the only one needs no name.

    Raises:
        UsageError: there is no storage, or it has none or several.
    """
    if storage is None:
        raise UsageError(
            "which run? give its directory, or --storage and --study",
            "sret-nas runs lists runs; SRET_NAS_STORAGE stands for --storage",
        )
    if study is not None:
        return study
    from sret_nas.runner.listing import names

    found = names(storage)
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"--study: the storage has {len(found)} studies of sret-nas",
        f"--study with one of: {', '.join(found[:10])}" if found else "sret-nas search makes one",
    )
