"""One teacher: from how it is named to a model with its weights, or why it cannot teach here.

A model is opened by three sources (a folder, a file, the hub), each of which says the side in px
that its weights were trained for: 0 where it is another one, and nobody knows which.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from timm.models import is_model, resolve_model_input_args
from timm.models import load_state_dict as read_weights
from torch import Tensor, nn

from sret_nas import zoo
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.files import nearest
from sret_nas.model import SReT
from sret_nas.model.checkpoint import read
from sret_nas.model.folder import BROKEN, class_names, load, load_checkpoint
from sret_nas.model.sret import GENERAL
from sret_nas.model.wrapping import unwrap
from sret_nas.training.teacher_fit import (
    Fit,
    next_step,
    one_line,
    refuse_classes,
    refuse_names,
    resized,
    wrong_size,
)

FORMS = "a timm model, NAME=FILE, or a model folder"
HUB = "hf-hub:"
FOLDER = "local-dir:"
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
"""Suffixes of files of weights."""


@dataclass(frozen=True)
class Member:
    """One model that teaches.

    Attributes:
        name: As the user named it.
        module: The model, its logits (B, num_classes).
        num_classes: How many classes it knows.
        mean: Mean per channel by which its images are normalised, in 0 to 1.
        std: Their deviation, on the same scale.
        design: What it computes, apart from weights, as text.
        notes: What a user should know.
    """

    name: str
    module: nn.Module
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    design: str
    notes: tuple[str, ...] = ()


def open_member(name: str, fit: Fit) -> Member:
    """Open one teacher, its weights loaded, on the CPU.

    Args:
        name: A timm model, ``NAME=FILE``, or a model folder.
        fit: What it has to fit.

    Raises:
        UsageError: no such model, it does not fit, or it is named otherwise.
        ConfigError: a folder or a file of weights that cannot be read.
        SretNasError: the hub does not answer.
    """
    folder = Path(name.removeprefix(FOLDER))
    if folder.is_dir():
        module, made_for = _from_folder(folder, name, fit)
    elif "=" in name:
        module, made_for = _from_file(name, fit)
    else:
        _refuse_other_forms(name)
        module, made_for = _built(name, name, fit, {})
    found = resolve_model_data_config(module)
    refuse_classes(name, int(getattr(module, "num_classes", -1)), fit)
    refuse_names(name, class_names(module, f"teacher {name}"), fit)
    chans = int(getattr(module, "in_chans", found["input_size"][0]))
    if chans != fit.in_chans and (fit.in_chans, chans) != (1, 3):
        raise UsageError(
            f"teacher {name}: takes images of {chans} channel(s), the data have {fit.in_chans}; "
            "allowed: as many, or RGB where the data are grey",
            next_step(name, fit),
        )
    mean, std = (_each(found[key], chans) for key in ("mean", "std"))
    notes = (resized(name, module, made_for, fit.side),) if made_for != fit.side else ()
    return Member(name, module, fit.num_classes, mean, std, _design(module), notes)


def _refuse_other_forms(name: str) -> None:
    """What is neither a folder nor ``NAME=FILE`` may be a timm model, or of the hub."""
    if name.startswith(HUB) or is_model(name.split(".", 1)[0]):
        return
    before, at, file = name.partition("@")
    if at and file:
        raise UsageError(f"teacher {name}: allowed: {before}={file}", f"a teacher is {FORMS}")
    if Path(name).is_file() or Path(name).suffix in WEIGHTS:
        raise UsageError(
            f"teacher {name}: a file of weights does not say of which model; allowed: NAME={name}",
            f"a teacher is {FORMS}",
        )
    if name.startswith(FOLDER) or "/" in name or name.startswith("."):
        raise UsageError(f"teacher {name}: no such folder", f"a teacher is {FORMS}")
    guess = nearest(name, timm.list_models())
    raise UsageError(
        f"teacher {name}: no such timm model" + (f"; did you mean '{guess}'?" if guess else ""),
        f"a teacher is {FORMS}",
    )


def _from_folder(folder: Path, name: str, fit: Fit) -> tuple[nn.Module, int]:
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(f"teacher {name}: not a model folder: it has no config.json")
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
        cfg = written.get("pretrained_cfg", written)
        known = int(written.get("num_classes", cfg.get("num_classes", fit.num_classes)))
        made_for = int((cfg.get("input_size") or (3, fit.side, fit.side))[-1])
        ours = written["architecture"] in (GENERAL, *zoo.PRESETS)
    except BROKEN as error:
        raise ConfigError(f"{config}: does not describe a model: {one_line(error)}") from error
    refuse_classes(name, known, fit)
    if ours:
        try:
            return load(folder, img_size=fit.side), made_for
        except SretNasError as error:
            if made_for == fit.side:
                raise
            raise wrong_size(name, made_for, fit, error) from error
    return _built(f"{FOLDER}{folder}", name, fit, {})


def _from_file(name: str, fit: Fit) -> tuple[nn.Module, int]:
    model, _, file = name.partition("=")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"teacher {name}: {file}: no such file")
    if (path.parent / "config.json").is_file():
        raise UsageError(
            f"teacher {name}: {file} is of a model folder, which knows how its images are "
            f"normalised; allowed: {path.parent}"
        )
    if model in zoo.PRESETS or not is_model(model.split(".", 1)[0]):
        state = unwrap(read(path)[0])
        refuse_classes(name, _rows(state, "head"), fit)
        first = state.get("stem.0.weight", state.get("patch_embed.conv1.weight"))
        chans = first.shape[1] if isinstance(first, Tensor) else 3
        try:
            made = load_checkpoint(
                path, model, num_classes=fit.num_classes, in_chans=chans, img_size=fit.side
            )
        except SretNasError as error:
            raise UsageError(f"teacher {name}: {one_line(error)}", error.hint) from error
        return made, 0 if _resampled(state, made) else fit.side
    try:
        weights = read_weights(str(path)) if path.suffix != ".npz" else {}
    except Exception as error:  # whatever a file that is no checkpoint makes of the readers
        raise ConfigError(f"teacher {name}: no weights to read: {one_line(error)}") from error
    cfg: dict[str, Any] = {"file": str(path), "num_classes": fit.num_classes}
    if weights:
        cfg["custom_load"] = False
    built, _ = _built(model, name, fit, cfg, weights)
    return built, 0 if _resampled(weights, built) else fit.side


def _built(
    source: str,
    name: str,
    fit: Fit,
    overlay: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, int]:
    """A model of timm's with its weights, made for the student's side where it has to be."""
    hub = not overlay and not source.startswith(FOLDER)
    try:
        with _asking_the_hub(name, hub):
            options = resolve_model_input_args(source, {"img_size": fit.side})
    except BROKEN as error:
        raise ConfigError(f"teacher {name}: {one_line(error)}") from error
    cfg = options["pretrained_cfg"]
    cfg.update(overlay)
    made_for = int((cfg.get("input_size") or (3, 224, 224))[-1])
    if weights and isinstance(cfg.get("classifier"), str):
        # Without a head they are of another model, which loading them says better.
        refuse_classes(name, _rows(weights, cfg["classifier"]) or fit.num_classes, fit)
    refuse_classes(name, int(cfg.get("num_classes", -1)), fit)
    if not any(cfg.get(key) for key in ("file", "hf_hub_id", "url", "state_dict")):
        raise UsageError(f"teacher {name}: no weights are hosted for it", f"allowed: {name}=FILE")
    try:
        with _asking_the_hub(name, hub):
            return timm.create_model(pretrained=True, **options), made_for
    except (*BROKEN, AssertionError) as error:
        if made_for != fit.side and "img_size" in options and not weights:
            raise wrong_size(name, made_for, fit, error) from error
        raise ConfigError(f"teacher {name}: its weights do not fit: {one_line(error)}") from error


@contextmanager
def _asking_the_hub(name: str, hub: bool = True) -> Iterator[None]:
    """Within, what the hub's client repeats is not shown, and its failure is one line."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        # Its clients raise what httpx, requests, urllib and sockets have, and errors of their own.
        if not hub or not _of_the_net(error):
            raise
        raise SretNasError(
            f"teacher {name}: its weights cannot be fetched from the hub: {one_line(error)}",
            "--teacher NAME=FILE takes weights from a file",
        ) from error
    finally:
        log.setLevel(level)


def _of_the_net(error: BaseException) -> bool:
    rooms = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(
        rooms & {"huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "urllib"}
    )


def _resampled(state: Mapping[str, Any], module: nn.Module) -> bool:
    stored, own = state.get("pos_embed"), getattr(module, "pos_embed", None)
    return isinstance(stored, Tensor) and isinstance(own, Tensor) and stored.shape != own.shape


def _rows(state: Mapping[str, Any], classifier: str) -> int:
    """How many classes a head has, by its weights; 0 where there is none."""
    found = state.get(f"{classifier}.bias", state.get(f"{classifier}.weight"))
    return int(found.shape[0]) if isinstance(found, Tensor) and found.ndim else 0


def _each(values: Sequence[float], chans: int) -> tuple[float, ...]:
    """One value a channel: where there are others, their mean, as timm adapts them."""
    if len(values) == chans:
        return tuple(map(float, values))
    return (float(sum(values) / len(values)),) * chans


def _design(module: nn.Module) -> str:
    """What a model computes, apart from its weights, as text."""
    if isinstance(module, SReT):
        return module.arch.to_json()
    cfg = getattr(module, "pretrained_cfg", {})
    arguments = {k: v for k, v in getattr(module, "_model_args", {}).items() if k != "num_classes"}
    return json.dumps([cfg.get("architecture"), arguments], default=str, sort_keys=True)
