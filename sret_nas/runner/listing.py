"""Which runs there are, and how far they have come: in a storage, or below a folder."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from sret_nas.errors import ConfigError, SretNasError
from sret_nas.runner.confirmation import at_work
from sret_nas.study.address import Address
from sret_nas.study.config import RunConfig
from sret_nas.study.failures import reported
from sret_nas.study.heartbeat import WorkerId
from sret_nas.study.records import confirmations
from sret_nas.study.rundir import CONFIG, RunDir
from sret_nas.study.session import total_s
from sret_nas.study.storage import open_storage
from sret_nas.study.trials import counted, owner


@dataclass(frozen=True)
class Progress:
    """A run and how far it has come.

    Attributes:
        run: Its folder, or the study's name.
        space: What is searched.
        budget: Its bounds, as written.
        finished: Candidates that have been tried.
        wanted: Candidates in all; ``None`` for no limit.
        running: Candidates at work.
        workers: Processes that hold them, or a confirmation.
        confirmed: Confirmations of members of the front.
        seconds: Wall time so far.
        problem: Why it could not be read, or ``None``.
    """

    run: str
    space: str | None = None
    budget: str = ""
    finished: int = 0
    wanted: int | None = None
    running: int = 0
    workers: int = 0
    confirmed: int = 0
    seconds: float = 0.0
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def names(storage: str) -> list[str]:
    """Names of the runs in a storage; other studies in it are left out."""
    address = Address.parse(storage)
    with reported(str(address)):
        studies = open_storage(address, create=False).get_all_studies()
    return sorted(one.study_name for one in studies if CONFIG in one.user_attrs)


def in_storage(storage: str) -> list[Progress]:
    """The runs of a storage, by name."""
    address = Address.parse(storage)
    with reported(str(address)):
        opened = open_storage(address, create=False)
        studies = [one for one in opened.get_all_studies() if CONFIG in one.user_attrs]
        return [
            _progress(one.study_name, Study(one.study_name, opened), one.user_attrs)
            for one in sorted(studies, key=lambda one: one.study_name)
        ]


def below(folder: Path) -> list[Progress]:
    """The run directories in a folder, by name."""
    found = []
    for path in sorted(file.parent for file in folder.glob("*/config.yaml")):
        try:
            study = RunDir(path).study()
            with reported(path):
                attributes = study.user_attrs
                if CONFIG not in attributes:  # begun by an earlier version
                    attributes |= {CONFIG: RunDir(path).config().model_dump(mode="json")}
                found.append(_progress(str(path), study, attributes))
        except SretNasError as error:
            found.append(Progress(str(path), problem=str(error).splitlines()[0]))
    return found


def of_other_data(run: RunDir, config: RunConfig) -> Path | None:
    """A run beside a new one that differs in its data alone, as when an image was changed.

    Args:
        run: Not begun yet.
        config: What it is asked for.
    """
    asked = config.identity() | {"data": None}
    for file in sorted(run.path.parent.glob(f"{config.name.rpartition('-')[0]}-*/config.yaml")):
        with contextlib.suppress(SretNasError):
            earlier = RunDir(file.parent).config()
            same_source = earlier.data["source"] == config.data["source"]
            if same_source and earlier.identity() | {"data": None} == asked:
                return file.parent
    return None


def _progress(name: str, study: Study, attributes: dict[str, Any]) -> Progress:
    config = attributes[CONFIG]
    if not isinstance(config, dict) or not isinstance(config.get("space", {}), dict):
        raise ConfigError(f"{name}: broken: its configuration is none")
    trials = counted(study.get_trials(deepcopy=False))
    states = Counter(trial.state for trial in trials)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    holders = [owner(trial) for trial in running]
    holders += [WorkerId.load(claim["owner"]) for claim in at_work(attributes).values()]
    return Progress(
        run=name,
        space=config.get("space", {}).get("name"),
        budget=", ".join(config.get("budget", ())),
        finished=sum(number for state, number in states.items() if state.is_finished()),
        wanted=config.get("trials"),
        running=len(running),
        workers=len({who.name for who in holders if who}),
        confirmed=len(list(confirmations(attributes))),
        seconds=total_s(attributes),
    )
