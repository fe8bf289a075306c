"""A study that lasts: its configuration, storage, trials, and who works on them."""

from sret_nas.study.config import RunConfig, commit, versions
from sret_nas.study.rundir import RunDir

__all__ = ["RunConfig", "RunDir", "commit", "versions"]
