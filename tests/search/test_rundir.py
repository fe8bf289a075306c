"""Disks and databases that fail: one line each."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
import yaml

from sret_nas import files
from sret_nas.errors import ConfigError, SretNasError
from sret_nas.search.config import RunConfig, code_of
from sret_nas.search.storage import reported
from sret_nas.space import SearchSpace


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "pareto.json"
    target.write_text("before")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SretNasError, match="No space left on device") as caught, reported(tmp_path):
        files.write(target, "after")
    assert "\n" not in str(caught.value)
    assert caught.value.hint and "same command" in caught.value.hint
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.json"]


def test_a_full_database_is_one_line(tmp_path: Path) -> None:
    """SQLite itself refuses to grow, as on a full disk."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage)
    with storage.engine.connect() as connection:
        pages = connection.execute(sqlalchemy.text("PRAGMA page_count")).scalar()

    @sqlalchemy.event.listens_for(storage.engine, "checkout")
    def no_more(connection: object, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]

    with pytest.raises(SretNasError, match="full") as caught, reported(tmp_path):
        for i in range(200):
            study.set_user_attr(f"key {i}", "x" * 1000)
    assert "\n" not in str(caught.value)


MODULE = """
def change(data):
    data["stages"][0]["mlp_ratio"] = {ratio}
    return data
"""


def test_a_callable_that_changed_is_another_run(
    tmp_path: Path, lab: Any, few: dict[str, Any]
) -> None:
    file = tmp_path / "changed_rule.py"
    space = tmp_path / "own.yaml"
    space.write_text(yaml.safe_dump(few | {"callable": "changed_rule:change"}))

    def begin() -> RunConfig:
        code = code_of(SearchSpace.load(space))
        config: RunConfig = lab.config(space, space_folder=str(tmp_path), space_code=code)
        return config

    file.write_text(MODULE.format(ratio=2.0))
    begun = begin()
    assert begun.search_space().transform is not None
    file.write_text(MODULE.format(ratio=3.0))
    with pytest.raises(ConfigError, match="another content"):
        begun.search_space()
    with pytest.raises(ConfigError, match="callable was"):
        begin().refuse_other(begun, "here")
