"""``sret-nas train``: from an architecture to a trained model folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas.errors import SretNasError
from sret_nas.units import format_count

from .output import Column, Format, FormatOption, JsonOption, emit, note, status
from .where import ThreadsOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from sret_nas.deploy.full_training import Moment, Watch
    from sret_nas.deploy.summary import Epoch
    from sret_nas.deploy.train import Trained, Training


def _share(value: float) -> str:
    return f"{value:.2%}"


COLUMNS = [
    Column("model", "model", left=True),
    Column("network", "network", left=True, rank=3),
    Column("params", "params", format_count),
    Column("macs", "MACs", format_count),
    Column("epoch", "best epoch", rank=2),
    Column("val_top1", "val top-1", _share),
    Column("top1", "test top-1", _share),
    Column("top1_low", "from (95%)", _share, rank=1),
    Column("top1_high", "to (95%)", _share, rank=1),
    Column("top5", "test top-5", _share, rank=4),
    Column("calibration_error", "calibration error", _share, rank=5),
    Column("seconds", "seconds", lambda value: f"{value:,.0f}", rank=6),
]


def train(
    arch: Annotated[
        str,
        typer.Argument(
            metavar="ARCH", help="A name, a file, RUN#N, a run (its best member), or a timm model."
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Demonstration set, cifar10, a folder of images by class, ….")
    ] = "demo",
    recipe: Annotated[str, typer.Option(help="short, sret, finetune or a YAML file.")] = "short",
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, timm model or NAME=FILE to learn from; repeatable."),
    ] = None,
    soft_labels: Annotated[
        int,
        typer.Option(
            min=0, help="Store the teachers' answers to so many crops an image, and reuse them."
        ),
    ] = 0,
    init: Annotated[
        str | None,
        typer.Option(help="Start from these weights: a checkpoint or folder, also of a relative."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: the recipe's.", show_default=False)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images of a step; default: the recipe's.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate, for the recipe's lr_batch; default: the recipe's."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=4, help="Side in px; default: the recipe's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: ThreadsOption = None,
    workers: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Processes that decode images.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Model folder; default models/NAME.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="One CPU thread, one seed: one result.")
    ] = 0,
    top: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many members of a run's front, each in its folder."),
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """Train one network in full, and write a model folder.

    The same command goes on with a training that was interrupted. Several GPUs:
    torchrun --nproc-per-node N --no-python sret-nas train …. With tensorboard installed
    (the extra of that name) MODEL/tensorboard gets an event an epoch.
    """
    form = Format.json if as_json else form
    import torch

    from sret_nas.training.processes import joined

    if threads is not None:
        torch.set_num_threads(threads)
    asked: dict[str, Any] = {
        "data": data,
        "recipe": recipe,
        "teachers": tuple(teacher or ()),
        "soft_labels": soft_labels,
        "init": init,
        "changes": {"epochs": epochs, "batch": batch, "lr": lr, "image_size": image_size},
        "device": device,
        "seed": seed,
        "workers": workers,
    }
    with joined(device) as processes:
        asked["processes"] = processes
        tell = note if processes.first else _silent
        with status() as line:
            watch = _watch(tell, line)
            if top is None:
                found = [_trained(arch, asked | {"out": out, "watch": watch}, tell)]
            else:
                found = _several(arch, top, out, asked | {"watch": watch}, tell)
        if processes.first:
            rows = [_row(one) for one in found]
            emit(rows, COLUMNS, form, document=rows if top else found_document(found[0]))
            _next_steps(found[0])


def _silent(_: str) -> None:
    """Of the processes that train together, one speaks."""


def _trained(arch: Any, asked: dict[str, Any], tell: Callable[[str], None]) -> Trained:
    from sret_nas.deploy.train import Training

    training = Training(arch, **asked)
    _introduce(training, tell)
    try:
        found = training.run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, SretNasError):  # what was asked for is to stop
            _page(training, tell)
        tell("interrupted: what was trained is kept; the same command goes on")
        raise
    _page(training, tell)
    return found


def _page(training: Training, tell: Callable[[str], None]) -> None:
    """Write the page of a training, by one of those that train together."""
    from sret_nas.report import write_training

    if training.processes.first:
        tell(f"report  {write_training(training.folder)}")


def _several(
    run: str, top: int, out: Path | None, asked: dict[str, Any], tell: Callable[[str], None]
) -> list[Trained]:
    from sret_nas.deploy.subject import members
    from sret_nas.deploy.transfer import Transfer
    from sret_nas.report import write
    from sret_nas.runner import load

    chosen = members(run, top)
    folder = out or Path("models")
    found = []
    for subject, _ in chosen:
        tell(f"training {subject.source}")
        found.append(_trained(subject, asked | {"out": folder / subject.name}, tell))
    if asked["processes"].first:
        transfer = Transfer.of(run, [member for _, member in chosen], found)
        transfer.save(run)
        tell(str(transfer))
        tell(f"report  {write(load(run))}")
    return found


def _introduce(training: Training, tell: Callable[[str], None]) -> None:
    data, recipe = training.data, training.recipe
    arch = training.job.architecture
    tell(f"device  {training.device}")
    side = f"{data.image_size} px"
    own = training.subject.side(None)
    if own != data.image_size:
        side += f" (the network's own is {own}: --image-size {own})"
    tell(f"images  {data.name}: {len(data.train):,} to train on, {len(data.val):,} to validate on")
    tell(f"network {training.subject.source} at {side}" + ("" if arch else ", timm's"))
    steps = len(data.train) // recipe.batch or 1
    tell(
        f"recipe  {recipe.epochs} epochs of {steps:,} steps of {recipe.batch} images, "
        f"learning rate {recipe.rate:.3g}"
    )
    if training.left_out:
        tell(
            f"note: without {', '.join(training.left_out)}: the teachers saw the crops as they are"
        )
    for remark in (*data.notes, *(training.teacher.notes if training.teacher else ())):
        tell(f"note: {remark}")


def _watch(tell: Callable[[str], None], line: Callable[[str], None]) -> Watch:
    from sret_nas.deploy.full_training import Watch

    def moment(now: Moment) -> None:
        line(
            f"epoch {now.epoch} of {now.epochs}, step {now.step} of {now.steps}, "
            f"{now.images_per_second:,.0f} images/s" + _left(now.seconds_left)
        )

    def epoch(row: Epoch) -> None:
        tell(
            f"epoch {row.epoch}: loss {row.train_loss:.3f}, validation {row.val_loss:.3f}, "
            f"accuracy {row.val_accuracy:.1%}, {row.images_per_second:,.0f} images/s"
        )

    return Watch(moment=moment, epoch=epoch, say=tell, detail=line)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    from .view import duration

    return f", {duration(seconds)} left"


def _row(found: Trained) -> dict[str, Any]:
    test, val = found.metrics["test"] or {}, found.metrics["validation"]
    cost = found.metrics["cost"]
    return {
        "model": str(found.folder),
        "network": found.job.network,
        "params": cost["params"],
        "macs": cost["macs"],
        "epoch": found.metrics["epoch"],
        "val_top1": val["top1"],
        **{key: test.get(key) for key in ("top1", "top1_low", "top1_high", "top5")},
        "calibration_error": (test or val)["calibration_error"],
        "seconds": found.metrics["seconds"],
    }


def found_document(found: Trained) -> dict[str, Any]:
    """What ``--format json`` prints of one training."""
    return {**_row(found), "metrics": dict(found.metrics)}


def _next_steps(found: Trained) -> None:
    data = found.job.data["name"]
    note(f"next: sret-nas evaluate {found.folder} --data {data}")
    note(f"      sret-nas export {found.folder} --to onnx --int8 --data {data}")
