"""A run directory: its files, its lock and its study."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock
import optuna
import sqlalchemy.exc
from optuna.trial import TrialState

from sret_nas import files
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.search.config import RunConfig
from sret_nas.search.samplers import counted

ATTEMPTS = 3
"""How often an architecture may be interrupted before it counts as failed."""
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)


class RunDir:
    """The folder of a run.

    Args:
        path: The folder; it need not exist yet.
        storage: Address of another Optuna storage; default ``study.db`` in the folder.
    """

    def __init__(self, path: Path, storage: str | None = None) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.architectures = path / "architectures"
        self.report = path / "report.html"
        self.database = path / "study.db"
        self.storage_url = storage or f"sqlite:///{self.database}"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.exists()

    def config(self) -> RunConfig:
        """What the run was asked for.

        Raises:
            ConfigError: there is no run here, or its file is broken.
        """
        if not self.exists:
            raise ConfigError(
                f"{self.path} is not a run: it has no config.yaml", "sret-nas search makes runs"
            )
        return files.load(RunConfig, self.config_file)

    def begin(self, config: RunConfig) -> RunConfig:
        """Make the folder, or check that it holds this very run.

        Raises:
            UsageError: the folder cannot be written.
            ConfigError: another run is in it, or something that is no run.
        """
        try:
            for folder in (self.path, self.architectures, self.path / "artifacts"):
                folder.mkdir(parents=True, exist_ok=True)
            if self.exists:
                earlier = self.config()
                config.refuse_other(earlier, self.path)
                config = config.model_copy(
                    update={"versions": earlier.versions, "commit": earlier.commit}
                )
            config.save(self.config_file)
        except OSError as error:
            raise UsageError(
                f"{self.path}: cannot be written: {error.strerror}", "choose another --out"
            ) from error
        return config

    @contextlib.contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold the run for this search; the operating system frees it with the process.

        Raises:
            UsageError: another search is at work on it.
        """
        lock = filelock.FileLock(self.path / ".search.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UsageError(
                f"{self.path}: another search is at work on this run",
                "wait for it, stop it, or choose another --out",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def asking(self) -> filelock.BaseFileLock:
        """Held while a worker asks for a trial, so that no two get the same architecture."""
        return filelock.FileLock(self.path / ".ask.lock")

    def study(self, create: RunConfig | None = None) -> optuna.Study:
        """The Optuna study of the run.

        Args:
            create: Create it for this configuration where it is missing.

        Raises:
            ConfigError: there is none, or the database is not one.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if create is None and self.storage_url.startswith("sqlite") and not self.database.exists():
            raise ConfigError(f"{self.path}: has no study.db", "sret-nas search makes runs")
        with reported(self.path):
            try:
                storage = optuna.storages.RDBStorage(
                    self.storage_url,
                    engine_kwargs={"connect_args": {"timeout": 60}}
                    if self.storage_url.startswith("sqlite")
                    else None,
                )
            except sqlalchemy.exc.DatabaseError as error:
                raise ConfigError(
                    f"{self.storage_url}: not a study of Optuna: {error.orig}",
                    "move the file away, or choose another --out",
                ) from error
            if create is None:
                try:
                    return optuna.load_study(study_name=self.path.name, storage=storage)
                except KeyError as error:
                    raise ConfigError(
                        f"{self.path}: its storage has no study '{self.path.name}'"
                    ) from error
            study = optuna.create_study(
                study_name=self.path.name,
                storage=storage,
                directions=[goal.direction for goal in create.goals],
                load_if_exists=True,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([goal.name for goal in create.goals])
            return study


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what a storage or a full disk raises into one line."""
    try:
        yield
    except STORAGE_ERRORS as error:
        cause = error.__cause__ or error
        text = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise SretNasError(
            f"{path}: the study cannot be read or written: {text}",
            "mend the disk or the database and give the same command: it goes on from there",
        ) from error
    except OSError as error:
        raise SretNasError(
            f"{error.filename or path}: {error.strerror}",
            "mend it and give the same command: it goes on from there",
        ) from error


def recover(study: optuna.Study) -> int:
    """Close trials whose worker is gone; their architectures are tried again.

    Call it only while nobody works on the study. Returns how many there were.
    """
    stale = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in stale:
        close_interrupted(study, trial)
    return len(stale)


def close_interrupted(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Fail a trial that was cut off: to be tried again, but not for ever."""
    arch_id = trial.user_attrs.get("id")
    before = sum(
        bool(t.user_attrs.get("interrupted")) and t.user_attrs.get("id") == arch_id
        for t in study.get_trials(deepcopy=False)
    )
    storage, number = study._storage, trial._trial_id
    if arch_id is None or before + 1 < ATTEMPTS:
        storage.set_trial_user_attr(number, "interrupted", True)
    else:
        reason = f"interrupted {ATTEMPTS} times"
        storage.set_trial_user_attr(number, "reason", reason)
    study.tell(trial.number, state=TrialState.FAIL)


def standing(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count, in order."""
    return counted(study.get_trials(deepcopy=False))
