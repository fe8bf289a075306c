"""What a training was asked for, as its folder has it: the same command goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sret_nas import files
from sret_nas.errors import ConfigError
from sret_nas.files import read
from sret_nas.recipe import FullRecipe
from sret_nas.study.config import commit, differences, refuse_other_versions, versions

JOB = "training.yaml"
RESOLVED = ("schema_", "versions", "commit")
"""What a job has beside what was asked for."""


class Job(BaseModel):
    """A training in all that its result hangs on.

    Attributes:
        network: As the user named it.
        architecture: What is trained, at the size and for the classes of the data; ``None`` of a
            model of timm's.
        data: Name and fingerprint of the data, sizes, notes.
        recipe: How it is trained.
        teachers: Whom it learns from, by name.
        teacher: Hash of their weights.
        soft_labels: Crops of each image whose answers of the teachers are stored; 0 asks them at
            every step.
        init: What its weights started from.
        seed: Of everything that is random.
        processes: How many train together.
        versions: Of this package and of those that decide its numbers.
        commit: Of the checkout.
    """

    model_config = ConfigDict(frozen=True)

    schema_: int = 1
    network: str
    architecture: dict[str, Any] | None
    data: dict[str, Any]
    recipe: FullRecipe
    teachers: tuple[str, ...] = ()
    teacher: str | None = None
    soft_labels: int = 0
    init: str | None = None
    seed: int = 0
    processes: int = 1
    versions: dict[str, str] = {}
    commit: str | None = None

    def stamped(self) -> Job:
        """With the versions and the commit of here."""
        return self.model_copy(update={"versions": versions(), "commit": commit()})

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        files.write(folder / JOB, text)

    @classmethod
    def load(cls, folder: Path) -> Job | None:
        """The job of a folder, or ``None`` where it has none.

        Raises:
            ConfigError: its file is broken.
        """
        path = folder / JOB
        if not path.exists():
            return None
        content, _ = read(path)
        try:
            return cls.model_validate(content)
        except (ValueError, ConfigError) as error:
            text = _first(error)
            raise ConfigError(f"{path}: not a training's file: {text}") from error

    def refuse_other(self, earlier: Job, folder: Path) -> None:
        """Check that a training goes on as it began.

        Raises:
            ConfigError: with every difference.
        """
        other = list(differences(earlier._asked(), self._asked()))
        if other:
            raise ConfigError(
                f"{folder} is another training: {'; '.join(other)}",
                f"choose another --out, or ask for what it was begun with ({folder / JOB})",
            )
        refuse_other_versions(earlier.model_dump(), str(folder))

    def _asked(self) -> dict[str, Any]:
        asked = self.model_dump(mode="json", exclude=set(RESOLVED))
        asked["data"] = {key: asked["data"].get(key) for key in ("name", "fingerprint")}
        return asked


def _first(error: Exception) -> str:
    """The first thing that is wrong, in a line."""
    if isinstance(error, ValidationError):
        one = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, one['loc'])) or 'all of it'}: {one['msg']}"
    return str(error).splitlines()[0]
