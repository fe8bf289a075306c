"""``sret_nas.search``: the main job in Python; the command parses, calls it and prints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import torch
from optuna.trial import FrozenTrial

from sret_nas import report as pages
from sret_nas import runner
from sret_nas.data import DataSet, load_data
from sret_nas.data.digests import Tell
from sret_nas.device import AUTO, Choice
from sret_nas.errors import UsageError
from sret_nas.evaluate import Evaluator
from sret_nas.evaluators.registry import PROXY, code_of, is_own, load
from sret_nas.files import safe_name
from sret_nas.proxy import Proxy
from sret_nas.proxy import choose as choose_proxy
from sret_nas.report.publish import Upkeep
from sret_nas.runner import Member, RunResult
from sret_nas.runner.executors import Engine, choose_device, engine_of, executor_of, room
from sret_nas.runner.executors.base import Watch
from sret_nas.runner.run import Ending
from sret_nas.runner.strategies import check as check_sampler
from sret_nas.space import SearchSpace
from sret_nas.space.budget import Bound
from sret_nas.space.bundled import bundled
from sret_nas.space.sight import Sight, look
from sret_nas.study.config import RunConfig, commit, versions
from sret_nas.study.config import code_of as space_code
from sret_nas.study.objectives import default, parse
from sret_nas.study.records import record
from sret_nas.study.rundir import RunDir
from sret_nas.units import Budget, parse_budgets, parse_duration
from sret_nas.usercode import Allow, named

USUAL = 24
"""Candidates where neither trials nor a time are given: ten minutes of ``fast`` on two cores."""
Callback: TypeAlias = Callable[[optuna.Study, FrozenTrial], None]
log = logging.getLogger("sret_nas")


class SearchResult(RunResult):
    """What a search found; everything of it is read from its study.

    Attributes:
        ending: ``done``, ``timeout`` or ``interrupted``.
        problem: Why the dashboard lacks some notes or artifacts, or ``None``.
    """

    ending: Ending = "done"
    problem: Exception | None = None

    @property
    def best(self) -> Member | None:
        """The member of the front to take, or ``None`` where there is none."""
        return self.recommended()

    def report(self) -> Path:
        """Write the page of the run.

        Returns:
            The file.

        Raises:
            SretNasError: it cannot be written.
        """
        return pages.write(self)


@dataclass(frozen=True)
class Search:
    """A search that is resolved and checked, and has not begun.

    Attributes:
        run: Its folder and study.
        config: Everything that decides what it does.
        space: Fitted to the data, without what the evaluator cannot see.
        sight: What it sees.
        data: Loaded.
        choice: The device, and why.
        proxy_name: What the proxy is called.
        bounds: The budget against the space.
        engine: Who starts the workers.
    """

    run: RunDir
    config: RunConfig
    space: SearchSpace
    sight: Sight
    data: DataSet
    choice: Choice
    proxy_name: str
    bounds: tuple[Bound, ...]
    engine: Engine

    @property
    def judged_by(self) -> str:
        """What to call the evaluator in a sentence."""
        return _who(self.config.evaluator)

    def start(self, watch: Watch = lambda _: None) -> SearchResult:
        """Do it, or go on with it.

        Args:
            watch: Told of the study: first as it was found, then while the search goes on.

        Raises:
            UsageError: another search is at work on the folder, or it cannot be written.
            ConfigError: another run is there.
            InfeasibleError: nothing satisfies the budget.
            SretNasError: the disk, the database or all workers failed.
        """
        upkeep = Upkeep(self.run, self.config)

        def look(study: optuna.Study) -> None:
            watch(study)
            upkeep(study)

        executor = executor_of(self.engine)
        ended = runner.search(self.run, self.config, look, executor=executor, data=self.data)
        upkeep.finish(ended.outcome)
        found = SearchResult(ended.outcome.run, ended.outcome.config, ended.outcome.study)
        found.ending, found.problem = ended.ending, upkeep.problem
        return found


def prepare(
    space: SearchSpace | str | Path | Mapping[str, Any] = "sret",
    *,
    budget: str | Sequence[Budget | str] = (),
    objectives: str | Sequence[str] | None = None,
    data: str | Path = "demo",
    trials: int | None = None,
    timeout: float | str | None = None,
    proxy: str | Path | Mapping[str, Any] | Proxy = AUTO,
    evaluator: str | Callable[..., Evaluator] = PROXY,
    sampler: str = AUTO,
    seed: int = 0,
    published: bool = True,
    device: str = AUTO,
    latency_mode: str | None = None,
    latency_dtype: str | None = None,
    latency_runtime: str | None = None,
    workers: int | None = None,
    engine: str = Engine.local,
    storage: str | None = None,
    study: str | None = None,
    out: str | Path | None = None,
    accept_versions: bool = False,
    allow_code: Allow = False,
    tell: Tell = lambda _: None,
) -> Search:
    """Resolve and check a search without beginning it; nothing is written.

    Args:
        space: Name of a bundled space, a file, a mapping or a ``SearchSpace``.
        budget: Upper bounds such as ``4GFLOPs``, ``5Mparams``, ``2ms@32``, ``1GiB``, or one.
        objectives: One metric of the evaluator's (``val_loss`` or ``val_accuracy`` of a
            training), and any of ``macs``, ``params``, ``latency_ms`` and ``peak_bytes``;
            default the evaluator's first, and MACs.
        data: As in ``load_data``.
        trials: Candidates over the whole run; default 24, or no limit with a timeout.
        timeout: Of the whole run, confirming included: seconds, or ``30m``.
        proxy: A preset, a file, a mapping or a ``Proxy``; ``auto`` is the device's.
        evaluator: What candidates are judged by: ``proxy`` trains them, the other names in
            ``sret_nas.evaluators.registry`` do not; or ``module:name``, or what that would
            name: called with a proxy, the data and a device, it returns an ``Evaluator``.
        sampler: ``auto`` or one of ``sret_nas.runner.SAMPLERS``.
        seed: Of everything random.
        published: Whether the published variants are tried first.
        device: ``auto``, ``cpu``, ``cuda`` (all GPUs in turn) or ``cuda:N``.
        latency_mode: How latencies are measured: ``eager``, ``compile`` or ``graph``.
        latency_dtype: The same for ``fp32``, ``bf16`` or ``fp16``; ``int8`` of onnxruntime.
        latency_runtime: What runs the model then: ``torch`` or ``onnxruntime``.
        workers: Processes; default one a core on a CPU, one on a GPU.
        engine: ``local``, or ``ray`` for actors on a cluster.
        storage: Address of a database that several machines share; default a file in ``out``.
        study: Name of the study in it.
        out: Folder of the run; default ``runs/NAME``.
        accept_versions: Go on with a run that was begun with other versions.
        allow_code: Whether the module that a space's callable names may run.
        tell: Told of the progress.

    Raises:
        SretNasError: something of it cannot be; with what is allowed.
        InfeasibleError: nothing satisfies the budget.
    """
    if isinstance(budget, str):
        budget = [budget]
    if isinstance(objectives, str):
        objectives = [name.strip() for name in objectives.split(",")]
    who_judges, beside = named(evaluator, "evaluator")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise UsageError(f"seed: given {seed!r}", "allowed: a whole number from 0 to 2,147,483,647")
    limit_s = None if timeout is None else parse_duration(timeout)
    budgets = parse_budgets(budget)
    theirs = None if is_own(who_judges) else code_of(who_judges, beside)
    make = load(who_judges, beside, allow=True)  # to name it is to allow it
    found = SearchSpace.load(space, allow_code)
    sampler, who = check_sampler(sampler), engine_of(engine)
    choice = choose_device(who, device)
    plan, plan_name = choose_proxy(proxy, choice.name)
    plan = plan.referring(found.choices("image_size"), found.choices("stem_stride"))
    tell(f"reading data '{data}'")
    images = load_data(data, seed=seed, tell=tell, **plan.load_options())
    found = found.fitted(num_classes=images.num_classes, in_chans=images.in_chans)
    found.examine(budgets)
    judge = make(plan, images, torch.device("cpu"))
    declared = None if who_judges == PROXY else judge.declaration
    finds = declared or plan.declaration
    goals = parse(default(finds) if objectives is None else objectives, finds)
    seen, sight = look(found, judge.fits, budgets, [goal.name for goal in goals])
    if workers is None:
        workers = room(who, choice.name)
    config = RunConfig(
        space=_written(seen),
        unseen=tuple(sight.said(_who(who_judges))),
        space_folder=_folder(found),
        space_code=space_code(found),
        evaluator=who_judges,
        evaluator_folder=str(beside) if theirs else None,
        evaluator_code=theirs and theirs.digest(),
        declared=declared,
        budget=tuple(str(bound) for bound in budgets),
        objectives=tuple(goal.name for goal in goals),
        data={"source": str(data), "fingerprint": images.fingerprint},
        images=images.describe(),
        proxy=plan,
        sampler=sampler,
        seed=seed,
        published=published,
        device=choice.name,
        latency_mode=latency_mode,
        latency_dtype=latency_dtype,
        latency_runtime=latency_runtime,
        trials=USUAL if trials is None and limit_s is None else trials,
        timeout_s=limit_s,
        workers=workers,
        versions=versions(),
        commit=commit(),
    )
    config = config.with_latency()
    config = config.trusting() if allow_code or theirs else config
    config = config.accepting_versions() if accept_versions else config
    whole = config.model_copy(update={"space": _written(found), "unseen": ()})
    folder = Path(out) if out else Path("runs") / safe_name(study or whole.name)
    run = RunDir(folder, storage, study)
    if run.exists:
        earlier = run.config()
        if earlier.space == whole.space != config.space:  # of before the evaluator was looked at
            seen, sight = found, sight.keeping("the run was begun with them")
            config = whole.model_copy(update={"unseen": tuple(sight.said(_who(who_judges)))})
        same = images.known_as(earlier.data["fingerprint"])
        config = config.model_copy(update={"data": config.data | {"fingerprint": same}})
        config = config.going_on(earlier, run.path)
    bounds = seen.examine(budgets)
    return Search(run, config, seen, sight, images, choice, plan_name, bounds, who)


def search(
    space: SearchSpace | str | Path | Mapping[str, Any] = "sret",
    *,
    callbacks: Iterable[Callback] = (),
    **options: Any,
) -> SearchResult:
    """Find the Pareto-optimal architectures of a space under a budget.

    The same call goes on with a run that was interrupted. Each candidate is logged to the
    logger ``sret_nas`` at level INFO. Ctrl-C ends the epochs at work, writes everything
    down and raises ``KeyboardInterrupt``; again, it stops at once.

    Args:
        space: Name of a bundled space, a file, a mapping or a ``SearchSpace``.
        callbacks: Called in this process with the study and each trial that has ended, as
            those of Optuna's ``optimize``; what one raises ends the search.
        **options: As in ``prepare``: ``budget``, ``data``, ``trials``, ``out``, ….

    Returns:
        ``.front``, ``.best``, ``.study``, ``.report()``; ``.ending`` says how it ended.

    Example:
        >>> import sret_nas
        >>> result = sret_nas.search("smoke", budget=["1M MACs"], trials=4)  # doctest: +SKIP
        >>> result.best.architecture  # doctest: +SKIP

    Raises:
        SretNasError: something of it cannot be, or fails; with the next step.
        InfeasibleError: nothing satisfies the budget.
        KeyboardInterrupt: Ctrl-C; everything that was finished is kept.
    """
    unknown = set(options) - set(prepare.__kwdefaults__ or {})
    if unknown:
        allowed = ", ".join(prepare.__kwdefaults__ or {})
        raise UsageError(f"search: given {', '.join(sorted(unknown))}", f"allowed: {allowed}")
    prepared = prepare(space, **options)
    for line in prepared.sight.said(prepared.judged_by):
        log.warning("%s", line)
    found = prepared.start(_Told(list(callbacks)))
    if found.ending == "interrupted":
        raise KeyboardInterrupt(f"{prepared.run.label}: the same call goes on")
    return found


def _who(evaluator: str) -> str:
    return "the proxy" if evaluator == PROXY else f"evaluator '{evaluator}'"


def _written(space: SearchSpace) -> dict[str, Any]:
    """The file of a space, as plain data."""
    return space.file.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _folder(space: SearchSpace) -> str | None:
    """Where the file of a space lies, if it is one of the user's."""
    ours = {path.parent for path in bundled().values()}
    return None if space.folder in (None, *ours) else str(space.folder.resolve())  # type: ignore[union-attr]


class _Told:
    """Logs each trial that ends, and calls back; those before the first look are known."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks
        self.told: set[int] | None = None

    def __call__(self, study: optuna.Study) -> None:
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        if self.told is None:
            self.told = {trial.number for trial in ended}
        for trial in ended:
            if trial.number in self.told:
                continue
            self.told.add(trial.number)
            if record(trial).interrupted:
                continue
            log.info("trial %d %s: %s", trial.number, trial.state.name.lower(), trial.values)
            for callback in self.callbacks:
                callback(study, trial)
