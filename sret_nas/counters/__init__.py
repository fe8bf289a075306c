"""The same numbers by other people's counters, side by side and explained.

Every counter runs on a private copy of the model, in eval mode and on the CPU,
for one image. What a counter meets and cannot count is named beside its number:
unknown is not zero. Where the analytic number exists, the difference from it is
split into terms that add up to the unit.

Requires torch, fvcore and ptflops.
"""

from sret_nas.counters.counting import COUNTERS, count
from sret_nas.counters.fvcore import HANDLERS as FVCORE_HANDLERS
from sret_nas.counters.record import Count

__all__ = ["COUNTERS", "FVCORE_HANDLERS", "Count", "count"]
