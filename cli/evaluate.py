"""``sret-nas evaluate``: what a model is worth, and what it says of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sret_nas import files
from sret_nas.errors import UsageError

from .output import (
    Column,
    Format,
    FormatOption,
    JsonOption,
    count,
    emit,
    error,
    note,
    print_table,
    say,
    status,
)
from .where import DeviceOption, ThreadsOption, choose_device

if TYPE_CHECKING:
    from sret_nas.data import Chosen
    from sret_nas.deploy.evaluation import Evaluation
    from sret_nas.deploy.opening import Opened

SCHEMA = 1


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model folder, .onnx file, checkpoint with --arch, or any timm model.",
            show_default=False,
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE...]", help="With --predict.", show_default=False),
    ] = None,
    data: Annotated[
        str, typer.Option(help="demo, a folder of images by class, a .tar, cifar10, hfds/…")
    ] = "demo",
    split: Annotated[
        str | None,
        typer.Option(
            help="test, val or all; default test where there are test images, else val.",
            show_default=False,
        ),
    ] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Print the classes of IMAGE..., without data.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Images at a time.")] = 64,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    threads: ThreadsOption = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Architecture of a checkpoint that does not say it."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write the prediction of every image."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Instead of the model's own, e.g. 0.5,0.5,0.5.", show_default=False),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Instead of the model's own.", show_default=False)
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="Instead of the model's own.", show_default=False)
    ] = None,
    crop_pct: Annotated[
        float | None, typer.Option(help="Instead of the model's own.", show_default=False)
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """What a model is worth on images: accuracy, loss, calibration, throughput.

    Images are prepared as timm does it by what the model says of itself.
    """
    form = Format.json if as_json else form
    if bool(images) != predict:
        raise UsageError(
            f"given {count(len(images or []), 'IMAGE')} {'with' if predict else 'without'} "
            "--predict; allowed: both or neither",
            f"sret-nas evaluate {model} --predict photo.jpg; sret-nas evaluate {model} --data DIR",
        )
    if predict and predictions is not None:
        raise UsageError("--csv: allowed with --data", "--predict … --format csv > FILE.csv")
    from sret_nas.deploy.opening import open_model

    changed = {
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
    }
    where = choose_device(device)
    with _threads(threads):
        with status() as progress:
            progress(f"loading {model}")
            opened = open_model(
                model, arch=arch, device=where, dtype=dtype, threads=threads, preprocessing=changed
            )
        for said in opened.notes:
            note(f"note: {said}")
        if images:
            _predict(opened, images, form)
        else:
            _evaluate(opened, model, data, split, batch, dtype, predictions, form)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option}: given '{text}'; allowed: numbers with commas", f"e.g. {option} 0.5,0.5,0.5"
        ) from None


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- on data ----------------------------------------------------------------------------------


def _evaluate(
    opened: Opened,
    model: str,
    data: str,
    split: str | None,
    batch: int,
    dtype: str,
    predictions: Path | None,
    form: Format,
) -> None:
    from sret_nas.data import choose_images
    from sret_nas.deploy.evaluation import evaluate as run
    from sret_nas.deploy.evaluation import matched

    with status() as progress:
        progress(f"reading {data}")
        chosen = choose_images(data, split, image_size=opened.side, tell=progress)
        matched(opened, chosen.classes)  # before the images are read
        notes = [*chosen.notes, *_seen_before(model, chosen)]
        for said in notes:
            note(f"note: {said}")
        keep = predictions is not None
        found = run(opened, chosen.splits, chosen.classes, batch=batch, keep=keep, tell=progress)
    for name in found.unreadable:
        note(f"note: left out, it cannot be decoded: {name}")
    if predictions is not None:
        _write(predictions, found)
    row = _row(opened, chosen, found, batch, dtype)
    rest = found.scores.to_dict()
    document = {"schema": SCHEMA} | row
    document |= {key: rest[key] for key in ("per_class", "confusion")}
    document |= {
        "unreadable": list(found.unreadable),
        "preprocessing": opened.preprocessing,
        "notes": [*opened.notes, *notes],
    }
    emit([row], COLUMNS, form, document)
    if form is Format.table:
        _details(opened, found, batch, dtype)


def _seen_before(model: str, chosen: Chosen) -> Iterator[str]:
    """Whether the model may have been trained on some of the images."""
    from sret_nas.deploy.about import training_of

    data = training_of(model).get("data") if Path(model).is_dir() else None
    if not isinstance(data, dict) or not data.get("fingerprint"):
        return
    same = data["fingerprint"] == chosen.fingerprint
    if chosen.which == "all" and same:
        yield "the model was trained on some of these images"
    if chosen.which == "val" and not same:
        yield (
            "not the data that the model was trained on, or cut otherwise: it may have seen "
            "some of these validation images"
        )


def _share(value: float) -> str:
    return f"{value:.2%}"


COLUMNS = [
    Column("model", "model", left=True),
    Column("split", "images of", rank=4, left=True),
    Column("images", "images", "{:,}".format, rank=2),
    Column("top1", "top-1", _share),
    Column("top1_low", "from", _share, rank=1),
    Column("top1_high", "to (95%)", _share, rank=1),
    Column("top5", "top-5", _share),
    Column("loss", "loss", "{:.4f}".format),
    Column("calibration_error", "calibration error", _share, rank=3),
    Column("images_per_second", "images/s", "{:,.0f}".format, rank=2),
]


def _row(
    opened: Opened, chosen: Chosen, found: Evaluation, batch: int, dtype: str
) -> dict[str, Any]:
    scores = found.scores.to_dict()
    keys = ("top1", "top1_low", "top1_high", "top5", "loss", "calibration_error", "images")
    return {
        "model": opened.name,
        "kind": opened.kind,
        "data": chosen.name,
        "split": chosen.which,
        **{key: scores[key] for key in keys},
        "images_per_second": found.images_per_second,
        "seconds": found.seconds,
        "device": opened.device,
        "batch": batch,
        "dtype": dtype,
        "id": opened.arch and opened.arch.id,
    }


CLASS_COLUMNS = [
    Column("label", "worst classes", left=True),
    Column("share", "accuracy", _share),
    Column("images", "images", "{:,}".format, rank=1),
]
PAIR_COLUMNS = [
    Column("label", "most confused", left=True),
    Column("taken", "taken for", left=True),
    Column("images", "images", "{:,}".format),
]


def _details(opened: Opened, found: Evaluation, batch: int, dtype: str) -> None:
    import torch

    from sret_nas.device import fingerprint

    worst = found.scores.worst()
    if worst:
        say()
        keys = ("label", "share", "images")
        print_table([dict(zip(keys, row, strict=True)) for row in worst], CLASS_COLUMNS)
        say()
        keys = ("label", "taken", "images")
        pairs = found.scores.confused()
        print_table([dict(zip(keys, row, strict=True)) for row in pairs], PAIR_COLUMNS)
    runtime = "onnxruntime" if opened.module is None else dtype
    say(
        f"\nimages/s of the model alone, batch {batch}, {runtime}, "
        f"on {fingerprint(torch.device(opened.device))}"
    )


def _write(path: Path, found: Evaluation) -> None:
    """All predictions as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "prediction", "probability", "top5"])
    for one in found.predictions:
        writer.writerow([one.image, one.label, one.prediction, one.probability, "|".join(one.top5)])
    try:
        files.write(path, text.getvalue())
    except OSError as problem:
        raise UsageError(f"--csv: {path} cannot be written: {problem.strerror}") from problem
    note(f"predictions {path}")


# --- of images --------------------------------------------------------------------------------

GUESS_COLUMNS = [
    Column("image", "image", left=True),
    Column("rank", "rank"),
    Column("class", "class", left=True),
    Column("index", "number", rank=1),
    Column("probability", "probability", _share),
]


def _predict(opened: Opened, images: Sequence[str], form: Format) -> None:
    """Print the classes of images; what is broken is named once the others are printed."""
    from sret_nas.deploy.predicting import predict_all

    with status() as progress:
        progress(f"looking at {count(len(images), 'image')}")
        found, failures = predict_all(opened, images)
    rows = [
        {
            "image": path,
            "rank": rank,
            "class": guess.label,
            "index": guess.index,
            "probability": guess.probability,
        }
        for path, guesses in found.items()
        for rank, guess in enumerate(guesses, 1)
    ]
    document = {
        "schema": SCHEMA,
        "model": opened.name,
        "images": [
            {
                "image": path,
                "classes": [
                    {"class": one.label, "index": one.index, "probability": one.probability}
                    for one in guesses
                ],
            }
            for path, guesses in found.items()
        ],
    }
    if rows or form is not Format.table:
        emit(rows, GUESS_COLUMNS, form, document)
    for failure in failures:
        error(str(failure), failure.hint)
    if failures:
        raise typer.Exit(max(failure.exit_code for failure in failures))
