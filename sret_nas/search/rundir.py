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
"""How often the worker of an architecture may die before it counts as failed."""
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

        Call it while ``only_one`` holds the run.

        Raises:
            UsageError: the folder cannot be written.
            ConfigError: another run is in it.
        """
        if self.exists:
            earlier = self.config()
            config.refuse_other(earlier, self.path)
            config = config.model_copy(
                update={"versions": earlier.versions, "commit": earlier.commit}
            )
        with self._writing():
            config.save(self.config_file)
            for folder in (self.architectures, self.path / "artifacts"):
                folder.mkdir(exist_ok=True)
        return config

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{self.path}: cannot be written: {error.strerror}", "choose another --out"
            ) from error

    @contextlib.contextmanager
    def only_one(self) -> Iterator[None]:
        """Make the folder and hold it for this search.

        The operating system frees it with the process.

        Raises:
            UsageError: another search is at work on it, or it cannot be written.
            ConfigError: something is in it that is no run.
        """
        lock = filelock.FileLock(self.path / ".search.lock")
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            # Names with a dot are what a search leaves that was killed before it began.
            found = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
            if found and not self.exists:
                raise ConfigError(
                    f"{self.path} is not a run: it has no config.yaml, but {min(found)}",
                    "choose another --out: a new folder, or that of a run",
                )
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
            name = self._study_name(storage)
            if create is None:
                try:
                    return optuna.load_study(study_name=name, storage=storage)
                except KeyError as error:
                    raise ConfigError(f"{self.path}: its storage has no study '{name}'") from error
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=[goal.direction for goal in create.goals],
                load_if_exists=True,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([goal.title for goal in create.goals])
            return study

    def _study_name(self, storage: optuna.storages.RDBStorage) -> str:
        """The folder's name; in a database of its own, the name it had at the beginning."""
        if self.storage_url == f"sqlite:///{self.database}":
            names = optuna.get_all_study_names(storage)
            if len(names) == 1:
                return names[0]
        return self.path.resolve().name


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
        _close(study, trial)
    return len(stale)


def _close(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Fail a trial that was cut off: to be tried again, but not for ever."""
    arch_id = trial.user_attrs.get("id")
    before = sum(
        t.user_attrs.get("interrupted") == "lost" and t.user_attrs.get("id") == arch_id
        for t in study.get_trials(deepcopy=False)
    )
    storage, number = study._storage, trial._trial_id
    if arch_id is None or before + 1 < ATTEMPTS:
        storage.set_trial_user_attr(number, "interrupted", "lost")
    else:
        reason = f"lost {ATTEMPTS} times"
        storage.set_trial_user_attr(number, "reason", reason)
    study.tell(trial.number, state=TrialState.FAIL)


def standing(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count, in order."""
    return counted(study.get_trials(deepcopy=False))
