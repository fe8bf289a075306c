"""From an architecture to a ``torch.nn.Module``, a timm model, files.

Requires torch and timm.
"""

from sret_nas.model.folder import (
    load,
    load_any,
    load_checkpoint,
    save,
    save_checkpoint,
    write_weights,
)
from sret_nas.model.growing import Grown, grow
from sret_nas.model.official import convert_official_state_dict
from sret_nas.model.sret import SReT
from sret_nas.model.starting import initialise
from sret_nas.model.timm_models import create_model

__all__ = [
    "Grown",
    "SReT",
    "convert_official_state_dict",
    "create_model",
    "grow",
    "initialise",
    "load",
    "load_any",
    "load_checkpoint",
    "save",
    "save_checkpoint",
    "write_weights",
]
