"""Models as files: folders that timm and the hub load, and single checkpoints."""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from timm.data import resolve_model_data_config
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.model.checkpoint import load_into, read
from sret_nas.model.sret import GENERAL, SReT
from sret_nas.model.timm_models import create_model, default_cfgs

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Files of weights in a folder, in timm's order; ``save`` writes the first."""

BROKEN = (RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What timm raises over a configuration that it cannot follow."""


def save(model: nn.Module, path: str | Path, **config: Any) -> Path:
    """Write a model as a folder that ``load``, timm (``local-dir:``) and the hub read.

    It holds ``model.safetensors``, ``config.json`` (as timm's ``save_for_hf`` writes it),
    ``architecture.yaml`` and ``preprocessing.json`` (size, mean, deviation and crop of the
    images). Files of these names are replaced, each whole or not at all; others stay.

    Args:
        model: As ``create_model`` or timm builds it; wrapped by DDP or ``torch.compile``, too.
        path: The folder; made where there is none.
        config: Further entries of ``config.json``, e.g. ``label_names`` and
            ``pretrained_cfg={"mean": …, "std": …}``.

    Returns:
        The folder.

    Raises:
        UsageError: not such a model, its weights are on ``meta``, or there can be no folder.
    """
    plain = _plain(model)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: not a folder to write to: {error.strerror}") from error
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as place:
        made = Path(place)
        save_checkpoint(plain, made / WEIGHTS[0])
        cfg = {**config.pop("pretrained_cfg", {}), "architecture": GENERAL}
        save_config_for_hf(
            plain,
            made / "config.json",
            model_config={**config, "pretrained_cfg": cfg},
            model_args={"architecture": plain.arch.to_dict()},
        )
        plain.arch.save(made / "architecture.yaml")
        written = json.loads((made / "config.json").read_text(encoding="utf-8"))
        images = resolve_model_data_config(plain, pretrained_cfg=written["pretrained_cfg"])
        (made / "preprocessing.json").write_text(json.dumps(images, indent=2) + "\n", "utf-8")
        for file in made.iterdir():
            file.replace(folder / file.name)
    return folder


def load(path: str | Path, **options: Any) -> SReT:
    """A model with its weights, from a folder that ``save`` or timm wrote, or from a checkpoint.

    Args:
        path: The folder or the file.
        options: As for ``create_model``: with other ``num_classes``, ``in_chans`` or
            ``img_size`` the weights are fitted, and a head of other classes is left fresh.

    Raises:
        ConfigError: not such a folder or file, or its weights do not match.
    """
    folder = Path(path)
    if folder.is_file():
        return load_checkpoint(folder, **options)
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"{folder}: neither a model folder (it has no config.json) nor a checkpoint",
            "sret_nas.save writes model folders",
        )
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(written["architecture"], str):
            raise TypeError("'architecture' is no name")
        model = timm.create_model(f"local-dir:{folder}", **options)
    except SretNasError as error:
        raise ConfigError(f"{config}: {'; '.join(str(error).splitlines())}", error.hint) from error
    except BROKEN as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{config}: does not describe a model: {text}") from error
    if not isinstance(model, SReT):
        raise ConfigError(f"{folder}: holds a {type(model).__name__}; allowed: an SReT model")
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ConfigError(f"{folder}: no weights in it; allowed: {', '.join(WEIGHTS)}")
    model.load_pretrained(weights)
    return model


def class_names(model: nn.Module, where: str) -> list[str] | None:
    """Names of a model's classes in the order of its logits, where it says them.

    Args:
        model: As timm or ``load`` makes it.
        where: What it is called, for the message.

    Raises:
        ConfigError: what it says are no names.
    """
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if names is None:
        return None
    if isinstance(names, Mapping):  # timm's form for gaps; without one it is a list
        numbers = {str(key): name for key, name in names.items()}
        names = [numbers[str(at)] for at in range(len(numbers)) if str(at) in numbers]
    if not isinstance(names, list | tuple) or not all(isinstance(one, str | int) for one in names):
        raise ConfigError(
            f"{where}: label_names: given {str(names)[:80]}; allowed: a list of names"
        )
    return list(map(str, names))


def load_any(path: str | Path) -> nn.Module:
    """A model with its weights from a folder of ours, or of any other model that timm has.

    Args:
        path: The folder, as ``save`` or timm's ``save_for_hf`` writes it.

    Raises:
        ConfigError: not such a folder, or broken.
    """
    name = None
    with suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
        name = json.loads((Path(path) / "config.json").read_text("utf-8"))["architecture"]
    others = isinstance(name, str) and name not in default_cfgs and timm.is_model(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on odd but readable files
        try:
            if others:
                model: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True)
                return model
            return load(path)  # and its words for what is no folder of a model
        except (*BROKEN, pickle.UnpicklingError, safetensors.SafetensorError) as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{path}: cannot be loaded: {text}") from error


def save_checkpoint(model: SReT, path: str | Path) -> None:
    """Write a model as safetensors, its architecture in the header.

    Weights shared by several loops are one tensor in our modules, so each is
    stored once.
    """
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_weights(state, path, {"architecture": model.arch.to_json()})


def write_weights(state: dict[str, Tensor], path: str | Path, header: dict[str, str]) -> None:
    """Write tensors as safetensors, for the same readers as any other new file.

    The library makes its files for their owner alone; a model folder is served by others.

    Args:
        state: By name; contiguous.
        path: Replaced where it is there.
        header: The file's metadata.
    """
    Path(path).unlink(missing_ok=True)
    Path(path).touch()
    mode = Path(path).stat().st_mode & 0o777  # as this process makes files
    safetensors.torch.save_file(state, path, header)
    Path(path).chmod(mode)


def load_checkpoint(
    path: str | Path,
    arch: Architecture | Mapping[str, Any] | str | Path | None = None,
    *,
    use_ema: bool = True,
    **options: Any,
) -> SReT:
    """A model from a checkpoint, ours or official, as usual trainers write it.

    Weights may lie under a key (``state_dict``, ``model``, …) and behind the prefixes of DDP,
    ``torch.compile``, FSDP or a LightningModule. For another image size positions are
    resampled, for other input channels the first convolution is adapted as timm does, and
    a head of other classes is left fresh, which is logged.

    Args:
        path: A ``.safetensors`` file or one of ``torch.save``; nothing in it is executed.
        arch: The architecture, where the file does not say it.
        use_ema: Where there are several sets of weights, take their moving average.
        options: Keywords of ``create_model``.

    Raises:
        ConfigError: not a checkpoint, or it does not match the architecture.
        UsageError: ``arch`` is needed.
    """
    path = Path(path)
    checkpoint, stored = read(path)
    if arch is None and stored is None:
        raise UsageError(f"{path}: does not say its architecture", "pass arch=…, e.g. 'sret_t'")
    model = create_model(stored if arch is None else arch, **options)  # type: ignore[arg-type]
    load_into(model, model.arch, checkpoint, str(path), use_ema)
    return model


def _plain(model: nn.Module) -> SReT:
    """The model inside DDP and ``torch.compile``."""
    while not isinstance(model, SReT):
        inner = getattr(model, "module", getattr(model, "_orig_mod", None))
        if not isinstance(inner, nn.Module):
            raise UsageError(f"given a {type(model).__name__}; allowed: a model of create_model")
        model = inner
    if not hasattr(model, "pretrained_cfg"):
        raise UsageError("given a bare SReT; allowed: a model of create_model or timm")
    if any(value.is_meta for value in model.state_dict().values()):
        raise UsageError("the model's weights are on meta: there is nothing to save")
    return model
