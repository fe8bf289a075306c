"""Seats of workers: GPUs in turn, one thread each, guests leave first; with no GPU here."""

from __future__ import annotations

from typing import Any

from sret_nas.runner.slots import Slot, slots
from sret_nas.study.trials import ATTEMPTS, standing
from sret_nas.training import OutOfMemoryError

Lab = Any


def test_workers_take_the_visible_gpus_in_turn() -> None:
    found = slots("cuda", 5, gpus=2)
    assert [slot.device for slot in found] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert [slot.guest for slot in found] == [False, False, True, True, True]
    assert all(slot.shared for slot in found)
    assert not any(slot.shared for slot in slots("cuda", 2, gpus=2))


def test_one_gpu_that_is_named_takes_all() -> None:
    assert [slot.device for slot in slots("cuda:1", 3, gpus=4)] == ["cuda:1"] * 3


def test_on_a_cpu_each_has_one_thread_and_nobody_leaves() -> None:
    found = slots("cpu", 8, gpus=0)
    assert {slot.threads for slot in found} == {1}
    assert not any(slot.shared or slot.guest for slot in found)


def too_large(arch: Any, seed: int) -> Any:
    raise OutOfMemoryError("CUDA out of memory")


def test_where_not_all_fit_a_guest_leaves_and_hands_its_candidate_back(
    lab: Lab, table: Any
) -> None:
    config = lab.config(trials=3)
    guest = lab.worker(config, table=too_large)
    guest.slot = Slot("cuda:0", shared=True, guest=True)
    guest.work()
    (trial,) = guest.study.trials
    assert trial.user_attrs["interrupted"] == "no room"
    host = lab.worker(config, guest.study, table)
    host.work()
    first, *_ = standing(host.study)
    assert first.user_attrs["id"] == trial.user_attrs["id"]
    assert len(standing(host.study)) == 3


def test_what_never_fits_has_failed(lab: Lab) -> None:
    host = lab.worker(lab.config(trials=1), table=too_large)
    host.slot = Slot("cuda:0", shared=True)
    host.search()
    assert len(host.study.trials) == ATTEMPTS
    (trial,) = standing(host.study)
    assert trial.user_attrs["reason"] == f"no room {ATTEMPTS} times"


def test_alone_on_its_gpu_it_fails_at_once(lab: Lab) -> None:
    host = lab.worker(lab.config(trials=1), table=too_large)
    host.slot = Slot("cuda:0")
    host.search()
    (trial,) = host.study.trials
    assert trial.user_attrs["reason"] == "out of memory"


def test_a_guest_that_does_not_fit_leaves_the_confirmation_to_others(lab: Lab, table: Any) -> None:
    config = lab.config(trials=2)
    host = lab.worker(config, table=table)
    host.search()
    guest = lab.worker(config, host.study, too_large)
    guest.slot = Slot("cuda:0", shared=True, guest=True)
    guest.confirm_front()
    assert not any(key.startswith("confirmed:") for key in host.study.user_attrs)
    host.confirm_front()
    found = [v for k, v in host.study.user_attrs.items() if k.startswith("confirmed:")]
    assert found and all("val_loss" in one for one in found)
