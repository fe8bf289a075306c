"""``sret-nas search``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas.errors import SretNasError
from sret_nas.evaluators.registry import EVALUATORS, PROXY

from .engine import LOCAL, EngineOption, tell_cluster
from .output import Format, FormatOption, JsonOption, count, note, status
from .pareto import show_front
from .plan import expectation, left_of, show_plan
from .where import CodeOption, StorageOption, StudyOption, space_of, tell_code, tell_foreign

if TYPE_CHECKING:
    from sret_nas.api import Search, SearchResult
    from sret_nas.data import DataSet
    from sret_nas.metrics import Declaration
    from sret_nas.proxy import Proxy
    from sret_nas.runner import Order


def search(
    space: Annotated[str, typer.Argument(help="Search space: a name or a YAML file.")] = "sret",
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", "-b", help="Upper bound, e.g. 4GFLOPs, 5Mparams, 2ms; repeatable."
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="Of loss, accuracy (or what the evaluator finds), macs, params, latency, memory; "
            "default loss,macs.",
            show_default=False,
        ),
    ] = None,
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
    evaluator: Annotated[
        str,
        typer.Option(
            help=f"What candidates are judged by: {', '.join(EVALUATORS)}, or module:name."
        ),
    ] = PROXY,
    sampler: Annotated[
        str, typer.Option(help="auto, known-cost, tpe, nsga2, nsga3, gp, qmc or random.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (all GPUs in turn) or cuda:N.")
    ] = "auto",
    latency_mode: Annotated[
        str | None,
        typer.Option(
            help="Latencies: eager, compile or graph; default graph on a GPU, eager on a CPU.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Latencies: fp32, bf16 or fp16, int8 of onnxruntime; default bf16 on a GPU, "
            "fp32 on a CPU.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Latencies: torch or onnxruntime, whatever runs the model later; default torch.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core on a CPU.")
    ] = None,
    engine: EngineOption = LOCAL,
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
    accept_versions: Annotated[
        bool,
        typer.Option(
            "--accept-versions", help="Go on with a run that was begun with other versions."
        ),
    ] = False,
    allow_code: CodeOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """Find the Pareto-optimal architectures of a space under a budget.

    The same command goes on with a run that was interrupted.
    """
    form = Format.json if as_json else form
    found = space_of(space, allow_code)
    from sret_nas import api

    tell_cluster(engine)
    with status() as progress:
        prepared = api.prepare(
            found,
            budget=budget or (),
            objectives=objectives,
            data=data,
            trials=trials,
            timeout=timeout,
            proxy=proxy,
            evaluator=evaluator,
            sampler=sampler,
            seed=seed,
            published=seeds,
            device=device,
            latency_mode=latency_mode,
            latency_dtype=dtype,
            latency_runtime=runtime,
            workers=workers,
            engine=engine,
            storage=storage,
            study=study,
            out=out,
            accept_versions=accept_versions,
            allow_code=allow_code,
            tell=progress,
        )
    run, config = prepared.run, prepared.config
    _announce(prepared)
    left = left_of(run, config)
    if dry_run:
        show_plan(prepared, left, form)
        return
    note(f"expect  {expectation(config, prepared.data, left)}")

    from .view import view

    with view(run, config) as shown:
        result = prepared.start(shown)
    _finish(result, form)
    if result.problem:
        note(f"warning: the dashboard has not all notes and artifacts: {result.problem}")
    if result.ending == "interrupted":
        note("interrupted: everything finished is kept; the same command goes on")
        raise typer.Exit(130)
    if result.ending == "timeout":
        note("the time is up; with a longer --timeout the same command goes on")


def _announce(prepared: Search) -> None:
    from sret_nas.runner.listing import of_other_data

    run, config, images = prepared.run, prepared.config, prepared.data
    note(f"device  {prepared.choice}")
    for bound in prepared.bounds:
        if bound.excludes_nothing:
            note(f"note: budget '{bound.budget}' excludes nothing of space '{prepared.space.name}'")
    for later in config.later_versions:
        mixed = ", ".join(f"{name} {number}" for name, number in later.items())
        note(f"note: the run was begun with other versions and goes on with {mixed}")
    plan = config.proxy
    note(f"run     {run.path}")
    earlier = None if run.exists else of_other_data(run, config)
    if earlier is not None:
        note(f"note: a new run: the data have changed since {earlier} was begun")
    if not run.own_database:
        note(f"study   {run.study_name} in {run.address}; more machines: sret-nas worker")
    if run.set_aside:
        note(f"note: the run goes on in {run.address}, not in the storage that is given")
    if config.evaluator == PROXY:
        note(
            f"proxy   {prepared.proxy_name}: {_scale(plan)}, "
            f"width ×{plan.width:g}, {len(images.train):,} images, {plan.epochs} epochs, "
            f"rungs at {', '.join(map(str, plan.rungs))}"
        )
    else:
        note(f"judged  by {config.evaluator}: {_declared(config.declaration)}")
    for line in config.unseen:
        note(f"note: {line}")
    if not config.unseen:
        note(f"sees    all {count(len(prepared.sight.choices), 'searched choice')}")
    for code in config.code:
        if code.what == "evaluator":
            tell_code(code.name, code.source(), code.what)
    note(f"workers {config.workers} on {config.device}")
    if config.latency:
        note("latency {runtime} {mode}, {dtype}, batch {batch}".format(**config.latency))
    for line in images.notes:
        note(f"data    {line}")
    note(f"models  {_head(config.space, images)}")


def _scale(plan: Proxy) -> str:
    """At what image size and stem stride a proxy tries what."""
    of = plan.reference
    if of is None:
        return f"{plan.image_size} px, stem stride {plan.stem_stride}"
    return (
        f"{plan.image_size} px for {of.image_size}, stem stride {plan.stem_stride} for "
        f"{of.stem_stride}, others in proportion"
    )


def _final(found: Declaration) -> str:
    """What is known at the end of an evaluation."""
    return "loss of the same training" if found.quality.name == "val_loss" else found.quality.title


def _declared(found: Declaration) -> str:
    """What an evaluator finds, in a line."""
    words = [
        f"{metric.title} ({'less' if metric.direction == 'minimize' else 'more'} is better)"
        for metric in found.metrics
    ]
    if found.step:
        words.append(f"compared at {found.step} {', '.join(map(str, found.fidelities))}")
    words.append(f"up to {found.seeds} seeds for the front" if found.seeds > 1 else "no seeds")
    return ", ".join(words)


def _head(space: dict[str, Any], images: DataSet) -> str:
    """Whether the architectures fit the data."""
    data = {"num_classes": images.num_classes, "in_chans": images.in_chans}
    return "; ".join(
        f"{name} {number} as the data have"
        if space[name] == number
        else f"{name} {space[name]} as the space says, where the data have {number}"
        for name, number in data.items()
    )


def _tell_order(outcome: SearchResult) -> None:
    """How well what was cheap to know ordered the candidates, of all sizes and of one."""
    from sret_nas.report.answer import one_size

    declared = outcome.config.declaration
    if declared.fidelities and not outcome.fidelity():
        note("too few candidates were trained to the end to judge how well the proxy orders them")
    size = one_size(outcome)
    within = {order.by: order for order in size["orders"]} if size else {}
    for order in outcome.fidelity():
        note(
            f"order by {order.by}: Kendall τ {_tau(order)} with the final {_final(declared)}, "
            f"{order.candidates} candidates"
            + (f"; of one size {_tau(within[order.by])}" if order.by in within else "")
        )
    if size:
        note(f"{size['verdict']} {size['spread']}".rstrip())


def _tau(order: Order) -> str:
    return f"{order.tau:.2f} [{order.low:.2f}, {order.high:.2f}]"


def _finish(outcome: SearchResult, form: Format) -> None:
    from sret_nas.report.answer import chosen
    from sret_nas.report.commands import take_away

    declared = outcome.config.declaration
    show_front(outcome, form)
    counts = outcome.counts()
    note("")
    note(", ".join(f"{number} {state}" for state, number in counts.items()))
    tell_foreign(outcome)
    for reason, number in outcome.failures().items():
        note(f"  failed: {number} × {reason}")
    if outcome.exhausted:
        note(f"the search ended early: {outcome.exhausted}")
    rejected = outcome.rejected()
    if rejected:
        words = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        note(f"proposals turned down {'untrained' if declared.trains else 'unevaluated'}: {words}")
    saving = outcome.saving()
    if saving is not None:
        note(f"stopping at rungs saved {saving:.0%} of the {declared.step}s")
    _tell_order(outcome)
    seconds = outcome.seconds()
    if seconds["workers"]:
        rest = 1 - seconds["training"] / seconds["workers"]
        note(
            f"{seconds['total']:,.0f} s in all; of all workers' time "
            f"{1 - rest:.1%} {declared.doing}, {rest:.1%} everything else"
        )
    path = outcome.run.path
    note(f"files   {path}/pareto.json, pareto.csv, architectures/")
    try:
        note(f"report  {outcome.report()}")
    except SretNasError as problem:  # the run itself is safe in its study
        note(f"note: no report: {problem}")
    if outcome.best:
        note(f"take    trial {outcome.best.trial}. {' '.join(chosen(outcome))}")
        note(f"next    sret-nas profile {path}/architectures/{outcome.best.trial:03d}.yaml")
        note(f"        {take_away(outcome, outcome.best.trial)[0]}")
