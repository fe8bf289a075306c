"""The same workers as actors of Ray: it finds them a place on the machines of a cluster.

Ray is told what a worker needs (a core, or a share of a GPU) and starts it where there is
room; the study is what it is without Ray. A worker that dies with its process or its
machine costs its running trial, which another tries again; a fresh one takes its place.

Ray is connected to as it says itself: the cluster of ``RAY_ADDRESS``, else one that runs
on this machine, else one that is started here and ends with this process.
"""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import optuna

from sret_nas.errors import SretNasError, UsageError
from sret_nas.noise import quiet_libraries
from sret_nas.runner.executors.base import POLL_S, Executor, MakeWorker, Stop, Watch, judge
from sret_nas.runner.slots import Slot, slots
from sret_nas.study.address import Address
from sret_nas.study.config import RunConfig, refuse_other_versions
from sret_nas.study.heartbeat import HeartbeatMonitor, me
from sret_nas.study.retrying import LOOKING, say_on_stderr
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import ATTEMPTS, RUNNING, hand_back, owner, sweep

KILLED = -9
"""In place of an exit code: the process is gone."""


def connect() -> dict[str, float]:
    """Connect to Ray, once in a process.

    Returns:
        What the cluster has: ``CPU``, ``GPU``, ….

    Raises:
        UsageError: Ray is not installed.
        SretNasError: the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray: Ray is not installed", "pip install 'sret-nas[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        try:
            with _own_signals():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise SretNasError(
                f"--engine ray: no cluster: {str(error).splitlines()[0]}",
                "RAY_ADDRESS says where it is; without it, one is started here",
            ) from error
    found: dict[str, float] = ray.cluster_resources()
    return found


def room(device: str) -> int:
    """How many workers a cluster has room for, at least one."""
    return max(1, int(connect().get("CPU" if device == "cpu" else "GPU", 0)))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM that Ray would replace."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


class Actor:
    """One worker, in the process that Ray gives it."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def stop(self) -> None:
        """Come to an end."""
        self.asked.set()

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def work(
        self,
        run: RunDir,
        config: RunConfig,
        slot: Slot,
        left_s: float | None,
        make: MakeWorker,
    ) -> tuple[int, str]:
        """Do the work of the run.

        Args:
            run: The run.
            config: What was asked for.
            slot: Where it works.
            left_s: Time that is left; clocks differ between machines.
            make: Makes the worker.

        Returns:
            What a process would end with: a code, and what to say of it.
        """
        quiet_libraries()
        deadline = None if left_s is None else time.monotonic() + left_s
        try:
            refuse_other_versions(config.model_dump(), f"machine {me().name.split('/')[0]}: run")
            make(run, config, Stop(self.asked, deadline), slot, quiet=True).work()
        except SretNasError as error:
            return error.exit_code, str(error)
        return 0, ""


@dataclass
class _Post:
    """A worker's place, and the actor that fills it.

    Attributes:
        slot: What the worker is told.
        actor: Ray's handle.
        lives: How often it may still be filled again.
    """

    slot: Slot
    actor: Any
    lives: int = ATTEMPTS - 1


class RayExecutor(Executor):
    """Workers that Ray places; one that dies takes only its own trial with it.

    Args:
        run: The run; in a storage that all machines of the cluster reach.
        config: What was asked for.
        stop: Whether to come to an end.
        watch: Told of the study while the work goes on.
        slots: Of the workers, as on one machine: how many are wanted.
        make: Makes a worker in its process.
    """

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        stop: Stop,
        watch: Watch,
        slots: Sequence[Slot],
        make: MakeWorker,
    ) -> None:
        super().__init__(run, config, stop, watch, slots, make)
        self.team = slots[0].team
        self.resources = connect()
        self.slots, self.needs = needs(config.device, config.workers, self.resources, self.team)
        self.waiting: dict[Any, _Post] = {}
        self.working: dict[Any, _Post] = {}
        self.codes: list[int] = []

    def work(self, study: optuna.Study) -> None:
        """Have Ray start the workers, and look on until all have ended.

        Raises:
            UsageError: the cluster has several machines, and the study is a file.
            InfeasibleError: all ended because nothing satisfies the budget.
            SretNasError: none came to its end.
        """
        import ray

        self._everywhere = self._reachable(study, ray.nodes())
        one_machine = self.run.address.kind == "sqlite"
        monitor = HeartbeatMonitor(me().name, self.config.heartbeat_s, one_machine)
        told = False
        try:
            for slot in self.slots:
                self._fill(_Post(slot, None))
            while self.working or (self.waiting and not (self.codes.count(0) or self.stop())):
                start = time.monotonic()
                sweep(study, monitor)
                self.watch(study)
                if self.stop() and not told:
                    told = True
                    for post in self.working.values():
                        post.actor.stop.remote()
                pause = max(POLL_S, (time.monotonic() - start) / LOOKING)
                refs = [*self.waiting, *self.working]
                for ref in ray.wait(refs, num_returns=1, timeout=pause)[0]:
                    self._heed(ref)
        except BaseException as error:
            self._end(study, error)
            raise
        self._dismiss()  # those for whom there was no room
        sweep(study, monitor)
        self.watch(study)
        judge(self.codes, self.stop)

    def _reachable(self, study: optuna.Study, nodes: Sequence[dict[str, Any]]) -> RunDir:
        """The run as a worker on any of the machines finds it."""
        address = self.run.address
        alive = sum(bool(node["Alive"]) for node in nodes)
        if address.kind == "sqlite":
            if alive > 1:
                raise UsageError(
                    f"--engine ray: the cluster has {alive} machines, and the study is a file "
                    f"on one of them, {address}",
                    "--storage postgresql://… or grpc://… is reached by all",
                )
            file = os.path.abspath(str(address.url.database))  # noqa: PTH100
            address = Address(f"sqlite:///{file}")
        return RunDir(storage=address, study=study.study_name)

    def _fill(self, post: _Post) -> None:
        import ray

        # Two calls at a time: one works while the other asks it to stop.
        kind = ray.remote(Actor).options(**self.needs, max_concurrency=2, max_restarts=0)
        post.actor = kind.remote()
        self.waiting[post.actor.pid.remote()] = post

    def _heed(self, ref: Any) -> None:
        """An actor has begun, come to its end, or died."""
        import ray

        post = self.waiting.pop(ref, None)
        begun = post is not None
        post = post or self.working.pop(ref)
        try:
            found = ray.get(ref)
        except ray.exceptions.RayActorError:
            if post.lives and not self.stop() and 0 not in self.codes:
                self._fill(replace(post, lives=post.lives - 1))
            else:
                self.codes.append(KILLED)
            return
        except ray.exceptions.RayError as error:
            say_on_stderr(f"error: a worker failed: {_cause(error)}")
            self.codes.append(1)
            return
        if begun:
            left_s = None if self.stop.deadline is None else self.stop.deadline - time.monotonic()
            call = post.actor.work.remote(
                self._everywhere, self.config, post.slot, left_s, self.make
            )
            self.working[call] = post
            return
        code, text = found
        self.codes.append(code)
        if code:
            say_on_stderr(f"error: {text}")

    def _dismiss(self) -> None:
        import ray

        for post in [*self.waiting.values(), *self.working.values()]:
            ray.kill(post.actor)

    def _end(self, study: optuna.Study, error: BaseException) -> None:
        self._dismiss()
        why = "stopped" if isinstance(error, KeyboardInterrupt) else "lost"
        for trial in study.get_trials(deepcopy=False, states=RUNNING):
            who = owner(trial)
            if who is not None and who.team == self.team:
                hand_back(study, trial, why)


def needs(
    device: str, workers: int, resources: dict[str, float], team: str = ""
) -> tuple[list[Slot], dict[str, float]]:
    """Seats of workers, and what each asks of Ray.

    Args:
        device: ``cpu`` or ``cuda``.
        workers: How many.
        resources: What the cluster has.
        team: Name of the process that starts them.

    Raises:
        UsageError: a GPU is named, or the cluster has none.

    Example:
        >>> needs("cuda", 3, {"CPU": 8, "GPU": 2})[1]
        {'num_cpus': 0, 'num_gpus': 0.5}
    """
    if device == "cpu":
        places = slots("cpu", workers, 0, team)
        return places, {"num_cpus": places[0].threads}
    if device != "cuda":
        raise UsageError(
            f"--device: given '{device}' with --engine ray, which chooses the GPUs itself",
            "allowed: cpu, cuda",
        )
    gpus = int(resources.get("GPU", 0))
    if not gpus:
        raise UsageError("--device: given 'cuda', and the cluster has no GPU", "allowed: cpu")
    places = slots("cuda", workers, gpus, team)
    share = math.ceil(workers / gpus)
    # Ray shows each worker its own GPU alone.
    places = [replace(slot, device="cuda:0") for slot in places]
    return places, {"num_cpus": 0, "num_gpus": 1 if share == 1 else 1 / share}


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0]}"
