"""What people look at: a page of a run, and drawings of architectures."""

from sret_nas.drawing import describe, draw
from sret_nas.report.page import page, write

__all__ = ["describe", "draw", "page", "write"]
