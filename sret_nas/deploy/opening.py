"""A model ready to be asked, whatever it is stored as: nothing in it is executed.

Requires torch and timm; onnxruntime for ONNX files.

Shapes: B batch, C channels, S side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.data import Split, Views
from sret_nas.deploy.images import preprocessing_of
from sret_nas.deploy.loading import FOLDER, WHAT, Names, from_checkpoint, from_folder, from_timm
from sret_nas.deploy.onnx_file import OnnxFile
from sret_nas.device import choose, exact_fp32, torch_dtype
from sret_nas.errors import ConfigError, UsageError
from sret_nas.model import SReT

Kind = Literal["folder", "onnx", "checkpoint", "timm"]


@dataclass(frozen=True)
class Opened:
    """A classifier ready to be asked.

    Attributes:
        name: What it is called: a folder's or a file's name, or timm's.
        kind: What it is stored as.
        preprocessing: As timm's ``resolve_model_data_config``: ``input_size``, ``mean``, ``std``,
            ``interpolation``, ``crop_pct``, ``crop_mode``.
        num_classes: Logits of an image, K.
        device: ``cpu`` or ``cuda:N``.
        run: From normalised images (B, C, S, S) to logits (B, K).
        classes: Names of the classes in the order of the logits, (K,), where it says them.
        descriptions: The same in words, where there are some beside the names.
        arch: The architecture of an SReT model.
        module: The model; ``None`` for ONNX.
        notes: What a user should know.
    """

    name: str
    kind: Kind
    preprocessing: dict[str, Any]
    num_classes: int
    device: str
    run: Callable[[Tensor], Tensor] = field(repr=False)
    classes: tuple[str, ...] | None = None
    descriptions: tuple[str, ...] | None = None
    arch: Architecture | None = None
    module: nn.Module | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def in_chans(self) -> int:
        """Channels of its images, C: 1 grey, 3 RGB."""
        return int(self.preprocessing["input_size"][0])

    @property
    def side(self) -> int:
        """Side of its images in px, S."""
        return int(self.preprocessing["input_size"][-1])

    def __call__(self, x_BCSS: Tensor) -> Tensor:
        """Logits (B, K), float32, on the device of the images.

        Args:
            x_BCSS: Images, as ``eval_views`` normalises them.
        """
        return self.run(x_BCSS).float().to(x_BCSS.device)

    def label(self, index: int) -> str:
        """What to call a class: its description, its name, or ``class 7``."""
        for names in (self.descriptions, self.classes):
            if names is not None:
                return names[index]
        return f"class {index}"


def open_model(
    source: str | Path,
    *,
    arch: Architecture | Mapping[str, Any] | str | Path | None = None,
    device: str = "auto",
    classes: int | None = None,
    dtype: str = "fp32",
    threads: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Opened:
    """Open a model: a folder, an ``.onnx`` file, a checkpoint, or a timm model by name.

    Args:
        source: A folder of ours or of timm's, a file, ``hf-hub:USER/NAME`` or timm's name.
        arch: The architecture of a checkpoint that does not say it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        classes: Refuse a model of another number of classes.
        dtype: ``fp32``, ``bf16`` or ``fp16`` (autocast); an ONNX file has its own.
        threads: Threads of onnxruntime on the CPU.
        preprocessing: What to do otherwise than the model says: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``, ``crop_mode``.

    Raises:
        UsageError: no such model, no architecture, or another number of classes.
        ConfigError: it is broken.
        SretNasError: its weights cannot be fetched.
    """
    name = str(source)
    path = Path(name.removeprefix(FOLDER))
    where = choose(device).name
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise UsageError(f"MODEL: {why}; allowed: {WHAT}") from error
    if arch is not None and (is_folder or not is_file or path.suffix == ".onnx"):
        raise UsageError(f"{name}: says its architecture itself; allowed: --arch with a checkpoint")
    if is_file and path.suffix == ".onnx":
        found = _onnx(path, where, dtype, threads, preprocessing)
    else:
        if is_folder:
            kind: Kind = "folder"
            model, names = from_folder(path)
        elif is_file:
            kind = "checkpoint"
            model, names = from_checkpoint(path, arch)
        else:
            kind = "timm"
            model, names = from_timm(name)
        found = _module(model, names, path.name or name, kind, where, dtype, preprocessing)
    if classes is not None and classes != found.num_classes:
        raise UsageError(
            f"{name}: {found.num_classes:,} classes, the data {classes:,}; allowed: equally many",
            f"train a head for these data: sret-nas train … --init {name} --data …",
        )
    return found


def eval_views(opened: Opened, split: Split) -> Views:
    """Images of a split as the model wants them: by timm's own transform for evaluation.

    Args:
        opened: The model.
        split: As ``load_data`` makes them; whole images are read, whatever its own side.
    """
    return Views(split, Prepared(opened.preprocessing))


class Prepared:
    """From a whole picture to a normalised image (C, S, S), as timm does it.

    Args:
        preprocessing: As timm's ``resolve_model_data_config``.
    """

    def __init__(self, preprocessing: Mapping[str, Any]) -> None:
        self.mode = "L" if preprocessing["input_size"][0] == 1 else "RGB"
        self.transform: Callable[[Image.Image], Tensor] = create_transform(**preprocessing)

    def __call__(self, picture: Image.Image) -> Tensor:
        """The image of a picture: grey becomes colour and colour grey where the model wants it."""
        return self.transform(picture.convert(self.mode))


def _module(
    model: nn.Module,
    names: Names,
    name: str,
    kind: Kind,
    device: str,
    dtype: str,
    changed: Mapping[str, Any] | None,
) -> Opened:
    where = torch.device(device)
    kept = torch_dtype(dtype, where)
    model = model.to(where).eval()

    def run(x_BCSS: Tensor) -> Tensor:
        half = torch.autocast(where.type, kept) if kept != torch.float32 else nullcontext()
        with torch.inference_mode(), exact_fp32(), half:
            logits_BK: Tensor = model(x_BCSS.to(where, non_blocking=True))
        return logits_BK

    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    images, notes = preprocessing_of(cfg, changed, kind != "checkpoint" or any(names))
    count = int(getattr(model, "num_classes", 0))
    if count < 1:
        raise UsageError(f"{name}: has no head: it gives features and no classes")
    classes, described = (tuple(n) if n and len(n) == count else None for n in names)
    arch = model.arch if isinstance(model, SReT) else None
    return Opened(
        name, kind, images, count, device, run, classes, described, arch, model, tuple(notes)
    )


def _its_own(design: object) -> Architecture:
    """The architecture that a file says; a path in it is not followed."""
    if not isinstance(design, dict):
        raise ConfigError(f"architecture: given a {type(design).__name__}; allowed: a mapping")
    return Architecture.load(design)


def _onnx(
    path: Path, device: str, dtype: str, threads: int | None, changed: Mapping[str, Any] | None
) -> Opened:
    if dtype != "fp32":
        raise UsageError(
            f"dtype: given {dtype!r}; an ONNX file has its own",
            "sret-nas export --fp16 writes one of half precision",
        )
    file = OnnxFile(path, device, threads)
    said = {key: value for key, value in file.about.items() if value is not None}
    size = (file.in_chans, file.side, file.side)
    try:
        images, notes = preprocessing_of({**said, "input_size": size}, changed, "mean" in said)
        arch = None
        if "architecture" in said:
            arch = _its_own(said["architecture"])
        classes = said.get("classes")
        if classes is not None and not (
            isinstance(classes, list) and len(classes) == file.num_classes
        ):
            raise ConfigError(f"classes: allowed: a list of {file.num_classes:,} names")
    except ConfigError as error:
        text = "; ".join(str(error).splitlines())
        raise ConfigError(f"{path}: what it says of itself: {text}") from error
    return Opened(
        name=path.name,
        kind="onnx",
        preprocessing=images,
        num_classes=file.num_classes,
        device="cpu" if file.provider.startswith("CPU") else device,
        run=file,
        classes=tuple(map(str, classes)) if classes else None,
        arch=arch,
        notes=(*file.notes, *notes),
    )
