"""The time limit of GPU tests, and why they are skipped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

Limited = Callable[[pytest.Item], AbstractContextManager[None]]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals on this system")
def test_a_gpu_test_that_hangs_fails_and_the_next_one_runs(
    limited: Limited, request: pytest.FixtureRequest
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    request.node.add_marker(pytest.mark.cuda(seconds=0.05))
    over = pytest.raises(pytest.fail.Exception, match=r"took longer than its 0\.05 s")
    with over, limited(request.node):
        while True:
            try:
                signal.pause()
            except Exception:  # as `measure` catches what a model raises
                continue
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_tests_have_no_limit(limited: Limited, request: pytest.FixtureRequest) -> None:
    with limited(request.node):
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.cuda(seconds=7)
def test_the_limit_is_what_the_mark_says() -> None:
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 7
