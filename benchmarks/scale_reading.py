"""What it costs to read a study while so many of its trials run.

Optuna keeps finished trials once they were read, and fetches running ones each time anew:
so this is what grows with the number of workers. One process reads; the other workers are
their trials alone. As in a search, what was there before is frozen. Times are of the reader
and of the server; bytes are those that went through the loopback interface meanwhile, both
ways, so the machine has to be quiet.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from scale_storages import STORAGES
from scale_study import DIRECTIONS, Finished, _insert

from sret_nas.study.address import Address
from sret_nas.study.storage import open_storage

COUNTS = (1, 64, 256, 1_024, 4_096)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storages", nargs="+", default=["postgresql"], choices=list(STORAGES))
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=5)


def measure(options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    finished = Finished(max(options.counts))
    for trial in finished.trials:
        trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
    rows: list[dict[str, Any]] = []
    for name in options.storages:
        for count in options.counts:
            with tempfile.TemporaryDirectory() as folder, STORAGES[name](Path(folder)) as storage:
                # What is put in goes straight to the database, also behind a proxy.
                direct = optuna.create_study(
                    study_name="scale",
                    directions=DIRECTIONS,
                    storage=storage.behind or storage.url,
                )
                _insert(direct, finished.trials[:count])
                study = optuna.load_study(
                    study_name="scale", storage=open_storage(Address(storage.url))
                )
                assert len(study.get_trials(deepcopy=False)) == count
                gc.freeze()
                before, traffic = storage.cpu_s(), _loopback()
                seconds, cpu_s = [], time.process_time()
                for _ in range(options.rounds):
                    start = time.perf_counter()
                    study.get_trials(deepcopy=False)
                    seconds.append(time.perf_counter() - start)
                cpu_s = (time.process_time() - cpu_s) / options.rounds
                servers = {
                    server: (spent - before[server]) / options.rounds
                    for server, spent in storage.cpu_s().items()
                }
                rows.append(
                    {
                        "storage": name,
                        "running": count,
                        "median_s": statistics.median(seconds),
                        "cpu_s": {"reader": cpu_s} | servers,
                        "bytes": (_loopback() - traffic) / options.rounds,
                    }
                )
            print(rows[-1], flush=True)
            save({"rounds": options.rounds, "readings": rows})


def _loopback() -> int:
    """Bytes that the loopback interface has received so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise SystemExit("there is no loopback interface")
