"""One self-contained HTML page of a full training, finished or not; it loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.deploy.intervals import wilson
from sret_nas.deploy.job import JOB, Job
from sret_nas.deploy.metrics_file import Metrics, Worth
from sret_nas.deploy.summary import Epoch, read_summary
from sret_nas.drawing import draw
from sret_nas.errors import ConfigError
from sret_nas.report import commands
from sret_nas.report.curves import Line, curves
from sret_nas.report.known import published_name
from sret_nas.report.rendering import render

PAGE = "report.html"
MOST_CLASSES, MOST_PAIRS = 60, 12
"""Rows of the tables; the page says where the rest is."""
MOST_EPOCHS = 400
Show = Callable[[float], str]
CURVES: tuple[tuple[str, tuple[str, ...], Show, str], ...] = (
    (
        "Loss",
        ("train_loss", "val_loss"),
        "{:.3g}".format,
        "solid validation, dashed training (with all that the recipe does to images and labels, "
        "so not comparable in height)",
    ),
    ("Validation accuracy", ("val_accuracy",), "{:.1%}".format, "top-1"),
    (
        "Learning rate",
        ("lr",),
        lambda rate: f"{rate:.1e}".replace("e-0", "e-"),
        "of the last step of each epoch",
    ),
    (
        "Speed",
        ("images_per_second",),
        "{:,.0f}".format,
        "training images a second, validation left out",
    ),
)
"""Title, fields of an epoch (the last one solid), form of a value, legend."""
OFF = 0.05
"""Calibration error above which probabilities are not to be taken at their word."""


def is_training(path: Path) -> bool:
    """Whether a folder holds a training, and no run of a search.

    Args:
        path: The folder.
    """
    return (path / JOB).is_file() and not (path / "config.yaml").exists()


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a training, and return where it is.

    Args:
        folder: The model folder.
        out: The file; default ``report.html`` in the folder.

    Raises:
        ConfigError: no training is there, or a file of it is broken.
        OSError: it cannot be written.
    """
    path = out or folder / PAGE
    files.write(path, page(folder))
    return path


def page(folder: Path) -> str:
    """The page as text.

    Args:
        folder: The model folder.

    Raises:
        ConfigError: no training is there, or a file of it is broken.
    """
    job = Job.load(folder)
    if job is None:
        raise ConfigError(f"{folder}: no training is there", "sret-nas train writes model folders")
    return render("training.html.j2", _content(folder, job))


def _content(folder: Path, job: Job) -> dict[str, Any]:
    rows, metrics = read_summary(folder), Metrics.load(folder)
    if metrics is not None and metrics.validation is None:
        metrics = None  # a latency that was noted before there was a model
    arch = Architecture.load(job.architecture) if job.architecture else None
    name = folder.resolve().name
    worths = [("validation", metrics.validation), ("test", metrics.test)] if metrics else []
    known = [(split, worth) for split, worth in worths if worth]
    data = str(job.data.get("name", "images"))
    best = metrics.epoch if metrics and metrics.epoch else _best(rows)
    return {
        "title": name,
        "folder": str(folder),
        "job": job,
        "data": data,
        "notes": [str(note) for note in job.data.get("notes", []) if "--data" not in str(note)],
        "arch": arch,
        "published": arch and published_name(arch),
        "drawing": Markup(draw(arch, name, paper=False)) if arch else "",  # noqa: S704 (it escapes)
        "rows": rows,
        "shown": rows[-MOST_EPOCHS:],
        "best": best,
        "best_row": next((row for row in rows if row.epoch == best), None),
        "metrics": metrics,
        "worths": known,
        "judged": known[-1] if known else None,
        "curves": _curves(rows, best),
        "classes": _classes(known),
        "most_classes": MOST_CLASSES,
        "pairs": _pairs(known[-1][1]) if known else [],
        "off": OFF,
        "recipe": yaml.safe_dump(job.recipe.model_dump(mode="json"), sort_keys=False),
        "command": _command(folder, job),
        "use": "\n".join(commands.use(str(folder), data)),
        "predict": commands.line(["sret-nas", "evaluate", folder, "--predict", "photo.jpg"]),
        "python": _python(folder, arch),
        "seconds": metrics.seconds if metrics else sum(row.seconds for row in rows),
    }


def _best(rows: Sequence[Epoch]) -> int | None:
    """The epoch that validated best so far, as the training chooses it."""
    ranked = [(row.val_accuracy, -row.val_loss, -row.epoch) for row in rows]
    return -max(ranked)[-1] if ranked else None


def _curves(rows: Sequence[Epoch], best: int | None) -> list[dict[str, Any]]:
    """Each with a heading and what its lines are."""
    return [
        {"title": title, "legend": legend, "svg": _drawn(rows, best, title, names, show)}
        for title, names, show, legend in CURVES
        if rows
    ]


def _drawn(
    rows: Sequence[Epoch], best: int | None, title: str, names: Sequence[str], show: Show
) -> Markup:
    *others, main = [[getattr(row, name) for row in rows] for name in names]
    lines = [*(Line("training", values, "train") for values in others), Line(title, main)]
    label = f"{title} from {show(main[0])} to {show(main[-1])}"
    return Markup(curves(lines, "epoch", label, show=show, mark=best))  # noqa: S704 (it escapes)


@dataclass(frozen=True)
class Share:
    """Accuracy on the images of a class.

    Attributes:
        images: How many.
        value: Share that was right, 0 to 1.
        low: Lower end of its 95% Wilson interval.
        high: Upper end.
    """

    images: int
    value: float
    low: float
    high: float


def _shares(worth: Worth) -> dict[str, Share]:
    images, right = Counter[str](), Counter[str]()
    for label, taken, count in worth.confusion:
        images[label] += count
        right[label] += count * (label == taken)
    return {
        name: Share(count, right[name] / count, *wilson(right[name], count))
        for name, count in images.items()
        if count
    }


def _classes(
    worths: Sequence[tuple[str, Worth]],
) -> list[tuple[str, Share | None, list[Share | None]]]:
    """Every class with its accuracy on the last split and on those before it, the worst first."""
    found = [_shares(worth) for _, worth in worths]
    names = list(dict.fromkeys(name for _, worth in worths for name in worth.per_class))
    rows = [(name, found[-1].get(name), [one.get(name) for one in found[:-1]]) for name in names]
    return sorted(rows, key=lambda row: row[1].value if row[1] else 2.0)


def _pairs(worth: Worth) -> list[tuple[str, str, int, float]]:
    """The commonest mistakes: class, what it was taken for, images, share of the class."""
    images = {name: share.images for name, share in _shares(worth).items()}
    wrong = [one for one in worth.confusion if one[0] != one[1] and one[2]]
    wrong.sort(key=lambda one: (-one[2], one[0], one[1]))
    return [(label, taken, n, n / images[label]) for label, taken, n in wrong[:MOST_PAIRS]]


def _command(folder: Path, job: Job) -> str:
    """The command that asks for the same training, from the recipe as a file."""
    words: list[object] = ["sret-nas", "train", job.network, "--data", job.data.get("name", "demo")]
    words += ["--recipe", "recipe.yaml"]
    for teacher in job.teachers:
        words += ["--teacher", teacher]
    if job.soft_labels:
        words += ["--soft-labels", job.soft_labels]
    if job.init:
        words += ["--init", job.init]
    line = commands.line([*words, "--seed", job.seed, "--out", folder])
    if job.processes == 1:
        return line
    return f"torchrun --nproc-per-node {job.processes} --no-python {line}"


def _python(folder: Path, arch: Architecture | None) -> str:
    knows = "import sret_nas  # timm knows the architecture then\n" if arch else ""
    return (
        f"import timm\n{knows}"
        f"model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()\n"
        "config = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**config, is_training=False)"
    )
