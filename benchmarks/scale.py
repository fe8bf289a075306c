"""What a study of many trials, and a crowd of workers, cost.

    python benchmarks/scale.py ask
    python benchmarks/scale.py throughput
    python benchmarks/scale.py reading
    python benchmarks/scale.py tables

Each is explained in a file of its own; ``docs/scale.md`` reads the figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import scale_ask
import scale_reading
import scale_tables
import scale_throughput
from scale_study import BUDGET, SPACE

from sret_nas.device import cores, processor
from sret_nas.study.config import commit, versions

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "ask": scale_ask,
    "throughput": scale_throughput,
    "reading": scale_reading,
    "tables": scale_tables,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in BENCHMARKS.items():
        doc = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=doc, description=doc)
        command.add_argument("--out", type=Path, default=RESULTS / f"scale-{name}.json")
        module.arguments(command)
    options = parser.parse_args()
    machine = {"processor": processor(), "cores": cores()}
    document = {"space": SPACE, "budget": BUDGET, "machine": machine}
    document |= {"versions": versions(), "commit": commit()}

    def save(results: dict[str, object]) -> None:
        options.out.write_text(json.dumps(document | results, indent=1) + "\n")

    BENCHMARKS[options.command].measure(options, save)


if __name__ == "__main__":
    main()
