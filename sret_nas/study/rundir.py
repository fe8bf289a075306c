"""Where a run is: its folder, its lock, and its study in a storage.

The study holds everything that makes a run, so that a storage's address and the
study's name are enough to join it, or to read it. The folder has what people read.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import optuna
import yaml

from sret_nas import files
from sret_nas.errors import ConfigError, UsageError
from sret_nas.study.address import ENV, Address
from sret_nas.study.config import RunConfig, refuse_other_versions
from sret_nas.study.failures import reported
from sret_nas.study.retrying import left_out, say_on_stderr
from sret_nas.study.storage import open_storage
from sret_nas.study.trials import recover, standing

__all__ = ["CONFIG", "RunDir", "config_of", "limit_of", "recover", "reported", "standing"]

CONFIG = "config"
"""The study's attribute with the whole ``RunConfig``."""


class RunDir:
    """A run: its folder and its study.

    Args:
        path: The folder; it need not exist yet. Default for a study that is named:
            none is made, and what is written goes where the caller says.
        storage: Where the study is, unless the folder has it or knows; default ``study.db``
            in the folder.
        study: Its name; default that of the folder.

    Attributes:
        label: What the run is called in messages.
    """

    def __init__(
        self,
        path: Path | None = None,
        storage: str | Address | None = None,
        study: str | None = None,
    ) -> None:
        if isinstance(storage, str):
            storage = Address.parse(storage)
        if path is None and (storage is None or study is None):
            raise UsageError("a run is a folder, or a --storage and a --study in it")
        if study is not None and not _is_text(study):
            raise UsageError("--study: not a name", "allowed: text in UTF-8 without NUL")
        self.path = path or Path("runs") / files.safe_name(str(study))
        self.has_folder = path is not None
        self.config_file = self.path / "config.yaml"
        self.place_file = self.path / "storage.yaml"
        self.architectures = self.path / "architectures"
        self.report = self.path / "report.html"
        self.database = self.path / "study.db"
        self._storage = storage
        self._study = study

    @property
    def label(self) -> str:
        """What the run is called in messages: its folder, or the storage and the study."""
        return str(self.path) if self.has_folder else f"{self.address} study {self._study}"

    @property
    def address(self) -> Address:
        """Where the study is: a folder that has a study, or knows where it is, goes on there.

        Raises:
            ConfigError: the folder says where, but not the password.
        """
        own = Address(f"sqlite:///{self.database}")
        if self.has_folder and self.database.exists():
            return own
        place = self._place()
        if place.get("complete"):
            return Address.parse(str(place["storage"]))
        if self._storage is not None:
            return self._storage
        if not place:
            return own
        if os.environ.get(ENV):
            return Address.parse(os.environ[ENV])
        raise ConfigError(
            f"{self.path}: its study is in {place['storage']}",
            f"give --storage, or {ENV}, with the password",
        )

    @property
    def own_database(self) -> bool:
        """Whether the study is in the folder's own ``study.db``."""
        return self.address.secret == f"sqlite:///{self.database}"

    def _place(self) -> dict[str, Any]:
        if not (self.has_folder and self.place_file.exists()):
            return {}
        found, _ = files.read(self.place_file)
        return found if isinstance(found, dict) and "storage" in found else {}

    @property
    def set_aside(self) -> bool:
        """Whether another storage was given than that in which the run goes on."""
        return self._storage is not None and self._storage != self.address

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.exists()

    @property
    def has_results(self) -> bool:
        """Whether the results of a study, ``pareto.json``, are in the folder."""
        return (self.path / "pareto.json").exists()

    def config(self) -> RunConfig:
        """What the run was asked for.

        Raises:
            ConfigError: there is no run here, or its file is broken.
        """
        if not self.has_folder:
            return config_of(self.study())
        if not self.exists:
            raise ConfigError(
                f"{self.path} is not a run: "
                + ("it has no config.yaml" if self.path.is_dir() else "there is no such folder"),
                "sret-nas search makes runs",
            )
        with _naming_versions(self.label, lambda: files.read(self.config_file)[0]):
            return files.load(RunConfig, self.config_file)

    def begin(self, config: RunConfig) -> RunConfig:
        """Make the folder, or check that it holds this very run.

        Call it while ``only_one`` holds the run.

        Raises:
            UsageError: the folder cannot be written.
            ConfigError: another run is in it, or it was begun with other versions.
        """
        if self.exists and self.own_database and self.has_results:
            self.study()  # results without a study are not searched anew
        if self.exists:
            config = config.going_on(self.config(), self.path)
        with self._writing():
            config.save(self.config_file)
            if not self.own_database:
                place = {
                    "storage": str(self.address),
                    "study": self.study_name,
                    "complete": self.address.complete,
                }
                files.write(self.place_file, yaml.safe_dump(place, sort_keys=False))
            for folder in (self.architectures, self.path / "artifacts"):
                folder.mkdir(exist_ok=True)
        return config

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise UsageError(
                f"{self.path}: cannot be written: {why}", "choose another --out"
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
            self._make()
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
                    "wait for it, stop it, choose another --out, or help it: "
                    f"sret-nas worker --storage '{self.address}'",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def _make(self) -> None:
        """Make the folder; where that fails, those above it go again."""
        made = [path for path in (self.path, *self.path.parents) if not os.path.lexists(path)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except BaseException:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise

    # -- the study ---------------------------------------------------------------------------

    @property
    def study_name(self) -> str:
        """Name of the study: what was given, else what the folder says, else that of the folder."""
        return self._study or str(self._place().get("study") or self.path.resolve().name)

    def study(self, create: RunConfig | None = None, quiet: bool = False) -> optuna.Study:
        """The Optuna study of the run.

        Args:
            create: Create it for this configuration where it is missing.
            quiet: Say nothing while the database is away; somebody else does.

        Raises:
            ConfigError: there is none, it is another run's, or the database is not one.
            SretNasError: the database does not answer.
        """
        if create is None and self.own_database and not self.database.exists():
            raise ConfigError(f"{self.path}: has no study.db", self._anew)
        with reported(self.label):
            say = (lambda _: None) if quiet else say_on_stderr
            storage = open_storage(self.address, say, create=create is not None)
            name = self._name_in(storage)
            if create is None:
                try:
                    found = optuna.load_study(study_name=name, storage=storage)
                except KeyError as error:
                    hint = "sret-nas runs --storage … lists those it has"
                    raise ConfigError(
                        f"{self.address} has no study '{name}'",
                        self._anew if self.own_database else hint,
                    ) from error
                self._refuse_foreign(found)
                return found
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=[goal.direction for goal in create.goals],
                load_if_exists=True,
            )
            _begin(study, create, self.label, self.exists)
            return study

    @property
    def _anew(self) -> str:
        if self.has_results:
            return "its study was taken away; restore it, or choose another --out to search anew"
        return "sret-nas search makes runs"

    def _refuse_foreign(self, study: optuna.Study) -> None:
        """Refuse a study that is not of a run: without its configuration and trials.

        A search that was killed as it began leaves neither, nor anything else; an earlier
        version wrote no configuration.
        """
        if CONFIG in study.user_attrs or study.get_trials(deepcopy=False):
            return
        if left_out(study) or self.has_results or not self.has_folder:
            raise ConfigError(
                f"{self.label}: study '{study.study_name}' was not made by sret-nas search",
                "optuna-dashboard itself shows any study",
            )

    def _name_in(self, storage: optuna.storages.BaseStorage) -> str:
        """The folder's name; in a database of its own, the name it had at the beginning."""
        if self._study is None and self.own_database:
            studies = storage.get_all_studies()
            ours = [one for one in studies if CONFIG in one.user_attrs] or studies
            if len(ours) == 1:
                return ours[0].study_name
        return self.study_name


def _is_text(name: str) -> bool:
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def _begin(study: optuna.Study, config: RunConfig, label: str, known: bool) -> None:
    """Write the configuration on a new study; check it on one that goes on.

    Args:
        study: The study.
        config: What is asked for.
        label: What the run is called.
        known: Whether its folder says that it is a run.
    """
    found = study.user_attrs.get(CONFIG)
    if found is None:
        ours = study.get_trials(deepcopy=False)
        others = left_out(study) and not ours
        goals = [goal.direction for goal in config.goals]
        if others or (ours and not known) or [d.name.lower() for d in study.directions] != goals:
            raise ConfigError(
                f"{label}: study '{study.study_name}' was not made by sret-nas search",
                "choose another --study, or another --out",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([goal.title for goal in config.goals])
    else:
        if not config._accept_versions:  # before it is read: it may be a newer one's
            refuse_other_versions(found, label)
        config = config.going_on(config_of(study), label)
    now = config.model_dump(mode="json", by_alias=True)
    if now != found:
        study.set_user_attr(CONFIG, now)


def config_of(study: optuna.Study) -> RunConfig:
    """What a study was begun for.

    Raises:
        ConfigError: it is not one of sret-nas, or of a newer one.
    """
    found = study.user_attrs.get(CONFIG)
    if found is None:
        raise ConfigError(f"study '{study.study_name}' was not made by sret-nas search")
    with _naming_versions(f"study '{study.study_name}'", lambda: found):
        config: RunConfig = RunConfig.model_validate(found)
    return config


@contextlib.contextmanager
def _naming_versions(where: str, written: Callable[[], Any]) -> Iterator[None]:
    """What other versions wrote may be strange here; then it is said to be theirs."""
    try:
        yield
    except ConfigError:
        found = written()
        if isinstance(found, dict):
            refuse_other_versions(found, where)
        raise


def limit_of(study: optuna.Study, config: RunConfig) -> int | None:
    """How many candidates a study is to have in all; ``None`` for no limit.

    Args:
        study: The study; the latest ``search`` on it has the last word.
        config: What the run was begun for, where the study does not say.
    """
    found = study.user_attrs.get(CONFIG)
    limit: int | None = found.get("trials") if found else config.trials
    return limit
