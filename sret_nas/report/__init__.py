"""What people look at: pages of runs and of trainings, and drawings of architectures."""

from sret_nas.drawing import describe, draw
from sret_nas.report.page import page, write
from sret_nas.report.training_page import is_training
from sret_nas.report.training_page import write as write_training

__all__ = ["describe", "draw", "is_training", "page", "write", "write_training"]
