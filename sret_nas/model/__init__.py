"""From an architecture to a ``torch.nn.Module``, a timm model, a checkpoint.

Requires torch and timm.
"""

from sret_nas.model import timm_models as timm_models
from sret_nas.model.checkpoint import (
    convert_official_state_dict,
    load_checkpoint,
    save_checkpoint,
)
from sret_nas.model.sret import SReT, create_model

__all__ = [
    "SReT",
    "convert_official_state_dict",
    "create_model",
    "load_checkpoint",
    "save_checkpoint",
]
