"""Workers as actors of a real Ray cluster on this machine; one of them is killed."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sret_nas.errors import UsageError
from sret_nas.proxy import Proxy
from sret_nas.runner import search
from sret_nas.runner.confirmation import to_confirm
from sret_nas.runner.executors.base import MakeWorker, Stop
from sret_nas.runner.executors.ray import RayExecutor, needs
from sret_nas.runner.slots import slots
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig, versions
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import ATTEMPTS, owner, standing

Cli = Callable[..., Any]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with four cores and, as it believes, two GPUs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sret-nas[ray]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(HERE))  # for its workers, which import slow_table
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)
    patch.undo()


@pytest.fixture
def make(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> MakeWorker:
    monkeypatch.syspath_prepend(str(HERE))
    import slow_table

    found: MakeWorker = slow_table.make
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the workers trained."""
    return tmp_path / "log"


def config_of(log: Path, **changes: Any) -> RunConfig:
    proxy = {"image_size": 28, "epochs": 4, "rungs": [1, 2, 4], "seeds": 2}
    space = SearchSpace.load("smoke").file
    return RunConfig(
        space=space.model_dump(mode="json", by_alias=True, exclude_unset=True),
        data={"source": str(log), "fingerprint": "0"},
        proxy=Proxy.load(proxy),
        versions=versions(),
        **{"trials": 12, "workers": 3, "heartbeat_s": 1.0, "sampler": "random"} | changes,
    )


def trained(log: Path) -> list[dict[str, Any]]:
    import slow_table

    found: list[dict[str, Any]] = slow_table.notes(log)
    return found


def test_a_search_on_ray(make: MakeWorker, log: Path, tmp_path: Path) -> None:
    config = config_of(log)
    ended = search(RunDir(tmp_path / "run"), config, make=make, executor=RayExecutor)
    assert ended.ending == "done"
    done = standing(ended.outcome.study)
    assert len({trial.user_attrs["id"] for trial in done}) == len(done) == config.trials
    assert all(trial.state.is_finished() for trial in done)
    pids = {one["pid"] for one in trained(log)}
    assert len(pids) > 1 and os.getpid() not in pids
    assert Counter((one["id"], one["seed"]) for one in trained(log)).most_common(1)[0][1] == 1
    assert not to_confirm(ended.outcome)
    assert any(member.confirmation for member in ended.outcome.front)
    assert RunDir(tmp_path / "run").study().study_name == "run"


def test_a_killed_actor_costs_its_running_trial(
    make: MakeWorker, log: Path, tmp_path: Path
) -> None:
    import slow_table

    killed: set[str] = set()
    lives: list[int] = []
    slow_table.hold(log)

    class Counting(RayExecutor):
        def _fill(self, post: Any) -> None:
            lives.append(post.lives)
            super()._fill(post)

    def kill(study: optuna.Study) -> None:
        held = slow_table.held(log)
        if held and not killed:
            killed.add(held["id"])
            os.kill(held["pid"], signal.SIGKILL)

    config = config_of(log, trials=40)
    ended = search(RunDir(tmp_path / "run"), config, watch=kill, make=make, executor=Counting)
    assert killed and ended.ending == "done"
    trials = ended.outcome.study.get_trials()
    done = standing(ended.outcome.study)
    assert len({trial.user_attrs["id"] for trial in done}) == len(done) == config.trials
    lost = [t for t in trials if t.user_attrs.get("interrupted") == "lost" and t.params]
    assert {t.user_attrs.get("id") for t in lost} == killed
    begun = Counter(one["id"] for one in trained(log) if one["seed"] == config.seed)
    assert {arch_id: times for arch_id, times in begun.items() if times > 1} == dict.fromkeys(
        killed, 2
    )
    (again,) = [trial for trial in done if trial.user_attrs["id"] in killed]
    assert again.state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert lives == [ATTEMPTS - 1] * config.workers + [ATTEMPTS - 2]  # one took its place


def test_more_workers_than_there_is_room_for(make: MakeWorker, log: Path, tmp_path: Path) -> None:
    config = config_of(log, workers=7, trials=14)
    ended = search(RunDir(tmp_path / "run"), config, make=make, executor=RayExecutor)
    assert ended.ending == "done" and len(standing(ended.outcome.study)) == config.trials
    assert len({one["pid"] for one in trained(log)}) <= 7


def test_the_first_interrupt_hands_back(make: MakeWorker, log: Path, tmp_path: Path) -> None:
    sent: list[bool] = []

    def interrupt(study: optuna.Study) -> None:
        if not sent and log.exists():
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    config = config_of(log, trials=200)
    ended = search(
        RunDir(tmp_path / "run"), config, watch=interrupt, make=make, executor=RayExecutor
    )
    assert ended.ending == "interrupted"
    trials = ended.outcome.study.get_trials()
    assert len(trials) < 200 and not [t for t in trials if t.state == TrialState.RUNNING]
    assert "stopped" in {trial.user_attrs.get("interrupted") for trial in trials}


def test_time_that_is_up_ends_the_actors(make: MakeWorker, log: Path, tmp_path: Path) -> None:
    config = config_of(log, trials=None, timeout_s=2.0, sampler="random")
    ended = search(RunDir(tmp_path / "run"), config, make=make, executor=RayExecutor)
    assert ended.ending == "timeout"
    trials = ended.outcome.study.get_trials()
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]


def test_what_a_worker_refuses_is_one_line(
    make: MakeWorker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(Path("other"), workers=2)
    with pytest.raises(UsageError, match="no worker could begin"):
        search(RunDir(tmp_path / "run"), config, make=make, executor=RayExecutor)
    assert (
        capfd.readouterr().err.splitlines()
        == ["error: data 'other' are not those that the run was begun with"] * 2
    )


def test_gpus_are_shared_out(make: MakeWorker, log: Path, tmp_path: Path) -> None:
    """Ray gives every worker its own part of one GPU, and shows it that one alone."""
    config = config_of(log, device="cuda", workers=4)
    run = RunDir(tmp_path / "run")
    with run.only_one():
        run.begin(config)
        study = run.study(create=config)
        stop = Stop(multiprocessing.get_context("spawn").Event(), None)
        places = slots("cuda", 4, 2, "team")
        RayExecutor(run, config, stop, lambda _: None, places, make).work(study)
    found = trained(log)
    assert {one["device"] for one in found} == {"cuda:0"}
    where = {one["pid"]: one["visible"] for one in found}
    assert Counter(where.values()) == {"0": 2, "1": 2}


def test_what_workers_need() -> None:
    resources = {"CPU": 8.0, "GPU": 2.0}
    places, need = needs("cpu", 3, resources, "team")
    assert need == {"num_cpus": 1} and {slot.team for slot in places} == {"team"}
    places, need = needs("cuda", 2, resources)
    assert need == {"num_cpus": 0, "num_gpus": 1}
    assert not any(slot.shared for slot in places)
    places, need = needs("cuda", 5, resources)
    assert need["num_gpus"] == pytest.approx(1 / 3)
    assert [slot.guest for slot in places] == [False, False, True, True, True]
    with pytest.raises(UsageError, match="no GPU"):
        needs("cuda", 2, {"CPU": 8.0})
    with pytest.raises(UsageError, match="chooses the GPUs itself"):
        needs("cuda:1", 2, resources)


def test_a_file_is_refused_where_there_are_several_machines(
    cluster: Any, make: MakeWorker, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = SimpleNamespace(nodes=lambda: [{"Alive": True}, {"Alive": False}, {"Alive": True}])
    monkeypatch.setattr(cluster, "nodes", alive.nodes)
    with pytest.raises(UsageError, match="2 machines, and the study is a file"):
        search(RunDir(tmp_path / "run"), config_of(log), make=make, executor=RayExecutor)


@pytest.mark.slow
def test_the_command_trains_on_ray(cluster: Any, cli: Cli, tmp_path: Path) -> None:
    tiny = {"image_size": 28, "width": 0.5, "subset": 64, "val_images": 32, "epochs": 1, "seeds": 1}
    proxy, out = tmp_path / "tiny.json", tmp_path / "run"
    proxy.write_text(json.dumps(tiny))
    options = ("--proxy", proxy, "--out", out, "--trials", 3, "--workers", 2, "--json")
    result = cli("search", "smoke", "--engine", "ray", *options)
    assert result.code == 0, result.err
    assert "ray     4 cores, 2 GPUs" in result.err
    assert json.loads(result.out)["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    owners = {owner(trial).pid for trial in RunDir(out).study().get_trials()}  # type: ignore[union-attr]
    assert os.getpid() not in owners


@pytest.mark.parametrize("command", [["search", "smoke"], ["worker", "--storage", "URL"]])
def test_without_ray_it_says_how_to_get_it(
    command: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch, log: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    RunDir(storage=url, study="one").study(create=config_of(log))
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "ray" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    result = cli(*[word.replace("URL", url) for word in command], "--engine", "ray")
    assert result.code == 2
    assert "--engine ray: Ray is not installed" in result.err
    assert "pip install 'sret-nas[ray]'" in result.err
