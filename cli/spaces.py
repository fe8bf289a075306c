"""``sret-nas spaces``: bundled and own search spaces, and what a budget leaves of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas.units import format_count, format_quantity, parse_budgets

from .output import (
    Column,
    Format,
    FormatOption,
    JsonOption,
    emit,
    note,
    print_json,
    print_table,
    say,
)
from .where import CodeOption, alone, choose_device, space_of, tell_code

if TYPE_CHECKING:
    from sret_nas.space import Check, Clock
    from sret_nas.units import Budget

app = typer.Typer(no_args_is_help=True, help="Search spaces: list, show, check, sample.")


class SampleFormat(StrEnum):
    """How sampled architectures are printed."""

    table = "table"
    json = "json"
    csv = "csv"
    yaml = "yaml"


def _names(incomplete: str) -> list[str]:
    from sret_nas.space import bundled

    return [name for name in bundled() if name.startswith(incomplete)]


SpaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPACE", help="Name of a bundled space, or a file.", autocompletion=_names
    ),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", help="4GMACs, 5Mparams, 500MB, 2ms@32; several hold at once."),
]
DeviceOption = Annotated[
    str, typer.Option(help="Where budgets in ms hold: auto, cpu, cuda, cuda:N.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]


@app.command("list", epilog="Example: sret-nas spaces list --format json")
def list_(form: FormatOption = Format.table, as_json: JsonOption = False) -> None:
    """The bundled search spaces."""
    from sret_nas.space import SearchSpace, bundled

    rows = []
    for name, path in bundled().items():
        space = SearchSpace.load(path)
        extremes = space.extremes
        rows.append(
            {
                "name": name,
                "encodings": space.size,
                "architectures": space.distinct.value,
                **{f"{metric}_{end}": getattr(extremes[metric], end)
                   for metric in ("macs", "params") for end in ("low", "high")},
                "description": space.description,
            }
        )  # fmt: skip
    columns = [
        Column("name", "name", left=True),
        Column("architectures", "architectures", format_count),
        Column("encodings", "encodings", format_count, rank=5),
        Column("macs_low", "least MACs", format_count, rank=3),
        Column("macs_high", "most MACs", format_count),
        Column("params_low", "least params", format_count, rank=3),
        Column("params_high", "most params", format_count),
        Column("description", "for", long=True, rank=4),
    ]
    emit(rows, columns, Format.json if as_json else form)


@app.command(epilog="Example: sret-nas spaces show sret > mine.yaml")
def show(
    space: SpaceArgument,
    allow_code: CodeOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """The file of a space, annotated with sizes: a file to copy and edit."""
    from sret_nas.space import annotated

    form = Format.json if as_json else form
    if form is Format.table:
        print(annotated(space, tell_code if allow_code else False), end="")
        return
    found = space_of(space, allow_code)
    rows = [
        {"coordinate": d.name, "count": len(d.choices), "choices": list(d.choices)}
        for d in found.coordinates
    ]
    document = {
        "name": found.name,
        "description": found.description,
        "encodings": found.size,
        "architectures": {
            "value": found.distinct.value,
            "low": found.distinct.low,
            "high": found.distinct.high,
            "exact": found.distinct.exact,
        },
        "metrics": {
            metric: {"low": e.low, "high": e.high, "exact": e.exact}
            for metric, e in found.extremes.items()
        },
        "coordinates": rows,
    }
    columns = [Column(key, key) for key in ("coordinate", "count", "choices")]
    emit(
        [row | {"choices": json.dumps(row["choices"])} for row in rows]
        if form is Format.csv
        else rows,
        columns,
        form,
        document,
    )


@app.command(epilog="Example: sret-nas spaces check sret --budget 4GMACs --budget 10Mparams")
def check(
    space: SpaceArgument,
    budget: BudgetOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    allow_code: CodeOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """How much of a space satisfies a budget; exit code 3 where nothing does."""
    from sret_nas import space as spaces

    form = Format.json if as_json else form
    budgets = parse_budgets(budget or ())
    found = space_of(space, allow_code)
    result = spaces.check(found, budgets, seed, _clock(budgets, device))
    if form is Format.json:
        print_json(_document(found, budgets, result))
    else:
        _print_check(found, result, form)
    for bound in result.bounds:
        if bound.excludes_nothing:
            note(f"{bound.budget.text} excludes nothing: it holds in all of {found.name}")
    for warning in result.warnings:
        note(warning)
    if result.infeasible is not None:
        raise result.infeasible


@app.command(epilog="Example: sret-nas spaces sample sret -n 5 --budget 1GMACs --format yaml")
def sample(
    space: SpaceArgument,
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, max=1_000_000, help="How many.")
    ] = 5,
    budget: BudgetOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    allow_code: CodeOption = False,
    form: Annotated[
        SampleFormat, typer.Option("--format", help="How to print the result.")
    ] = SampleFormat.table,
    as_json: JsonOption = False,
) -> None:
    """Distinct architectures of a space that satisfy a budget."""
    from sret_nas.cost import cost

    budgets = parse_budgets(budget or ())
    found = space_of(space, allow_code)
    clock = _clock(budgets, device)
    archs = found.sample(number, seed, budgets, clock)
    if form is SampleFormat.yaml and not as_json:
        print("---\n".join(f"# {arch.id}\n{arch.to_yaml()}" for arch in archs), end="")
    else:
        rows = []
        for arch in archs:
            known = cost(arch)
            row: dict[str, Any] = {
                "id": arch.id,
                "macs": known.macs,
                "params": known.params,
                "peak_bytes": known.peak_bytes,
                "depth": known.depth,
                "image_size": arch.image_size,
            }
            if clock is not None:
                for bound in budgets:
                    if bound.metric == "latency_ms":
                        timing = clock(arch, bound.batch)
                        row[bound.key] = timing.ms
                        row["latency_source"] = timing.source
            rows.append(row | {"architecture": arch.to_dict()})
        timed = [b.key for b in budgets if b.metric == "latency_ms"]
        columns = [
            Column("id", "id", left=True),
            Column("macs", "MACs", format_count),
            Column("params", "params", format_count),
            Column("peak_bytes", "memory", lambda x: format_quantity("peak_bytes", x), rank=1),
            *(Column(key, key, lambda x: f"{x:.3g}") for key in timed),
            *([Column("latency_source", "by", rank=2, left=True)] if timed else []),
            Column("depth", "depth", rank=3),
            Column("image_size", "px", rank=3),
        ]
        emit(rows, columns, Format.json if as_json else Format(form.value))
    if len(archs) < number:
        note(f"{len(archs)} instead of {number}: the space holds no more within the budget")


def _clock(budgets: Iterable[Budget], device: str) -> Clock | None:
    """A clock where there is a bound on latency; torch is loaded only then."""
    if all(budget.metric != "latency_ms" for budget in budgets):
        return None
    from sret_nas.space import clock

    device = choose_device(device)
    return clock(device, progress=note, alone=partial(alone, device))


def _document(found: Any, budgets: Iterable[Budget], result: Check) -> dict[str, Any]:
    share = result.share
    return {
        "space": found.name,
        "budget": {budget.key: budget.limit for budget in budgets},
        "feasible": result.infeasible is None,
        "share": {
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "encodings": share.rows,
        },
        "metrics": {
            s.metric: {
                "limit": s.limit,
                "min": s.low,
                "q1": s.quartiles[0],
                "median": s.quartiles[1],
                "q3": s.quartiles[2],
                "max": s.high,
                "exact": s.exact,
                "source": s.source,
            }
            for s in result.spreads
        },
        "bounds": {
            b.budget.key: {
                "limit": b.budget.limit,
                "smallest": b.extreme.low,
                "smallest_within_others": b.low_within_rest,
                "architecture": b.extreme.lightest.to_dict(),
                "tightest": b is max(result.bounds, key=lambda one: one.tightness),
                "excludes_nothing": b.excludes_nothing,
            }
            for b in result.bounds
        },
        "published": [
            {"name": p.name, "contained": p.contained, "feasible": p.feasible, "metrics": p.metrics}
            for p in result.published
        ],
    }


def _print_check(found: Any, result: Check, form: Format) -> None:
    """Tables: the spread of every metric, the published models."""
    keys = ("min", "q1", "median", "q3", "max", "budget")
    rows = []
    for s in result.spreads:
        shown = _quantity(s.metric)
        values = (s.low, *s.quartiles, s.high, s.limit)
        name = s.metric if form is Format.csv else NAMES.get(s.metric, s.metric)
        row: dict[str, Any] = {
            key: value if form is Format.csv or value is None else shown(value)
            for key, value in zip(keys, values, strict=True)
        }
        rows.append(row | {"metric": name, "by": s.source if s.exact else f"{s.source}, sampled"})
    columns = [
        Column("metric", "metric", left=True),
        *(Column(key, key, rank=2 if key in ("q1", "q3") else 0) for key in keys),
        Column("by", "min and max", rank=3, left=True),
    ]
    if form is Format.csv:
        emit(rows, columns, form)
        return
    print_table(rows, columns, f"{found.name}: {_share(result)}")
    say()
    metrics = [spread.metric for spread in result.spreads]
    published = [
        {"name": p.name, "contained": "yes" if p.contained else "no"}
        | {"feasible": "yes" if p.feasible else "no"}
        | p.metrics
        for p in result.published
    ]
    print_table(
        published,
        [
            Column("name", "published", left=True),
            Column("contained", "in the space", rank=1, left=True),
            Column("feasible", "within the budget", left=True),
            *(
                Column(metric, NAMES.get(metric, metric), _quantity(metric), rank)
                for rank, metric in enumerate(metrics)
            ),
        ],
    )


NAMES = {"macs": "MACs", "peak_bytes": "memory"}
"""What tables call metrics whose own name is for machines."""


def _quantity(metric: str) -> Callable[[float], str]:
    """A metric in few characters; MACs and parameters need no unit beside their name."""
    if metric in ("macs", "params"):
        return format_count
    return lambda value: format_quantity(metric.partition("@")[0], value)


def _share(result: Check) -> str:
    share = result.share
    if share.low == share.high:
        return f"{share.value:.3%} feasible (all {share.rows:,} encodings)"
    return (
        f"{share.value:.3%} feasible, 95% interval {share.low:.3%} to {share.high:.3%} "
        f"({share.rows:,} encodings)"
    )
