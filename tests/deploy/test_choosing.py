"""Which file in int8 is taken: by what is lost, then by time, then by size."""

from __future__ import annotations

from pathlib import Path

import pytest

from sret_nas.deploy.choosing import Candidate, choose
from sret_nas.errors import SretNasError


def candidate(name: str, loss: float, ms: float, size: int = 100) -> Candidate:
    return Candidate(name, Path(name), size, loss=loss, latency_ms=ms)


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ([candidate("fast", 0.02, 1), candidate("good", 0.001, 5)], "good"),
        # a tenth of a point is the same, so that time decides
        ([candidate("fast", 0.0014, 1), candidate("good", 0.0005, 5)], "fast"),
        # a gain is luck, not a merit
        ([candidate("lucky", -0.01, 5), candidate("fast", 0.0, 1)], "fast"),
        # as fast as the fastest within 5%: the smaller
        ([candidate("big", 0.0, 1.0, 200), candidate("small", 0.0, 1.04, 100)], "small"),
        ([candidate("big", 0.0, 1.0, 200), candidate("small", 0.0, 1.2, 100)], "big"),
        ([Candidate("broken", error="no kernel"), candidate("poor", 0.5, 9)], "poor"),
    ],
)
def test_what_is_lost_decides_then_time_then_size(tried: list[Candidate], wanted: str) -> None:
    assert choose(tried).name == wanted
    assert choose(tried[::-1]).name == wanted


def test_where_no_way_works_every_reason_is_said() -> None:
    tried = [Candidate("dynamic", error="no kernel"), Candidate("static", error="too few images")]
    with pytest.raises(SretNasError, match=r"dynamic: no kernel; static: too few images"):
        choose(tried)
