"""The model card: ``README.md`` of a model folder, as the Hugging Face hub reads it.

It is a function of the folder's other files, so it can be written again at any time. No torch
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

import sret_nas
from sret_nas import files
from sret_nas.deploy.about import About
from sret_nas.deploy.front_matter import data_name, front_matter, worths
from sret_nas.deploy.metrics_file import Timed
from sret_nas.drawing import describe, draw
from sret_nas.units import format_count, format_quantity

CARD, DRAWING = "README.md", "architecture.svg"
MOST_CLASSES = 20
"""Classes that are listed by name."""
WORST = 3
"""Classes of lowest accuracy that are named."""


def write_card(folder: str | Path) -> Path:
    """Write ``README.md`` of a model folder, and the drawing of its architecture beside it.

    Args:
        folder: The model folder; its other files are what the card says.

    Returns:
        The card.

    Raises:
        ConfigError: not a model folder.
        OSError: it cannot be written.
    """
    place = Path(folder)
    about = About.load(place)
    if about.arch is not None:
        files.write(place / DRAWING, draw(about.arch, about.name))
    files.write(place / CARD, card(about))
    return place / CARD


def card(about: About) -> str:
    """The card as text: YAML between dashes, then Markdown.

    Args:
        about: What the folder says.
    """
    parts = [
        f"---\n{yaml.safe_dump(front_matter(about), sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(about.name)}",
        _summary(about),
        *_section("What it is worth", _worth(about)),
        *_section("What it costs", _cost(about)),
        *_section("Data", _data(about)),
        *_section("Training", _training(about)),
        *_section("Architecture", _architecture(about)),
        *_section("How to use it", _usage(about)),
        *_section("Limits", _limits(about)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    text = "\n".join(lines)
    if text:
        yield f"## {title}\n\n{text}"


def _plain(text: object) -> str:
    """Text of others inside Markdown: names of classes and files may hold anything."""
    line = " ".join(str(text).split())
    line = "".join(sign for sign in line if sign.isprintable())
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", line).replace("<", "&lt;")


def _summary(about: About) -> str:
    chans, side = _size(about)
    kind = "grey" if chans == 1 else "RGB"
    what = (
        "a Sliced Recursive Transformer ([SReT](https://arxiv.org/abs/2111.05297))"
        if about.arch
        else f"timm's `{about.architecture}`"
    )
    return (
        f"An image classifier of {about.num_classes:,} classes for {kind} images of "
        f"{side} × {side} px: {what}. Made by sret_nas {sret_nas.__version__}; it loads with timm."
    )


def _size(about: About) -> tuple[int, int]:
    if about.arch is not None:
        return about.arch.in_chans, about.arch.image_size
    size = about.preprocessing.get("input_size")
    chans, *_, side = size if isinstance(size, list) and len(size) == 3 else (3, 224, 224)
    return int(chans), int(side)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'|'.join([' --- '] + [' ---: '] * (len(heading) - 1))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _worth(about: About) -> Iterator[str]:
    found = worths(about)
    if not found:
        return
    yield from _table(
        ("images", "number", "top-1", "95% interval", "top-5", "loss", "calibration error"),
        [
            (
                split,
                f"{worth.images:,}",
                f"{worth.top1:.2%}",
                f"{worth.top1_low:.2%} to {worth.top1_high:.2%}",
                "–" if worth.top5 is None else f"{worth.top5:.2%}",
                f"{worth.loss:.4f}",
                f"{worth.calibration_error:.2%}",
            )
            for split, worth in found
        ],
    )
    yield ""
    yield (
        "Validation chose the epoch, so its numbers flatter; test images were read once, after "
        "all was chosen."
        if found[-1][0] == "test"
        else "There were no test images, and validation chose the epoch: the numbers flatter."
    )
    yield "Intervals are Wilson's; calibration error as in arXiv 1706.04599, 15 bins."
    split, worth = found[-1]
    shares = [(share, name) for name, share in worth.per_class.items() if share is not None]
    if shares:
        worst = ", ".join(f"{_plain(name)} {share:.1%}" for share, name in sorted(shares)[:WORST])
        yield f"Least accurate classes ({split}): {worst}."


def _cost(about: About) -> Iterator[str]:
    found = about.metrics and about.metrics.cost
    if found:
        yield f"- {format_count(found.params)} parameters ({found.params:,})"
        if found.macs is not None:
            yield f"- {format_count(found.macs)} multiply-adds an image ({found.macs:,})"
        if found.peak_bytes is not None:
            memory = format_quantity("peak_bytes", found.peak_bytes)
            yield f"- {memory} peak memory for one image in fp32"
    timed = about.metrics.latency if about.metrics else ()
    if timed:
        yield ""
        yield from _table(
            ("measured on", "runtime", "precision", "batch", "median ms", "p95 ms", "images/s"),
            [
                (
                    _plain(one.device),
                    _runtime(one),
                    one.dtype,
                    str(one.batch),
                    f"{one.median_ms:.3g}",
                    f"{one.p95_ms:.3g}",
                    f"{one.batch * 1000 / one.median_ms:,.0f}" if one.median_ms else "–",
                )
                for one in timed
            ],
        )


def _runtime(one: Timed) -> str:
    return _plain(", ".join(filter(None, (one.runtime, one.mode, one.file))))


def _data(about: About) -> Iterator[str]:
    data = about.data
    if data:
        name = data_name(about)
        print_ = f", fingerprint `{data['fingerprint']}`" if data.get("fingerprint") else ""
        yield f"- {_plain(name)}{print_}"
        test = about.metrics.test if about.metrics else None
        counts = [
            f"{int(data[key]):,} for {what}"
            for key, what in (("train", "training"), ("val", "validation"))
            if isinstance(data.get(key), int)
        ]
        counts += [f"{test.images:,} for the test"] if test else []
        if counts:
            yield f"- images: {', '.join(counts)}"
    images = about.preprocessing
    stated = [f"{key} {_numbers(images[key])}" for key in ("mean", "std") if images.get(key)]
    stated += [
        f"{key.replace('_', ' ')} {_plain(images[key])}"
        for key in ("interpolation", "crop_pct", "crop_mode")
        if images.get(key)
    ]
    if stated:
        yield f"- preprocessing: {', '.join(stated)}"
    if about.classes:
        shown = ", ".join(_plain(name) for name in about.classes[:MOST_CLASSES])
        more = len(about.classes) - MOST_CLASSES
        yield f"- classes: {shown}{f', … ({more:,} more)' if more > 0 else ''}"
    for said in data.get("notes") or ():
        if "--data" not in str(said):  # advice to whoever typed the command
            yield f"- {_plain(said)}"


def _numbers(values: object) -> str:
    if isinstance(values, list | tuple):
        return ", ".join(f"{value:.4g}" for value in values)
    return _plain(values)


def _training(about: About) -> Iterator[str]:
    training, metrics = about.training, about.metrics
    if metrics and metrics.epochs:
        yield (
            f"- {metrics.epochs:,} epochs"
            + (f", the weights of epoch {metrics.epoch:,}" if metrics.epoch else "")
            + (f", {metrics.seconds:,.0f} s" if metrics.seconds else "")
            + (f" on {_plain(metrics.device)}" if metrics.device else "")
        )
    if training.get("teachers"):
        names = ", ".join(_plain(Path(str(one)).name) for one in training["teachers"])
        crops = training.get("soft_labels")
        how = f", its answers to {crops:,} crops of each image stored" if crops else ""
        yield f"- distilled from {names}{how}"
    if training.get("init"):
        yield f"- begun with the weights of {_plain(Path(str(training['init'])).name)}"
    if "seed" in training:
        yield f"- seed {training['seed']}"
    versions = training.get("versions")
    if isinstance(versions, Mapping):
        told = ", ".join(f"{_plain(name)} {_plain(one)}" for name, one in versions.items())
        yield f"- versions: {told}"
    recipe = training.get("recipe")
    if isinstance(recipe, Mapping):
        yield "- recipe:\n"
        yield "```yaml"
        yield yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=False).rstrip()
        yield "```"


def _architecture(about: About) -> Iterator[str]:
    if about.arch is None:
        yield f"timm's `{about.architecture}`."
        return
    yield f"![drawing of the architecture]({DRAWING})\n"
    yield f"`{about.arch.id}`, in `architecture.yaml`. {describe(about.arch)}"


def _usage(about: About) -> Iterator[str]:
    first = "import sret_nas  # timm knows the architecture then\n" if about.arch else ""
    name = about.name
    yield f"""```python
import timm
{first}
model = timm.create_model("local-dir:{name}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
```
"""
    if about.arch:
        yield f"""Or with other classes, channels or sizes, to be trained further:

```python
model = sret_nas.load("{name}", num_classes=7, img_size=96)
```
"""
    yield f"""```console
sret-nas evaluate {name} --data ./images
sret-nas evaluate {name} --predict photo.jpg
sret-nas export {name} --to onnx --int8
```"""


def _limits(about: About) -> Iterator[str]:
    chans, side = _size(about)
    yield (
        f"- It knows these {about.num_classes:,} classes and gives every image one of them, "
        "whatever it shows."
    )
    yield (
        "- Its accuracy was measured on images like those that it was trained on; on others it "
        "may be lower."
        if worths(about)
        else "- Its accuracy was not measured."
    )
    yield f"- Images are brought to {side} × {side} px" + (
        ", without colour." if chans == 1 else "."
    )
    if not (about.metrics and about.metrics.latency):
        yield "- Its latency was not measured; `sret-nas profile` does that."
    yield (
        "- The licence above is that of the architecture's code; the images, and the weights "
        "that it began with or learnt from, may have terms of their own."
    )
