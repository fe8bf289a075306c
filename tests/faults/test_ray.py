"""A Ray cluster of two machines, as far as Ray can tell; one of them is lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from sret_nas.proxy import Proxy
from sret_nas.runner import search
from sret_nas.runner.executors.ray import RayExecutor
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig, versions
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import standing

HERE = Path(__file__).parent.parent / "runner"
MACHINE = {"num_cpus": 2, "object_store_memory": 80_000_000}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two cores each, for two workers each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sret-nas[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(HERE))  # for its workers, which import slow_table
    monkeypatch.syspath_prepend(str(HERE))
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(
        initialize_head=True,
        head_node_args=MACHINE | {"include_dashboard": False},
    )
    cluster.add_node(**MACHINE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, before)


def test_a_lost_machine_costs_its_running_trials(machines: Any, url: str, tmp_path: Path) -> None:
    import slow_table

    log = tmp_path / "log"
    space = SearchSpace.load("smoke").file
    config = RunConfig(
        space=space.model_dump(mode="json", by_alias=True, exclude_unset=True),
        data={"source": str(log), "fingerprint": "0"},
        proxy=Proxy.load({"image_size": 28, "epochs": 4, "rungs": [1, 2, 4], "seeds": 2}),
        versions=versions(),
        trials=60,
        workers=4,
        heartbeat_s=1.0,
        sampler="random",
    )
    (_, second) = machines.list_all_nodes()
    lost: set[str] = set()
    slow_table.hold(log, second.node_id)

    def lose(study: optuna.Study) -> None:
        """The second machine, once it and the first are at work."""
        where = {note["pid"]: note["machine"] for note in slow_table.notes(log)}
        held = slow_table.held(log)
        if not lost and held and len(set(where.values())) == 2:
            lost.add(held["id"])
            for pid, machine in where.items():
                if machine == second.node_id:
                    os.kill(pid, signal.SIGKILL)
            machines.remove_node(second, allow_graceful=False)

    run = RunDir(tmp_path / "run", storage=url)
    ended = search(run, config, watch=lose, make=slow_table.make, executor=RayExecutor)
    assert lost and ended.ending == "done"
    trials = ended.outcome.study.get_trials()
    done = standing(ended.outcome.study)
    assert len({trial.user_attrs["id"] for trial in done}) == len(done) == config.trials
    given_up = {t.user_attrs.get("id") for t in trials if t.user_attrs.get("interrupted") == "lost"}
    assert lost <= given_up and len(given_up) <= 2  # of its two workers; the other two went on
    begun = [note for note in slow_table.notes(log) if note["seed"] == config.seed]
    assert {note["id"] for note in begun} == {trial.user_attrs["id"] for trial in done}
    there = {note["id"] for note in begun if note["machine"] == second.node_id}
    again = {arch_id for arch_id, times in Counter(n["id"] for n in begun).items() if times > 1}
    assert lost <= again == given_up & there
    assert len(begun) == len(done) + len(again)
