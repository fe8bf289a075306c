"""``sret-nas search``: the main job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas.errors import SretNasError, UsageError
from sret_nas.units import parse_budgets

from .engine import Engine, EngineOption, crew_of, room
from .output import Column, Format, FormatOption, JsonOption, emit, note, print_json, status
from .pareto import show_front
from .where import StorageOption, StudyOption

if TYPE_CHECKING:
    from optuna import Study

    from sret_nas.search import Outcome, RunConfig, RunDir
    from sret_nas.search.estimate import Estimate
    from sret_nas.space import SearchSpace

DEFAULT_TRIALS = 24
"""Candidates where neither trials nor a time are given: ten minutes of ``fast`` on two cores."""
SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def search(
    space: Annotated[str, typer.Argument(help="Search space: a name or a YAML file.")] = "sret",
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", "-b", help="Upper bound, e.g. 4GFLOPs, 5Mparams, 2ms; repeatable."
        ),
    ] = None,
    objectives: Annotated[
        str, typer.Option(help="Of loss, accuracy, macs, params, latency, memory.")
    ] = "loss,macs",
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates over the whole run.")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(help="Time for the whole run, confirming included, e.g. 30m."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Demonstration set, cifar10, a folder of images by class, ….")
    ] = "demo",
    proxy: Annotated[
        str, typer.Option(help="auto, fast, standard, thorough or a YAML file.")
    ] = "auto",
    sampler: Annotated[
        str, typer.Option(help="auto, known-cost, tpe, nsga2, nsga3, gp, qmc or random.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core on a CPU.")
    ] = None,
    engine: EngineOption = Engine.local,
    storage: StorageOption = None,
    study: StudyOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="One worker, one seed: one result.")] = 0,
    seeds: Annotated[
        bool, typer.Option("--seeds/--no-seeds", help="Try the published variants first.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; train nothing.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """Find the Pareto-optimal architectures of a space under a budget.

    The same command goes on with a run that was interrupted.
    """
    form = Format.json if as_json else form
    budgets = parse_budgets(budget or [])
    limit_s = _seconds(timeout)
    from sret_nas.space import SearchSpace

    found = SearchSpace.load(space)
    for bound in found.examine(budgets):
        if bound.excludes_nothing:
            note(f"note: budget '{bound.budget}' excludes nothing of space '{found.name}'")

    from sret_nas.data import load_data
    from sret_nas.device import resolve
    from sret_nas.proxy import choose
    from sret_nas.search import Ended, RunConfig, RunDir, commit, versions
    from sret_nas.search import search as run_search
    from sret_nas.search.config import code_of
    from sret_nas.search.objectives import parse
    from sret_nas.search.samplers import check

    goals = parse([name.strip() for name in objectives.split(",")])
    sampler = check(sampler)
    resolve(device)
    crew = crew_of(engine)
    plan, plan_name = choose(proxy, device)
    with status() as progress:
        progress(f"reading data '{data}'")
        images = load_data(data, seed=seed, **plan.load_options())
    timed = any(b.metric == "latency_ms" for b in budgets) or any(
        goal.name == "latency_ms" for goal in goals
    )
    if workers is None:
        workers = 1 if timed else room(engine, device)
    config = RunConfig(
        space=found.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
        space_folder=str(Path(space).resolve().parent) if Path(space).is_file() else None,
        space_code=code_of(found),
        budget=tuple(str(bound) for bound in budgets),
        objectives=tuple(goal.name for goal in goals),
        data={"source": data, "fingerprint": images.fingerprint},
        proxy=plan,
        sampler=sampler,
        seed=seed,
        published=seeds,
        device=device,
        trials=trials or (None if limit_s else DEFAULT_TRIALS),
        timeout_s=limit_s,
        workers=workers,
        versions=versions(),
        commit=commit(),
    )
    run = RunDir(out or Path("runs") / (study or config.name), storage, study)
    _announce(run, config, plan_name, images)
    if dry_run or not run.exists:
        from sret_nas.search.estimate import estimate

        with status() as progress:
            progress("training an architecture for a few steps, to know how fast this machine is")
            expected = estimate(config, images, config.trials or DEFAULT_TRIALS)
        if dry_run:
            _plan(found, config, expected, form)
            return
        if config.trials:
            note(f"expect  about {_minutes(expected.seconds)}, by the speed measured just now")

    from sret_nas.report.publish import Upkeep

    from .view import view

    upkeep = Upkeep(run, config)
    with view(run, config) as shown:

        def watch(study: Study) -> None:
            shown(study)
            upkeep(study)

        ended: Ended = run_search(run, config, watch, crew=crew)
    upkeep.finish(ended.outcome)
    _finish(ended.outcome, form)
    if upkeep.problem:
        note(f"warning: the dashboard has not all notes and artifacts: {upkeep.problem}")
    if ended.ending == "interrupted":
        note("interrupted: everything finished is kept; the same command goes on")
        raise typer.Exit(130)
    if ended.ending == "timeout":
        note("the time is up; with a longer --timeout the same command goes on")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in SECONDS or not float(match[1]):
        raise UsageError(f"--timeout: given '{text}'; allowed: e.g. 90s, 30m, 2h")
    return float(match[1]) * SECONDS[match[2]]


def _announce(run: RunDir, config: RunConfig, plan_name: str, images: Any) -> None:
    plan = config.proxy
    note(f"run     {run.path}")
    if not run.own_database:
        note(f"study   {run.study_name} in {run.address}; more machines: sret-nas worker")
    if run.set_aside:
        note(f"note: the run goes on in {run.address}, not in the storage that is given")
    note(
        f"proxy   {plan_name}: {plan.image_size} px, stem stride {plan.stem_stride}, "
        f"width ×{plan.width:g}, {len(images.train):,} images, {plan.epochs} epochs, "
        f"rungs at {', '.join(map(str, plan.rungs))}"
    )
    note(f"workers {config.workers} on {config.device}")
    for line in images.notes:
        note(f"data    {line}")


def _plan(space: SearchSpace, config: RunConfig, expected: Estimate, form: Format) -> None:
    """The plan of a run: how much is feasible, what it would try, how long it would take."""
    from sret_nas.space import check, clock

    timed = any(b.metric == "latency_ms" for b in config.budgets)
    with status() as progress:
        progress("looking at the space")
        tell = clock(config.device) if timed else None
        feasible = check(space, config.budgets, seed=config.seed, clock=tell)
    document = {
        "schema": 1,
        "space": space.name,
        "budget": list(config.budget),
        "feasible_share": feasible.share.value,
        "proxy": config.proxy.model_dump(mode="json"),
        "trials": config.trials or DEFAULT_TRIALS,
        "training_images": expected.images,
        "images_per_s": expected.images_per_s,
        "expected_s": expected.seconds,
        "architecture": expected.arch.to_dict(),
    }
    if form is Format.json:
        print_json(document)
        return
    speed = f"{expected.images_per_s:,.0f} images/s, measured on the sample"
    rows = [
        {"what": "feasible share of the space", "value": f"{feasible.share.value:.2%}"},
        {"what": "candidates", "value": str(document["trials"])},
        {"what": "work", "value": f"{expected.images:,} training images"},
        {"what": "speed of one worker", "value": speed},
        {"what": "expected time", "value": _minutes(expected.seconds)},
        {"what": "a sample", "value": f"{expected.arch.id} {expected.arch.to_json()}"},
    ]
    emit(rows, [Column("what", "plan", left=True), Column("value", "", long=True)], form)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _finish(outcome: Outcome, form: Format) -> None:
    show_front(outcome, form)
    counts = outcome.counts()
    note("")
    note(", ".join(f"{number} {state}" for state, number in counts.items()))
    for reason, number in outcome.failures().items():
        note(f"  failed: {number} × {reason}")
    if outcome.exhausted:
        note("everything in the space that can be tried has been")
    turned_down = outcome.turned_down()
    if turned_down:
        words = ", ".join(f"{number} {reason}" for reason, number in turned_down.items())
        note(f"proposals turned down untrained: {words}")
    saving = outcome.saving()
    if saving is not None:
        note(f"stopping at rungs saved {saving:.0%} of the epochs")
    if not outcome.fidelity():
        note("too few candidates were trained to the end to judge how well the proxy orders them")
    for order in outcome.fidelity():
        note(
            f"order by {order.by}: Kendall τ {order.tau:.2f} [{order.low:.2f}, {order.high:.2f}] "
            f"with the final loss of the same training, {order.candidates} candidates"
        )
    seconds = outcome.seconds()
    if seconds["workers"]:
        rest = 1 - seconds["training"] / seconds["workers"]
        note(
            f"{seconds['total']:,.0f} s in all; of all workers' time "
            f"{1 - rest:.1%} training, {rest:.1%} everything else"
        )
    best = outcome.recommended()
    path = outcome.run.path
    note(f"files   {path}/pareto.json, pareto.csv, architectures/")
    from sret_nas.report import write

    try:
        note(f"report  {write(outcome)}")
    except SretNasError as problem:  # the run itself is safe in its study
        note(f"note: no report: {problem}")
    if best:
        note(f"next    sret-nas profile {path}/architectures/{best.trial:03d}.yaml")
