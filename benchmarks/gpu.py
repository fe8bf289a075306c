"""Everything that only a GPU can tell, in one command of at most eight minutes.

    python benchmarks/gpu.py                    # all sections, on the first GPU
    python benchmarks/gpu.py --minutes 3 --sections training search
    python benchmarks/gpu.py --device cpu       # the same code, reduced; a check of the script

Each section runs in a process of its own, which ends with its time, and what it has found
by then is kept. The same command goes on with the sections that have not ended. One table
has each goal beside its figure; what was not measured is called so, and in the reduced
form, or on a CPU, no goal is measured. No network; data from the package, or ``--data``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import gpu_goals
import gpu_process
from gpu_bench import SECTIONS, Bench, Row

from sret_nas.device import choose, fingerprint, resolve
from sret_nas.errors import SretNasError
from sret_nas.study.config import commit, versions

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections together")
    parser.add_argument(
        "--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS, metavar="NAME",
        help=f"some of: {', '.join(SECTIONS)}",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--data", default="demo", help="what training and search use")
    parser.add_argument("--reduced", action="store_true", help="tiny sizes, as on a CPU")
    parser.add_argument("--again", action="store_true", help="measure ended sections anew")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/gpu-NAME.json")
    options = parser.parse_args()
    try:
        measure(options)
    except SretNasError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))


def measure(options: argparse.Namespace) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would print notes
    choice = choose(options.device)
    print(f"device {choice}", flush=True)
    here = fingerprint(resolve(choice.name))
    bench = Bench(choice.name, options.data, options.reduced or choice.name == "cpu")
    out = options.out or default_out(bench, here.name)
    document = begin(out, bench, here.to_dict())
    sections: dict[str, Any] = document["sections"]
    ends = time.monotonic() + 60 * options.minutes
    todo = [n for n in options.sections if options.again or not ended(sections.get(n))]
    for name in options.sections:
        if name not in todo:
            print(f"{name}: has ended before; --again measures it anew")
    while todo:
        name, *rest = todo
        limit_s = share(name, todo, ends - time.monotonic())
        print(f"\n{name}: at most {limit_s:.0f} s", flush=True)
        found: dict[str, Any] = {"rows": [], "seconds": 0.0, "ended": "did not end"}
        sections[name] = found

        def keep(row: Row, found: dict[str, Any] = found) -> None:
            found["rows"].append(row)
            print(f"  {said(row)}", flush=True)
            write(out, document)

        start = time.monotonic()
        found["ended"] = gpu_process.run(name, bench, limit_s, keep)
        found["seconds"] = time.monotonic() - start
        print(f"  {found['ended']} after {found['seconds']:.0f} s", flush=True)
        todo = rest
        write(out, document)
    goals = gpu_goals.judge(sections, bench.reduced)
    document["goals"] = goals
    write(out, document)
    print(f"\n{gpu_goals.table(goals)}\n\non {here}\nkept in {out}")


def share(name: str, todo: list[str], left_s: float) -> float:
    """Seconds of a section: its part of what is left, by the sections that wait."""
    return max(0.0, left_s) * SECTIONS[name] / sum(SECTIONS[one] for one in todo)


def ended(section: dict[str, Any] | None) -> bool:
    return section is not None and section["ended"] == gpu_process.DONE


def default_out(bench: Bench, name: str) -> Path:
    """Beside the other results; what is reduced is no result, and goes where the user is."""
    if bench.reduced:
        return Path("gpu-reduced.json")
    words = "".join(sign if sign.isalnum() else "-" for sign in name.lower())
    return RESULTS / f"gpu-{words}.json"


def begin(out: Path, bench: Bench, device: dict[str, Any]) -> dict[str, Any]:
    """What was measured before, or an empty document.

    Raises:
        SretNasError: what is there is of another device, commit or form.
    """
    document: dict[str, Any] = {
        "device": device,
        "reduced": bench.reduced,
        "data": bench.data,
        "commit": commit(),
        "versions": versions(),
        "sections": {},
        "goals": [],
    }
    if not out.exists():
        return document
    try:
        before = json.loads(out.read_text())
        earlier = {key: before[key] for key in ("reduced", "data", "commit", "versions")}
        earlier["device"] = before["device"]["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise SretNasError(f"{out}: not a result of this script", "--out elsewhere") from error
    other = [
        f"{key} was {value}, now {now}"
        for key, value in earlier.items()
        if value != (now := device["key"] if key == "device" else document[key])
    ]
    if other:
        raise SretNasError(
            f"{out}: measured otherwise: {'; '.join(other)}", "move it away, or --out elsewhere"
        )
    return document | {"sections": before["sections"]}


def write(out: Path, document: dict[str, Any]) -> None:
    new = out.with_name(out.name + ".new")
    new.write_text(json.dumps(document, indent=1) + "\n")
    new.replace(out)


def said(value: Any) -> str:
    """A finding in one line; of what was measured often, the median."""
    if isinstance(value, dict):
        if "median" in value:
            return said(value["median"])
        parts = [(key, one) for key, one in value.items() if one is not None and key != "judged"]
        return "  ".join(f"{key} {said(one)}" for key, one in parts)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
