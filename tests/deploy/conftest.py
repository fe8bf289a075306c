"""Small models as folders, files and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

import sret_nas
from sret_nas import Architecture
from sret_nas.data import load_data
from sret_nas.data.embedded import CLASSES
from sret_nas.model import SReT, create_model

SMALL = Architecture.load(
    {
        "image_size": 28,
        "stem_stride": 4,
        "in_chans": 1,
        "num_classes": 10,
        "stages": [{"heads": 2, "head_dim": 4, "blocks": 1, "recursions": 2, "groups": [7, 1]}],
    }
)
IMAGES = {"mean": (0.3,), "std": (0.4,), "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.fixture(scope="session")
def model() -> SReT:
    """A model that knows something of the demonstration data: its head is fitted to them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = create_model(SMALL).eval()
    train = load_data("demo", image_size=28, subset=500).train
    with torch.no_grad():
        images, labels = next(iter(train.batches(500, torch.device("cpu"))))
        features = made.forward_head(
            made.forward_features((images.float() / 255 - 0.3) / 0.4), pre_logits=True
        )
        rows = torch.cat([features, torch.ones(500, 1)], 1).double()
        wanted = torch.nn.functional.one_hot(labels, 10).double() * 12
        ridge = 0.1 * torch.eye(rows.shape[1])  # so that rounding stays rounding
        found = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted).float()
        made.head.weight.copy_(found[:-1].T)
        made.head.bias.copy_(found[-1])
    return made


@pytest.fixture(scope="session")
def folder(model: SReT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder."""
    return sret_nas.save(
        model,
        tmp_path_factory.mktemp("models") / "small",
        label_names=list(CLASSES),
        pretrained_cfg=IMAGES,
    )


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of timm as a folder that timm wrote, untrained."""
    place = tmp_path_factory.mktemp("models") / "resnet"
    made = timm.create_model("test_resnet", num_classes=10)
    save_for_hf(made, place, model_config={"label_names": list(CLASSES)}, safe_serialization=True)
    return place
