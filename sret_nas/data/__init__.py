"""Images to train on: fixed, seeded splits, from wherever they come.

Requires torch, NumPy and Pillow; torchvision and timm only for their data sets.
"""

from sret_nas.data.augment import Augment, affine
from sret_nas.data.choosing import Chosen, choose_images
from sret_nas.data.dataset import DataSet
from sret_nas.data.errors import DataError, DownloadError
from sret_nas.data.loading import load_data
from sret_nas.data.splits import Resident, Split, Stream
from sret_nas.data.views import Views

__all__ = [
    "Augment",
    "Chosen",
    "DataError",
    "DataSet",
    "DownloadError",
    "Resident",
    "Split",
    "Stream",
    "Views",
    "affine",
    "choose_images",
    "load_data",
]
