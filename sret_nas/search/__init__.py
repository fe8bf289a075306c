"""The search: an Optuna study under a budget, with rungs, workers and resume."""

from sret_nas.search.config import RunConfig, commit, versions
from sret_nas.search.known_cost import KnownCostSampler
from sret_nas.search.order import Order
from sret_nas.search.outcome import Confirmation, Member, Outcome
from sret_nas.search.run import Ended, architecture, join, load, search
from sret_nas.search.rundir import RunDir
from sret_nas.search.samplers import SAMPLERS, FilteredSampler

__all__ = [
    "SAMPLERS",
    "Confirmation",
    "Ended",
    "FilteredSampler",
    "KnownCostSampler",
    "Member",
    "Order",
    "Outcome",
    "RunConfig",
    "RunDir",
    "architecture",
    "commit",
    "join",
    "load",
    "search",
    "versions",
]
