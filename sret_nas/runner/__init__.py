"""One run: workers try candidates under a budget, prune, confirm, and write the front down."""

from sret_nas.runner.member import Confirmation, Member
from sret_nas.runner.order import Order
from sret_nas.runner.recommendation import Recommendation
from sret_nas.runner.result import RunResult
from sret_nas.runner.run import Ended, architecture, join, load, search
from sret_nas.runner.sampling import FilteredSampler
from sret_nas.runner.strategies import SAMPLERS

__all__ = [
    "SAMPLERS",
    "Confirmation",
    "Ended",
    "FilteredSampler",
    "Member",
    "Order",
    "Recommendation",
    "RunResult",
    "architecture",
    "join",
    "load",
    "search",
]
