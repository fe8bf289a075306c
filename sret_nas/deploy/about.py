"""What a model folder says of its model, read from its files; nothing is executed.

No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sret_nas import files
from sret_nas.arch import Architecture
from sret_nas.deploy.metrics_file import Metrics
from sret_nas.errors import ConfigError

CONFIG, ARCHITECTURE, TRAINING = "config.json", "architecture.yaml", "training.yaml"


@dataclass(frozen=True)
class About:
    """A model folder in words and numbers.

    Attributes:
        name: The folder's name.
        architecture: Name in timm's registry: ``sret`` or another.
        arch: The architecture of an SReT model.
        classes: Names of the classes; empty where they are not said.
        num_classes: How many there are.
        preprocessing: timm's ``pretrained_cfg``: size, mean, deviation, crop of the images.
        metrics: What it is worth and costs, where it was measured.
        training: What it was trained by, as ``training.yaml`` has it; empty where unknown.
    """

    name: str
    architecture: str
    arch: Architecture | None
    classes: tuple[str, ...]
    num_classes: int
    preprocessing: Mapping[str, Any]
    metrics: Metrics | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Mapping[str, Any]:
        """What it was trained on: name, fingerprint, numbers of images, notes."""
        found = self.training.get("data")
        return found if isinstance(found, Mapping) else {}

    @classmethod
    def load(cls, folder: str | Path) -> About:
        """Read a folder.

        Args:
            folder: As ``sret_nas.save`` or ``sret-nas train`` writes it.

        Raises:
            ConfigError: it is none, or a file in it is broken.
        """
        place = Path(folder)
        try:
            config = json.loads((place / CONFIG).read_text("utf-8"))
            name = config["architecture"]
            cfg = config.get("pretrained_cfg") or {}
            count = int(config.get("num_classes") or cfg.get("num_classes") or 0)
            labels = config.get("label_names") or cfg.get("label_names") or ()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{place}: not a model folder: its {CONFIG}: {type(error).__name__}",
                "sret-nas train and sret_nas.save write model folders",
            ) from error
        arch = None
        if (place / ARCHITECTURE).is_file():
            arch = Architecture.load(place / ARCHITECTURE)
        return cls(
            name=place.resolve().name,
            architecture=str(name),
            arch=arch,
            classes=tuple(map(str, labels)) if isinstance(labels, list) else (),
            num_classes=count,
            preprocessing=cfg,
            metrics=Metrics.load(place),
            training=training_of(place),
        )


def training_of(folder: str | Path) -> Mapping[str, Any]:
    """What a folder's model was trained by; empty where it does not say.

    Raises:
        ConfigError: its file is broken.
    """
    path = Path(folder) / TRAINING
    if not path.is_file():
        return {}
    content, _ = files.read(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: given a {type(content).__name__}; allowed: a mapping")
    return content


def own_data(model: str | Path) -> str | None:
    """The data that a folder's model was trained on, as they were named; ``None`` where unknown.

    A folder of images that is not there, seen from here, is unknown too.

    Args:
        model: A model folder, or whatever else a model is stored as.
    """
    name = (training_of(model).get("data") or {}).get("name") if Path(model).is_dir() else None
    if not isinstance(name, str) or (Path(name).name != name and not Path(name).exists()):
        return None
    return name
