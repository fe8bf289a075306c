"""Fixtures of all tests: the command line in process, the golden cases, GPU tests."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from sret_nas.cli.main import run

HERE = Path(__file__).parent


CUDA_SECONDS = 30.0
"""Time limit of a GPU test that names none: ``@pytest.mark.cuda(seconds=…)``."""
GRACE_SECONDS = 60.0
"""A call into CUDA that has not come back by then ends all tests, with every thread's stack."""
MOST_PROCESSES = 4
"""Each takes up to 1.5 GB, and builds its own database and browser."""
STDERR = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs on several cores, where pytest-xdist is installed; -n0 is one process.

    Tests that the command line names run in one process, and so do the mutants'.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    within = "PYTEST_XDIST_WORKER" in os.environ  # else each process would start its own, and on
    if within or not whole or not config.pluginmanager.hasplugin("xdist"):
        return
    option = config.option
    if option.numprocesses is None and option.dist == "no" and not option.tx:
        option.numprocesses = "auto"
        option.dist = "loadfile"  # fixtures of a module are made once
        option.loadscopereorder = False  # by name: those with few but long tests are not the last
        option.maxworkerrestart = "0"  # a test that hangs or crashes ends the tests


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process where there is a GPU: its tests time it, and fill its memory."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(cores or 1, MOST_PROCESSES)
    if processes < 2:
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", str((cores or 1) // processes))
    return processes


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # readline in the first process sets them for its children
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


@pytest.hookimpl(trylast=True)  # what -m leaves out need not be looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    reason = no_gpu() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def no_gpu() -> str | None:
    """Why no GPU can be used here, or ``None``."""
    from sret_nas import gpus
    from sret_nas.device import choose
    from sret_nas.errors import UsageError

    number, why_none = gpus.seen()
    if not number:
        return why_none
    try:
        choose("cuda")
    except UsageError as error:
        return str(error)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    with within_limit(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with within_limit(item):
        yield


@contextmanager
def within_limit(item: pytest.Item) -> Iterator[None]:
    """Fail a test marked ``cuda`` that takes longer than its mark says; others take their time."""
    mark = item.get_closest_marker("cuda")
    if mark is None or not hasattr(signal, "setitimer"):
        yield
        return
    seconds = float(mark.kwargs.get("seconds", CUDA_SECONDS))

    def over(*_: object) -> None:
        # no Exception: the code under test may catch those
        pytest.fail(f"took longer than its {seconds:g} s: @pytest.mark.cuda(seconds=…)")

    before = signal.signal(signal.SIGALRM, over)
    faulthandler.dump_traceback_later(
        seconds + GRACE_SECONDS, exit=True, file=item.config.stash[STDERR]
    )
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def only_where_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is the CPU in all tests but those of a GPU, whatever the machine has."""
    if request.node.get_closest_marker("cuda"):
        return
    from sret_nas import gpus

    monkeypatch.setattr(gpus, "seen", lambda: (0, "torch sees no GPU"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that a test starts


@pytest.fixture
def limited() -> Callable[[pytest.Item], AbstractContextManager[None]]:
    """What a GPU test runs within."""
    return within_limit


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that tests and their fixtures measure ends in the user's cache folder.

    Nor do they wait for others there: a search shares its device by a lock in that folder.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SRET_NAS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def few_test_images() -> Iterator[None]:
    """A hundred test images in ``demo`` for searches in this process: a front is confirmed soon."""
    from sret_nas.data import embedded

    begin = embedded.TRAIN_IMAGES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_test", lambda: embedded._read(slice(begin, begin + 100)))
        yield


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a ``sret-nas`` command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def fill() -> ModuleType:
    """The golden weights and inputs as functions."""
    spec = importlib.util.spec_from_file_location("golden_fill", HERE / "golden" / "fill.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden_cases() -> dict[str, dict[str, Any]]:
    """What the published code says of each case, by name."""
    cases = json.loads((HERE / "golden" / "cases.json").read_text())
    return {
        case["name"]: case | dict(np.load(HERE / "golden" / f"{case['name']}.npz"))
        for case in cases
    }


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread: equal bit by bit, and no faster on small models."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
