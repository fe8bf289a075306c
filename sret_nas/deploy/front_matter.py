"""What the Hugging Face hub indexes of a model: the YAML at the head of its card. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sret_nas.deploy.about import About
from sret_nas.deploy.metrics_file import Worth

ON_THE_HUB = {
    "demo": "zalando-datasets/fashion_mnist",
    "fashionmnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
"""Names of data sets on the hub, by ours."""


def data_name(about: About) -> str:
    """The data's name; of a folder the last part alone, for paths are nobody's business.

    Args:
        about: What the folder says.
    """
    name = str(about.data.get("name", ""))
    return name if re.match(r"(hfds|wds|tfds)/", name) else Path(name).name


def front_matter(about: About) -> dict[str, Any]:
    """What the hub indexes, as plain data for YAML.

    Args:
        about: What the folder says.
    """
    name = data_name(about)
    hub = ON_THE_HUB.get(name.lower(), name.removeprefix("hfds/") if "hfds/" in name else None)
    tags = ["image-classification", "timm", "sret_nas"]
    front: dict[str, Any] = {
        "license": str(about.preprocessing.get("license") or "other"),
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": tags + (["recursive-transformer"] if about.arch else []),
    }
    if hub:
        front["datasets"] = [hub]
    front["metrics"] = ["accuracy"]
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": name or "images", "type": hub or "images", "split": split},
            "metrics": [
                {"type": "accuracy", "value": round(worth.top1, 6), "name": "top-1"},
                *(
                    [{"type": "accuracy", "value": round(worth.top5, 6), "name": "top-5"}]
                    if worth.top5 is not None
                    else []
                ),
            ],
        }
        for split, worth in worths(about)
    ]
    if results:
        front["model-index"] = [{"name": about.name, "results": results}]
    return front


def worths(about: About) -> list[tuple[str, Worth]]:
    """What the model is worth, by split: ``validation`` and ``test``, where they are known.

    Args:
        about: What the folder says.
    """
    if about.metrics is None:
        return []
    found = (("validation", about.metrics.validation), ("test", about.metrics.test))
    return [(split, worth) for split, worth in found if worth is not None]
