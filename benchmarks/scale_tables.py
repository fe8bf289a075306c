"""The kept results of ``scale.py`` as the tables of ``docs/scale.md``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STORAGES = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "grpc": "gRPC proxy",
    "grpc x2": "two proxies",
}
SERVERS = ("postgresql", "proxy 1", "proxy 2")
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def measure(_: argparse.Namespace, __: Callable[[dict[str, Any]], None]) -> None:
    print("\n\n".join(tables()))


def tables() -> Iterator[str]:
    """Efficiency, processor time, and asks, each as Markdown."""
    rows: list[Row] = json.loads((RESULTS / "scale-throughput.json").read_text())["throughput"]
    cells = {(row["storage"], row["workers"]): row for row in rows}
    counts = sorted({workers for _, workers in cells})
    yield _table(
        ["workers", *STORAGES.values()],
        [[n, *(f"{cells[name, n]['efficiency']:.1%}" for name in STORAGES)] for n in counts],
    )
    yield _table(
        ["workers", *(f"{name}: worker, servers" for name in STORAGES.values())],
        [[n, *(_processor(cells[name, n]) for name in STORAGES)] for n in counts],
    )
    readings = json.loads((RESULTS / "scale-reading.json").read_text())["readings"]
    yield _table(
        ["running trials", "seconds", "reader's processor, s", "PostgreSQL's, s", "MB"],
        [
            [
                f"{row['running']:,}",
                *(
                    f"{value:.2g}"
                    for value in (
                        row["median_s"],
                        row["cpu_s"]["reader"],
                        row["cpu_s"]["postgresql"],
                        row["bytes"] / 1e6,
                    )
                ),
            ]
            for row in readings
        ],
    )
    yield from _asks(json.loads((RESULTS / "scale-ask.json").read_text())["asks"])


def _processor(row: Row) -> str:
    """Milliseconds of a worker and of each server for one trial."""
    found = row["cpu_s_a_trial"]
    servers = [f"{found[name] * 1e3:.0f}" for name in SERVERS if name in found]
    return ", ".join([f"{found['worker'] * 1e3:.0f}", *servers])


def _asks(rows: list[Row]) -> Iterator[str]:
    cells = {(r["storage"], r["trials"], r["sampler"], r["arm"]): r for r in rows}
    sizes = sorted({row["trials"] for row in rows})
    for storage in dict.fromkeys(row["storage"] for row in rows):
        lines = []
        for sampler in dict.fromkeys(row["sampler"] for row in rows):
            line = [sampler]
            for size in sizes:
                ours, plain, turn = (
                    _seconds(cells.get((storage, size, sampler, arm)))
                    for arm in ("ask", "plain", "turn")
                )
                line += [f"{ours} / {plain}", turn]
            lines.append(line)
        head = [storage]
        for size in sizes:
            head += [f"{size:,}: ask / plain Optuna", "turn"]
        yield _table(head, lines)


def _seconds(row: Row | None) -> str:
    """Median in seconds; the only one, where one was enough."""
    if row is None:
        return "–"
    if "skipped" in row:
        return "not tried"
    seconds = row["first_s"] if row["median_s"] is None else row["median_s"]
    return f"{seconds:.2g}"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
