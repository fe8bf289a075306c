"""How long a search would take: its work, over a speed that is measured here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet
from sret_nas.device import resolve
from sret_nas.evaluate import ProxyEvaluator
from sret_nas.study.config import RunConfig

SAMPLE = 101
"""Architectures of which the one of median MACs is timed."""


@dataclass(frozen=True)
class Estimate:
    """What a search is expected to take.

    Attributes:
        arch: The architecture that was timed: of median MACs under the budget.
        images_per_s: Its training speed in one worker, measured.
        images: Work that is left, in training images.
        seconds: Wall time over all workers, if all were as fast.
    """

    arch: Architecture
    images_per_s: float
    images: int
    seconds: float


def estimate(
    config: RunConfig, data: DataSet, trials: int, confirmations: int | None = None
) -> Estimate:
    """Time a few training steps and work out the rest.

    Bounds on latency are left out of the sample. On a CPU, torch is left with one
    thread, as in every worker.

    Args:
        config: The run.
        data: Its data.
        trials: Candidates that are still to be tried.
        confirmations: Trainings that then confirm the front; default those of a usual one.

    Raises:
        InfeasibleError: nothing satisfies the budget.
    """
    device = resolve(config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    bounds = [bound for bound in config.budgets if bound.metric != "latency_ms"]
    archs = config.search_space().sample(SAMPLE, config.seed, bounds)
    arch = sorted(archs, key=lambda arch: cost(arch).macs)[len(archs) // 2]
    speed = ProxyEvaluator(config.proxy, data, device).images_per_second(arch)
    images = config.proxy.search_images(trials, data)
    if confirmations is not None:
        images = config.proxy.search_images(trials, data, front=0)
        images += confirmations * config.proxy.images(config.proxy.epochs, data)
    return Estimate(arch, speed, images, images / (speed * config.workers))
