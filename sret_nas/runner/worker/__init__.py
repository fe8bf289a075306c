"""A worker of a run, and its parts: limits, asking, trying, confirming."""

from sret_nas.runner.worker.worker import Worker

__all__ = ["Worker"]
