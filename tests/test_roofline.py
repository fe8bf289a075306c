"""The two ceilings: bounds by hand, and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sret_nas.device import Fingerprint, fingerprint
from sret_nas.errors import UsageError
from sret_nas.latency import roofline

HERE = Fingerprint("cpu", "X", 2, 1, "2.11")
KNOWN = roofline.Roofline(
    fingerprint=HERE, macs_per_s={"fp32": 1e11, "bf16": 4e11}, bytes_per_s=2e10
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Fingerprint]:
    """Counts the measurements, which cost nothing here."""
    calls: list[Fingerprint] = []

    def measure(_: torch.device, here: Fingerprint) -> roofline.Roofline:
        calls.append(here)
        return roofline.Roofline(fingerprint=here, macs_per_s={"fp32": 1e11}, bytes_per_s=2e10)

    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "measure", measure)
    return calls


def test_the_larger_of_two_times_is_the_bound() -> None:
    arithmetic = KNOWN.bound(macs=10**9, least_bytes=2 * 10**7, dtype="fp32", measured_ms=20.0)
    assert (arithmetic.macs_ms, arithmetic.bytes_ms) == pytest.approx((10.0, 1.0))
    assert (arithmetic.least_ms, arithmetic.share) == pytest.approx((10.0, 0.5))
    memory = KNOWN.bound(macs=10**8, least_bytes=2 * 10**7, dtype="bf16", measured_ms=4.0)
    assert (memory.least_ms, memory.share) == pytest.approx((1.0, 0.25))


def test_who_beats_a_ceiling_reaches_all_of_it_and_is_told() -> None:
    """A ceiling measured on a busy machine is too low; no share is more than the whole."""
    fast = KNOWN.bound(macs=10**9, least_bytes=2 * 10**7, dtype="fp32", measured_ms=8.0)
    assert fast.beaten and (fast.share, fast.least_ms) == (1.0, 8.0)
    assert fast.note is not None and fast.note.startswith("1.25 times as fast as the best matrix")
    cached = KNOWN.bound(macs=10**7, least_bytes=2 * 10**7, dtype="fp32", measured_ms=0.5)
    assert cached.beaten and (cached.share, cached.least_ms) == (1.0, 0.5)
    assert cached.note is not None and cached.note.startswith("2.00 times as fast as its memory")
    slow = KNOWN.bound(macs=10**9, least_bytes=2 * 10**7, dtype="fp32", measured_ms=10.5)
    assert not slow.beaten and slow.note is None


def test_it_is_measured_once(measured: list[Fingerprint]) -> None:
    first = roofline.roofline("cpu", threads=1)
    second = roofline.roofline("cpu", threads=1)
    assert first == second
    assert len(measured) == 1
    roofline.roofline("cpu", threads=2)
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"schema": 99}', b"[]", b'{"schema": 1, "extra": 2}']
)
def test_a_corrupt_cache_is_measured_again(measured: list[Fingerprint], content: bytes) -> None:
    path = roofline.cache_path(fingerprint(torch.device("cpu"), 1))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    roofline.roofline("cpu", threads=1)
    assert len(measured) == 1
    roofline.roofline("cpu", threads=1)
    assert len(measured) == 1


def test_the_cache_of_another_device_is_measured_again(measured: list[Fingerprint]) -> None:
    path = roofline.cache_path(fingerprint(torch.device("cpu"), 1))
    path.parent.mkdir(parents=True)
    path.write_text(KNOWN.model_dump_json(by_alias=True))
    assert roofline.roofline("cpu", threads=1).fingerprint.name != "X"
    assert len(measured) == 1


def test_no_such_device() -> None:
    with pytest.raises(UsageError, match="no such device"):
        roofline.roofline("cuda:97")


def test_a_real_measurement_is_plausible() -> None:
    """Between a pocket calculator and the fastest machine there is."""
    device = torch.device("cpu")
    found = roofline.measure(device, fingerprint(device, 1))
    assert set(found.macs_per_s) >= {"fp32"}
    assert all(1e7 < rate < 1e16 for rate in found.macs_per_s.values())
    assert 1e7 < found.bytes_per_s < 1e14


@pytest.mark.cuda
def test_a_gpu_multiplies_faster_in_half_precision() -> None:
    device = torch.device("cuda:0")
    found = roofline.measure(device, fingerprint(device))
    assert found.macs_per_s["fp16"] > found.macs_per_s["fp32"]
