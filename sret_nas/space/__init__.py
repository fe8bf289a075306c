"""Search spaces: a file of choices, and budgets that hold.

Free of torch, but for bounds on latency.
"""

from sret_nas.latency.bounds import Clock, Timing, clock
from sret_nas.space.annotate import annotated, summary
from sret_nas.space.budget import Bound, BudgetInfeasible, Extreme
from sret_nas.space.bundled import bundled
from sret_nas.space.check import Check, check
from sret_nas.space.dimensions import Dimension
from sret_nas.space.size import Count
from sret_nas.space.space import Encoding, SearchSpace, is_space, store

__all__ = [
    "Bound",
    "BudgetInfeasible",
    "Check",
    "Clock",
    "Count",
    "Dimension",
    "Encoding",
    "Extreme",
    "SearchSpace",
    "Timing",
    "annotated",
    "bundled",
    "check",
    "clock",
    "is_space",
    "store",
    "summary",
]
