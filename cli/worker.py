"""``sret-nas worker``: help a search that another machine has begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .engine import LOCAL, EngineOption, tell_cluster
from .output import note
from .where import CodeOption, StorageOption, StudyOption, tell_code, the_study

if TYPE_CHECKING:
    from sret_nas.runner import RunResult


def worker(
    storage: StorageOption = None,
    study: StudyOption = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (all GPUs in turn) or cuda:N.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core on a CPU.")
    ] = None,
    engine: EngineOption = LOCAL,
    data: Annotated[
        Path | None, typer.Option(help="Where the data are here; default: as the search.")
    ] = None,
    allow_code: CodeOption = False,
) -> None:
    """Try candidates for a search whose study is in a shared storage.

    Space, budget, proxy and the data's name come from the study. It ends when the study
    has enough candidates and its front is confirmed; Ctrl-C hands its candidate back.
    Code of somebody else's that the study names, for its space or as its evaluator, runs with
    --allow-code alone, and only if it is the code that the search was begun with.
    """
    name = the_study(storage, study)
    from sret_nas.runner import executors, join
    from sret_nas.study.heartbeat import me
    from sret_nas.study.rundir import RunDir

    from .view import Lines

    run = RunDir(storage=storage, study=name)
    note(f"study   {name} in {run.address}")
    tell_cluster(engine)
    who, kind = me(), executors.engine_of(engine)
    choice = executors.choose_device(kind, device)
    note(f"device  {choice}")
    executor = executors.executor_of(kind)
    if executor is not None and workers is None:
        workers = executors.room(kind, choice.name)
    for code in run.config().code if allow_code else []:
        tell_code(code.name, code.source(), code.what)
    source, lines = None if data is None else str(data), Lines(run.config(), who.name)
    ended = join(
        run, who, choice.name, workers, source, lines, executor=executor, allow_code=allow_code
    )
    note(_sum(ended.outcome, who.name))
    if ended.ending == "interrupted":
        note("interrupted: what was at work is handed back")
        raise typer.Exit(130)
    where = "" if "SRET_NAS_STORAGE" in os.environ else f" --storage {run.address}"
    note(f"next    sret-nas pareto{where} --study {name}")


def _sum(outcome: RunResult, team: str) -> str:
    """What this command did, and what all did."""
    from sret_nas.study.trials import owner, standing

    whose = [owner(trial) for trial in standing(outcome.study) if trial.state.is_finished()]
    own = sum(who is not None and who.team == team for who in whose)
    counts = ", ".join(f"{number} {state}" for state, number in outcome.counts().items())
    return f"{own} candidates here; {counts} in all"
