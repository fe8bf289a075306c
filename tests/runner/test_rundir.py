"""Disks and databases that fail: one line each."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
import yaml
from packaging.version import Version

from sret_nas import files
from sret_nas.errors import ConfigError, SretNasError
from sret_nas.proxy import PRESETS
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig, code_of, other_versions, versions
from sret_nas.study.failures import reported
from sret_nas.study.rundir import RunDir, config_of


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "pareto.json"
    target.write_text("before")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
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


def test_on_another_device_the_proxy_may_differ_and_the_message_says_so(lab: Any) -> None:
    begun = lab.config(device="cuda:0").model_copy(update={"proxy": PRESETS["standard"]})
    now = lab.config(device="cpu").model_copy(update={"proxy": PRESETS["fast"]})
    with pytest.raises(ConfigError, match="proxy epochs was") as caught:
        now.refuse_other(begun, "here")
    assert caught.value.hint and caught.value.hint.endswith(
        "begun on cuda:0, this is cpu, and --proxy auto goes by the device: --proxy standard, "
        "or --device cuda:0"
    )
    begun.model_copy(update={"device": "cpu"}).refuse_other(begun, "here")  # any device goes on


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
        code = code_of(SearchSpace.load(space, allow_code=True))
        config: RunConfig = lab.config(space, space_folder=str(tmp_path), space_code=code)
        return config.trusting()

    file.write_text(MODULE.format(ratio=2.0))
    begun = begin()
    assert begun.search_space().transform is not None
    file.write_text(MODULE.format(ratio=3.0))
    with pytest.raises(ConfigError, match="another content"):
        begun.search_space()
    with pytest.raises(ConfigError, match="callable was"):
        begin().refuse_other(begun, "here")


def test_other_versions_are_refused_or_accepted_once(lab: Any, tmp_path: Path) -> None:
    config = lab.config(versions=versions())
    run = RunDir(tmp_path / "upgraded")
    for package in ("torch", "optuna", "timm", "numpy", "sret_nas"):
        old = config.model_copy(update={"versions": config.versions | {package: "0.0.1+cpu"}})
        run.path.mkdir(exist_ok=True)
        run.config_file.unlink(missing_ok=True)
        run.database.unlink(missing_ok=True)
        run.begin(old)
        run.study(create=old)
        before = run.config_file.read_bytes()
        with pytest.raises(ConfigError, match=f"{package} is .* here, 0.0.1.cpu there") as caught:
            run.begin(config)
        assert caught.value.exit_code == 2
        assert caught.value.hint and "--accept-versions" in caught.value.hint
        with pytest.raises(ConfigError, match="other versions"):
            run.study(create=config)
        assert run.config_file.read_bytes() == before
        accepted = run.begin(config.accepting_versions())
        run.study(create=config.accepting_versions())
        assert accepted.versions[package] == "0.0.1+cpu"
        assert accepted.later_versions == (versions(),)
        again = run.begin(config)  # what was accepted once is not asked again
        assert again.later_versions == accepted.later_versions
        assert config_of(run.study(create=again)).later_versions == accepted.later_versions


def test_builds_of_one_release_are_one_version_and_rubbish_is_another() -> None:
    assert not other_versions({"versions": {"torch": Version(versions()["torch"]).public + "+x"}})
    assert other_versions({"versions": {"torch": "rubbish"}})
    assert not other_versions({})


def test_what_latency_means_goes_by_the_device_and_belongs_to_the_run(lab: Any) -> None:
    plain = lab.config()
    assert plain.with_latency() == plain and plain.latency is None
    cpu = lab.config(objectives=("val_loss", "latency_ms"), device="cpu")
    assert cpu.latency is None
    known = cpu.with_latency()
    torch = {"runtime": "torch", "device": "cpu"}
    assert known.latency == torch | {"mode": "eager", "dtype": "fp32", "batch": 1}
    assert known.identity() == cpu.identity()  # as of runs before there was a choice
    for device in ("cuda:0", "cuda"):
        gpu = lab.config(budget=("2ms@32",), device=device).with_latency()
        how = torch | {"mode": "graph", "dtype": "bf16", "batch": 32, "device": device}
        assert gpu.latency == how
    asked = lab.config(budget=("2ms",), device="cuda:0", latency_mode="eager").with_latency()
    assert asked.latency is not None and asked.latency["dtype"] == "bf16"
    assert gpu.identity()["latency"] == ["graph", "bf16"]
