"""The labels of a map-style data set, without decoding its images where possible."""

from __future__ import annotations

from typing import Any

import numpy as np

from sret_nas.data.items import Indices


def labels_of(dataset: Any) -> Indices:
    """Class indices (N,) of a data set that yields ``(image, label, …)``."""
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == len(dataset):
            return np.asarray(labels, np.int64)
    return np.asarray([int(dataset[i][1]) for i in range(len(dataset))], np.int64)
