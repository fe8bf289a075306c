"""A worker as it is set up in its process: its connection, data, evaluator and clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sret_nas.errors import UsageError
from sret_nas.runner.comparison import comparer
from sret_nas.runner.executors.base import Stop
from sret_nas.runner.lease import Leased, lease
from sret_nas.runner.slots import Slot
from sret_nas.runner.worker import Worker
from sret_nas.space import clock
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

if TYPE_CHECKING:
    from sret_nas.data import DataSet
    from sret_nas.data.source import Source


def the_data(config: RunConfig, listing: Source | None = None) -> DataSet:
    """The data of a run.

    Args:
        config: What was asked for.
        listing: What another process of this machine found of them.

    Raises:
        UsageError: they are others than those that the run was begun with.
    """
    from sret_nas.data import load_data

    source = config.data["source"]
    data = load_data(listing or source, seed=config.seed, **config.proxy.load_options())
    if data.known_as(config.data["fingerprint"]) != config.data["fingerprint"]:
        raise UsageError(
            f"data '{source}' are not those that the run was begun with: their content "
            f"hash is {data.fingerprint}, not {config.data['fingerprint']}",
            "sret-nas worker --data says where they are on this machine",
        )
    return data


def make_worker(
    run: RunDir,
    config: RunConfig,
    stop: Stop,
    slot: Slot,
    quiet: bool,
    listing: Source | None = None,
) -> Worker:
    """A worker that trains, with its own connection, data and clock.

    Args:
        run: The run.
        config: What was asked for.
        stop: Whether to come to an end.
        slot: Where it works.
        quiet: Whether somebody else says that the database is away.
        listing: What another process of this machine found of the data.

    Raises:
        UsageError: the data are not those that the run was begun with.
    """
    import torch

    from sret_nas.device import resolve

    data = the_data(config, listing)
    device = resolve(slot.device)
    if device.type == "cpu":
        torch.set_num_threads(slot.threads)
    own = lease(device)
    batches, dtype, mode = config.latency_batches, config.latency_dtype, config.latency_mode
    runtime = config.latency_runtime
    return Worker(
        run=run,
        config=config,
        study=run.study(quiet=quiet),
        space=config.search_space(),
        evaluator=Leased(config.make_evaluator()(config.proxy, data, device), own),
        stop=stop,
        clock=clock(slot.device, dtype, mode, alone=own.measuring, runtime=runtime)
        if batches
        else None,
        comparer=comparer(device, own, batches[0], dtype, mode, runtime) if batches else None,
        slot=slot,
        until=stop.deadline,
    )
