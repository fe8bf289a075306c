"""Throughput of trials against the number of workers, with an evaluator that only waits.

Workers are processes that run the real ``Worker``; a training is a wait of so many seconds
in 12 epochs, so that many fit few cores. They are started and connected before the clock
starts, and begin one after the other within the length of one training: trainings end
spread over time, as real ones do, which all take differently long. With ``--together``
they begin at the same moment, as a job array does.

Efficiency is trials per second × seconds of a training ÷ workers; trials per second are
those of every worker over its own time, added up. Processor seconds a trial are those of
the worker, and of what serves the storage: they say how much of this machine it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from scale_storages import STORAGES, Storage
from scale_study import RUNGS, SPACE, StandIn, configuration, kept

from sret_nas.device import cores
from sret_nas.runner.strategies import SAMPLERS
from sret_nas.runner.worker import Worker
from sret_nas.space import SearchSpace
from sret_nas.study.rundir import RunDir, config_of

WORKERS = (1, 2, 4, 8, 16, 32, 64)
STUDY = "scale"
LONGEST_S = 600.0
"""How long workers may take to start."""
LOOK_S = 1.0
"""How often it is looked whether they live."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storages", nargs="+", default=list(STORAGES), choices=list(STORAGES))
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--sampler", default="random", choices=list(SAMPLERS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of a training")
    parser.add_argument("--rounds", type=int, default=4, help="trainings of a worker")
    parser.add_argument("--resume", action="store_true", help="keep what the file has already")
    parser.add_argument("--together", action="store_true", help="all begin at the same moment")


@dataclass(frozen=True)
class Told:
    """What a worker says at its end.

    Attributes:
        seconds: From its beginning to the end of its last trial.
        first_s: From its beginning to that of its first training.
        cpu_s: Of its process meanwhile.
    """

    seconds: float
    first_s: float
    cpu_s: float


def measure(options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    told = {
        "training_s": options.seconds,
        "epochs": RUNGS[-1],
        "trainings_of_a_worker": options.rounds,
        "sampler": options.sampler,
        "begin": "together" if options.together else "spread over one training",
    }
    rows: list[dict[str, Any]] = kept(options, told, "throughput")
    done = {(row["storage"], row["workers"]) for row in rows}
    for name in options.storages:
        for workers in options.workers:
            if (name, workers) in done:
                continue
            with tempfile.TemporaryDirectory() as folder, STORAGES[name](Path(folder)) as storage:
                found = run(storage, workers, options)
            rows.append({"storage": name, "workers": workers} | found)
            show(rows[-1])
            save(told | {"throughput": rows})


def run(storage: Storage, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """One cell: so many workers on a new study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = RunDir(storage=storage.url, study=STUDY)
    space = SearchSpace.load(SPACE)
    study = place.study(create=configuration(space, options.sampler))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scale_throughput"])
    barrier, results = context.Barrier(workers + 1), context.Queue()
    apart_s = 0.0 if options.together else options.seconds / workers
    doors = [storage.url, *storage.more]
    processes = [
        context.Process(
            target=work,
            args=(
                doors[k % len(doors)],
                barrier,
                results,
                options.seconds,
                options.rounds,
                k * apart_s,
            ),
        )
        for k in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait(LONGEST_S)
    servers, account, start = storage.cpu_s(), storage.account(), time.monotonic()
    told: list[Told] = [_told(results, processes) for _ in processes]
    wall_s = time.monotonic() - start
    servers = {name: cpu_s - servers[name] for name, cpu_s in storage.cpu_s().items()}
    account = {name: value - account[name] for name, value in storage.account().items()}
    for process in processes:
        process.join()
    trials = workers * options.rounds
    ids = {trial.user_attrs["id"] for trial in study.get_trials(deepcopy=False)}
    assert len(ids) == trials, f"{trials} trainings of {len(ids)} architectures"
    per_second = sum(options.rounds / one.seconds for one in told)
    cpu_s = {"worker": sum(one.cpu_s for one in told)} | servers
    return {
        "trials": trials,
        "trials_per_s": per_second,
        "efficiency": per_second * options.seconds / workers,
        "first_training_after_s": [
            statistics.median(one.first_s for one in told),
            max(one.first_s for one in told),
        ],
        "cpu_s_a_trial": {name: seconds / trials for name, seconds in cpu_s.items()},
        "cores_used": sum(cpu_s.values()) / wall_s / cores(),
        **{f"{name}_a_trial": value / trials for name, value in account.items()},
    }


def _told(results: Any, processes: list[Any]) -> Told:
    """What the next worker says; one that died says nothing, ever."""
    while True:
        with contextlib.suppress(queue.Empty):
            found: Told = results.get(timeout=LOOK_S)
            return found
        if any(process.exitcode for process in processes):
            for process in processes:
                process.terminate()
            raise SystemExit("a worker failed; it says why above")


def work(url: str, barrier: Any, results: Any, seconds: float, rounds: int, after_s: float) -> None:
    """A worker's process."""
    place = RunDir(storage=url, study=STUDY)
    study = place.study(quiet=True)
    config = config_of(study)
    evaluator = StandIn(seconds)
    worker = Worker(
        run=place,
        config=config,
        study=study,
        space=config.search_space(),
        evaluator=evaluator,
        stop=lambda: evaluator.over,
    )
    evaluator.begin(rounds)
    barrier.wait(LONGEST_S)
    time.sleep(after_s)
    start, before = time.monotonic(), sum(os.times()[:2])
    worker.search()
    end = time.monotonic()
    assert evaluator.first_at is not None
    results.put(Told(end - start, evaluator.first_at - start, sum(os.times()[:2]) - before))


def show(row: dict[str, Any]) -> None:
    cpu = ", ".join(f"{name} {s * 1e3:.0f}" for name, s in row["cpu_s_a_trial"].items())
    print(
        f"{row['storage']:11}{row['workers']:4} workers {row['trials_per_s']:7.3f} trials/s  "
        f"efficiency {row['efficiency']:6.1%}  first after {row['first_training_after_s'][1]:.2f} "
        f"s  cpu ms a trial: {cpu}; {row['cores_used']:.0%} of the machine",
        flush=True,
    )
