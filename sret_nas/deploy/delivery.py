"""The end of a training: the model folder, and what the model in it is worth and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sret_nas.cost import cost
from sret_nas.counters import count
from sret_nas.data import DataSet
from sret_nas.deploy.card import write_card
from sret_nas.deploy.evaluation import evaluate
from sret_nas.deploy.full_training import Progress, Watch
from sret_nas.deploy.metrics_file import Metrics, Timed
from sret_nas.deploy.opening import open_model
from sret_nas.deploy.product import save_model
from sret_nas.device import Choice, resolve
from sret_nas.latency import Latency, measure
from sret_nas.model import SReT
from sret_nas.runner.lease import lease

MEASURED_S = 10.0
"""Seconds that the latency of the model is measured for, at most."""


def deliver(
    model: nn.Module,
    source: str,
    progress: Progress,
    data: DataSet,
    folder: Path,
    device: Choice,
    watch: Watch,
) -> None:
    """Write the model folder: weights that validated best, then what they are worth.

    Args:
        model: The network; its weights are replaced.
        source: As the user named it; timm's name of a model of timm's.
        progress: What the training came to.
        data: What it was trained on; the test images are read here, once.
        folder: Of the model.
        device: Where it is evaluated and timed.
        watch: Told how it goes.
    """
    model.load_state_dict(progress.weights)
    save_model(model, folder, data, source)
    opened = open_model(folder, device=device.name)
    watch.say("validating the model as it was saved")
    val = evaluate(opened, [data.val], data.classes, tell=watch.detail)
    test = None
    if data.has_test:
        watch.say("reading the test images, once")
        test = evaluate(opened, [data.test()], data.classes, tell=watch.detail)
    with lease(resolve(device.name)).measuring(watch.say):
        measured = measure(
            {"model": opened.module or model}, device=device.name, seconds=MEASURED_S
        )
    found = Metrics.model_validate(
        {
            "schema": 1,
            "epoch": progress.best,
            "epochs": len(progress.rows),
            "seconds": progress.seconds,
            "device": str(device),
            "cost": cost_of(model, data),
            "validation": val.scores.to_dict(),
            "test": test and test.scores.to_dict(),
            "latency": [Timed.of(one) for one in measured.values() if isinstance(one, Latency)],
        }
    )
    found.save(folder)
    write_card(folder)


def cost_of(model: nn.Module, data: DataSet) -> dict[str, Any]:
    """Parameters, MACs and, of an SReT model, peak memory in bytes, of one image.

    Args:
        model: Counted by the formula, or one of timm's by torch's dispatcher.
        data: Size and channels of the images.
    """
    if isinstance(model, SReT):
        found = cost(model.arch)
        return {"params": found.params, "macs": found.macs, "peak_bytes": found.peak_bytes}
    counted = count(model, ["torch"], (data.in_chans, data.image_size, data.image_size))["torch"]
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "macs": counted.macs, "peak_bytes": None}
