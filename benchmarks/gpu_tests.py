"""``pytest -m cuda``: how many pass, in what time, and which do not."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_bench import Bench, Row

ROOT = Path(__file__).parent.parent
OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
SPARE_S = 3.0
"""Before the section's time ends."""


def rows(bench: Bench) -> Iterator[Row]:
    what = "tests/test_device.py" if bench.reduced else "tests"
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "--tb=line", "--color=no", what]
    start = time.monotonic()
    outcomes: Counter[str] = Counter()
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        clock = threading.Timer(max(1.0, min(1e6, bench.left_s() - SPARE_S)), process.kill)
        clock.start()
        for line in process.stdout or ():
            last = line.strip() or last
            if match := OUTCOME.match(line):
                outcomes[match[2]] += 1
                if match[2] not in ("PASSED", "SKIPPED"):
                    yield {"what": match[1], "outcome": match[2]}
        code = process.wait()
        clock.cancel()
    yield {
        "what": "all",
        "passed": outcomes["PASSED"],
        "skipped": outcomes["SKIPPED"],
        "failed": sum(outcomes.values()) - outcomes["PASSED"] - outcomes["SKIPPED"],
        "seconds": time.monotonic() - start,
        "exit": code,  # negative: its time was over
        "last": last,
    }
