"""Exporters by name: a file each, behind one interface.

Requires torch; what an exporter needs beside it is imported as it is used.
"""

from __future__ import annotations

from sret_nas.deploy.exporting.base import Exporter, NotHere, Runner, Wanted
from sret_nas.deploy.exporting.to_coreml import CoreMl
from sret_nas.deploy.exporting.to_executorch import ExecuTorch
from sret_nas.deploy.exporting.to_onnx import Onnx
from sret_nas.deploy.exporting.to_openvino import OpenVino
from sret_nas.deploy.exporting.to_torch import Torch

EXPORTERS: dict[str, Exporter] = {
    one.name: one for one in (Onnx(), Torch(), ExecuTorch(), OpenVino(), CoreMl())
}

__all__ = ["EXPORTERS", "Exporter", "NotHere", "Runner", "Wanted"]
