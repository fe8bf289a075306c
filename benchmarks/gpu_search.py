"""The main job: a whole search with its confirmation, and how busy the card is meanwhile.

Busy is what the driver says: the share of time in which a kernel ran, sampled five times a
second from the start of the command to its end, whoever ran it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from gpu_bench import Bench, Row

from sret_nas.runner import load

TRIALS = 24
SAMPLE_MS = 200
SPARE_S = 5.0
"""Before the section's time ends, to count what a search has that is not done by then."""


def rows(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield search(bench, Path(folder))


def search(bench: Bench, folder: Path) -> Row:
    out, trials = folder / "run", 2 if bench.reduced else TRIALS
    command = [str(Path(sys.executable).with_name("sret-nas")), "search"]
    if bench.reduced:
        plan = folder / "tiny.yaml"
        plan.write_text(yaml.safe_dump(TINY))
        command += ["smoke", "--proxy", str(plan), "--workers", "1"]
    command += ["--budget", "4GFLOPs", "--trials", str(trials), "--device", bench.device]
    command += ["--data", bench.data, "--out", str(out), "--json"]
    row: Row = {"what": "sret-nas search --budget 4GFLOPs", "trials": trials}
    start = time.monotonic()
    with utilisation(bench) as busy:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=max(1.0, min(1e6, bench.left_s() - SPARE_S)),
            )
        except subprocess.TimeoutExpired:
            done = None
    row |= {"seconds": time.monotonic() - start, "busy": busy[0] if busy else None}
    if done is None:
        found = load(out).counts() if (out / "study.db").exists() else {}
        return row | {"failed": "its time was over", "counts": dict(found)}
    if done.returncode:
        return row | {"failed": f"exit {done.returncode}: {last_line(done.stderr)}"}
    document = json.loads(done.stdout)
    front = document["front"]
    return row | {
        "counts": document["trials"],
        "account": document["seconds"],
        "front": len(front),
        "confirmed": sum((one.get("confirmation") or {}).get("seeds", 1) > 1 for one in front),
        "said": [
            line for line in done.stderr.splitlines() if line.startswith(("proxy", "workers"))
        ],
    }


TINY = {
    "image_size": 28,
    "width": 0.5,
    "subset": 64,
    "val_images": 32,
    "epochs": 2,
    "rungs": [1, 2],
    "batch": 32,
    "seeds": 2,
}
"""A proxy for the reduced form."""


@contextmanager
def utilisation(bench: Bench) -> Iterator[list[float]]:
    """Afterwards one number: the mean utilisation, from 0 to 1; none where nobody says it."""
    found: list[float] = []
    if not bench.cuda:
        yield found
        return
    uuid = torch.cuda.get_device_properties(bench.place).uuid
    command = ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits", f"--loop-ms={SAMPLE_MS}"]
    with tempfile.TemporaryFile("w+") as samples:
        try:
            watching = subprocess.Popen(command, stdout=samples, stderr=subprocess.DEVNULL)
        except OSError:
            yield found
            return
        try:
            yield found
        finally:
            watching.terminate()
            watching.wait()
            samples.seek(0)
            found += mean_share(samples.read())


def mean_share(text: str) -> list[float]:
    """The mean of percentages, one a line, as a share; nothing where there is none."""
    numbers = [int(line) for line in text.split() if line.isdecimal()]
    return [statistics.mean(numbers) / 100] if numbers else []


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
