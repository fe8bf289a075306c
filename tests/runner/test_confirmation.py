"""Confirming side by side: each member and seed once, those of the dead again, in time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sret_nas.arch import Architecture
from sret_nas.runner import RunResult, listing
from sret_nas.runner.confirmation import PREFIX, confirming_s, to_confirm
from sret_nas.study.heartbeat import WorkerId
from sret_nas.study.rundir import CONFIG

Lab = Any
DEAD = WorkerId("there/1/x", "another boot", "pid:[1]", 1, "1", "there/1/x")


@pytest.fixture
def searched(lab: Lab) -> Any:
    """A study whose front is not confirmed yet."""
    config = lab.config(trials=12, heartbeat_s=0.05)
    worker = lab.worker(config)
    worker.search()
    return worker


def outcome(worker: Any) -> RunResult:
    return RunResult(worker.run, worker.config, worker.study)


def claims(worker: Any) -> dict[str, Any]:
    return {k: v for k, v in worker.study.user_attrs.items() if k.startswith(PREFIX) and v}


def test_four_workers_confirm_each_member_and_seed_once(
    searched: Any, lab: Lab, table: Any
) -> None:
    proxy = lab.proxy | {"seeds": 4}
    lab.proxy = proxy
    config = lab.config(trials=12, heartbeat_s=5.0)
    trained: Counter[tuple[str, int]] = Counter()

    def slow(arch: Architecture, seed: int) -> Iterator[Any]:
        trained[arch.id, seed] += 1
        for result in table(arch, seed):
            time.sleep(0.002)  # so that they overlap
            yield result

    workers = [lab.worker(config, searched.study, slow) for _ in range(4)]
    threads = [threading.Thread(target=worker.confirm_front) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = outcome(workers[0])
    assert set(trained.values()) == {1}
    seeds = [member.confirmation.seeds for member in found.front if member.confirmation]
    assert sum(trained.values()) == sum(seeds) - len(seeds) > 3
    assert max(seeds) <= 4
    assert to_confirm(found) == []
    assert claims(searched) == {}


def test_what_a_dead_worker_held_is_confirmed_by_another(searched: Any) -> None:
    (number, seed), *_ = to_confirm(outcome(searched))
    held = {"owner": DEAD.to_dict(), "beat": 3, "confirmed": True}
    searched.study.set_user_attr(f"{PREFIX}:{number}:{seed}:{DEAD.name}", held)
    assert (number, seed) not in searched.confirmations.free([(number, seed)])
    searched.confirm_front()
    assert f"confirmed:{number}:{seed}" in searched.study.user_attrs
    assert to_confirm(outcome(searched)) == []


def test_what_is_stopped_is_given_back(searched: Any, lab: Lab) -> None:
    asked = iter([False] * 3 + [True] * 100)
    stopped = lab.worker(searched.config, searched.study, stop=lambda: next(asked))
    stopped.confirm_front()
    assert claims(searched) == {}
    assert len(to_confirm(outcome(searched))) == len(outcome(searched).front)


def test_a_claim_that_comes_after_the_work_was_done_is_lost(searched: Any) -> None:
    (job, *_) = to_confirm(outcome(searched))
    searched.study.set_user_attr(f"confirmed:{job[0]}:{job[1]}", {"reason": "NaN"})
    with searched.confirmations.claimed(*job, stop=lambda: False) as mine:
        assert not mine
    assert claims(searched) == {}


def test_who_confirms_is_counted_among_the_workers(searched: Any) -> None:
    def row() -> Any:
        searched.study.set_user_attr(CONFIG, searched.config.model_dump(mode="json"))
        return listing._progress("run", searched.study, searched.study.user_attrs)

    (job, *_) = to_confirm(outcome(searched))
    assert row().workers == 0
    with searched.confirmations.claimed(*job, stop=lambda: False):
        assert (row().workers, row().running) == (1, 0)
    assert row().workers == 0


def test_the_time_for_confirming_is_that_of_the_search_over_the_workers(searched: Any) -> None:
    found = outcome(searched)
    each = [2.0] * len(found.front)  # four epochs of half a second
    assert confirming_s(found) == pytest.approx(sum(each))
    found.config = found.config.model_copy(update={"workers": 2})
    assert confirming_s(found) == pytest.approx(max(2.0, sum(each) / 2))


@pytest.mark.parametrize(("timeout_s", "reserved_s"), [(1000.0, None), (4.0, 2.0)])
def test_the_search_leaves_time_to_confirm_but_at_most_half_of_all(
    timeout_s: float, reserved_s: float | None, searched: Any, lab: Lab
) -> None:
    needed_s = reserved_s or confirming_s(outcome(searched))
    config = searched.config.model_copy(update={"trials": 40, "timeout_s": timeout_s})
    before = len(searched.study.trials)
    late = lab.worker(config, searched.study)
    late.until = time.monotonic() + needed_s - 0.5
    late.search()
    assert len(searched.study.trials) == before
    assert late.limits._reserve_s == pytest.approx(needed_s)
    early = lab.worker(config, searched.study)
    early.until = time.monotonic() + 1000
    early.search()
    assert len(searched.study.trials) >= 40
