"""Code that a space names: never run without leave, named before it is, its hash first."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from sret_nas.errors import ConfigError
from sret_nas.proxy import choose
from sret_nas.runner import join
from sret_nas.space import SearchSpace, annotated, transform
from sret_nas.study.config import RunConfig, code_of
from sret_nas.study.rundir import RunDir

SPACE = """
schema: 1
image_size: 32
callable: "{name}"
stages:
  - {{heads: [1, 2], head_dim: 8, blocks: [1, 2]}}
"""
MODULE = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()

def same(architecture):
    return architecture
"""


class Trap:
    """A space whose module leaves a trace when it runs."""

    def __init__(self, folder: Path, module: str = "trap_beside") -> None:
        self.folder, self.trace = folder, folder / "ran"
        self.module = folder / f"{module}.py"
        self.module.write_text(MODULE)
        self.space = folder / "trap.yaml"
        self.space.write_text(SPACE.format(name=f"{module}:same"))

    @property
    def ran(self) -> bool:
        return self.trace.exists()

    def config(self) -> RunConfig:
        """What a study says that was begun with this space."""
        space = SearchSpace.load(self.space, allow_code=True)
        self.trace.unlink()
        return RunConfig(
            space=space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
            space_folder=str(self.folder), space_code=code_of(space),
            data={"source": "demo", "fingerprint": "0" * 16}, proxy=choose("fast", "cpu")[0],
        )  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["spaces", "check"], ["spaces", "show"], ["spaces", "show", "--json"],
        ["spaces", "sample"], ["search", "--dry-run"], ["search"], ["calibrate"],
    ],
)  # fmt: skip
def test_a_command_refuses_and_names_it(
    trap: Trap, cli: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trap.folder)
    before = sorted(trap.folder.iterdir())
    options = [word for word in words if word.startswith("--")]
    result = cli(*[word for word in words if word not in options], trap.space, *options)
    assert result.code == 2
    assert f"would run the code in {trap.module}" in result.err
    assert "--allow-code" in result.err
    assert sorted(trap.folder.iterdir()) == before


@pytest.mark.parametrize("words", [["check"], ["show"], ["show", "--json"], ["sample", "-n", "1"]])
def test_with_leave_it_is_named_and_runs(
    trap: Trap, cli: Callable[..., Any], words: list[str]
) -> None:
    result = cli("spaces", words[0], trap.space, *words[1:], "--allow-code")
    assert result.code == 0
    assert result.err.startswith(f"code    callable 'trap_beside:same' runs {trap.module}\n")
    assert trap.ran


def test_it_is_named_before_it_runs(trap: Trap) -> None:
    told = []

    def tell(name: str, path: Path) -> None:
        told.append((name, path, trap.ran))

    SearchSpace.load(trap.space, tell)
    assert told == [("trap_beside:same", trap.module, False)]


def test_in_python_too(trap: Trap) -> None:
    for load in (SearchSpace.load, annotated):
        with pytest.raises(ConfigError, match="would run the code"):
            load(trap.space)
    assert not trap.ran


def test_a_package_above_is_not_run_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "trap_package"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE)
    (package / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert transform.code("trap_package.inner:same", None).source() == package / "inner.py"
    with pytest.raises(ConfigError, match="would run"):
        SearchSpace.load(yaml.safe_load(SPACE.format(name="trap_package.inner:same")))
    assert not (package / "ran").exists()
    assert "trap_package" not in sys.modules


def test_the_hash_comes_first(trap: Trap) -> None:
    """However much leave there is, other code than the run's does not run; without a hash, none."""
    config = trap.config()
    with pytest.raises(ConfigError, match="would run"):
        config.search_space()
    trap.module.write_text(MODULE + "\n# changed\n")
    for other in (config, config.model_copy(update={"space_code": None})):
        with pytest.raises(ConfigError, match="another content"):
            other.trusting().search_space()
    assert not trap.ran
    trap.module.write_text(MODULE)
    assert config.trusting().search_space().transform is not None
    assert trap.ran


def test_compiled_code_in_the_cache_does_not_stand_for_it(trap: Trap) -> None:
    import importlib.util
    import py_compile

    planted = trap.folder / "planted.py"
    planted.write_text("raise SystemExit('planted')")
    py_compile.compile(
        str(planted),
        importlib.util.cache_from_source(str(trap.module)),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    SearchSpace.load(trap.space, allow_code=True)
    assert trap.ran


def test_leave_comes_from_no_file(trap: Trap) -> None:
    config = trap.config()
    for key in ("_allow_code", "allow_code"):
        written = config.model_dump(mode="json", by_alias=True) | {key: True}
        with pytest.raises(ConfigError):
            RunConfig.model_validate(written).search_space()
    assert not trap.ran
    assert "allow_code" not in str(config.trusting().model_dump())


@pytest.mark.parametrize("allow", [False, True])
def test_a_worker_runs_nothing_that_a_study_names(
    trap: Trap, allow: bool, cli: Callable[..., Any]
) -> None:
    """With leave, other code than the search's is refused before it runs; without, any."""
    storage = f"sqlite:///{trap.folder / 'shared.db'}"
    config = trap.config()
    study = optuna.create_study(storage=storage, study_name="planted", directions=["minimize"] * 2)
    if allow:
        trap.module.write_text(MODULE + "\n# changed\n")
    study.set_user_attr("config", config.model_dump(mode="json", by_alias=True))
    with pytest.raises(ConfigError, match="another content" if allow else "would run the code"):
        join(RunDir(storage=storage, study="planted"), allow_code=allow)
    flags = ["--allow-code"] if allow else []
    result = cli("worker", "--storage", storage, "--study", "planted", *flags)
    assert result.code == 2
    assert str(trap.module) in result.err
    assert not trap.ran
