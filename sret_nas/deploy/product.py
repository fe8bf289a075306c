"""A trained network as a model folder that ``sret_nas.load`` and timm read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from timm.models._hub import save_config_for_hf
from torch import nn

from sret_nas.data import DataSet
from sret_nas.model import SReT, save, write_weights


def save_model(model: nn.Module, folder: Path, data: DataSet, timm_name: str) -> None:
    """Write weights, configuration and preprocessing; of an SReT model the architecture too.

    The images were cut to their middle square and resized (bilinear), so that is what is
    written down.

    Args:
        model: As timm or ``create_model`` builds it.
        folder: Of the model.
        data: What it was trained on: names of classes, mean and deviation.
        timm_name: Name of timm's model, where it is one.
    """
    images: dict[str, Any] = {
        "mean": list(data.mean),
        "std": list(data.std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    size = [data.in_chans, data.image_size, data.image_size]
    names = list(data.classes)
    if isinstance(model, SReT):
        save(model, folder, label_names=names, pretrained_cfg=images)
        return
    cfg = {**images, "input_size": size, "num_classes": data.num_classes}
    arguments: dict[str, Any] = {"in_chans": data.in_chans}
    if model.pretrained_cfg.get("fixed_input_size"):  # type: ignore[union-attr, operator]
        arguments["img_size"] = data.image_size
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as place:
        made = Path(place)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        write_weights(state, made / "model.safetensors", {"format": "pt"})
        save_config_for_hf(
            model,
            made / "config.json",
            model_config={
                "label_names": names,
                "num_classes": data.num_classes,
                "pretrained_cfg": {**cfg, "architecture": timm_name.split(".")[0]},
            },
            model_args=arguments,
        )
        written = json.loads((made / "config.json").read_text(encoding="utf-8"))
        shown = resolve_model_data_config(model, pretrained_cfg=written["pretrained_cfg"])
        (made / "preprocessing.json").write_text(json.dumps(shown, indent=2) + "\n", "utf-8")
        for file in made.iterdir():
            file.replace(folder / file.name)
