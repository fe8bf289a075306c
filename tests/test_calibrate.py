"""``sret-nas calibrate``, on a device whose time is a multiple of its MACs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sret_nas import latency
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.device import fingerprint
from sret_nas.errors import SretNasError


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SRET_NAS_CACHE", str(tmp_path))

    def measure(
        models: Mapping[str, Architecture], *, threads: int | None = None, **options: Any
    ) -> dict[latency.Key, latency.Latency | SretNasError]:
        (batch,) = options["batches"]
        here = fingerprint(torch.device("cpu"), threads)
        results: dict[latency.Key, latency.Latency | SretNasError] = {}
        for name, arch in models.items():
            ms = 0.1 + cost(arch).macs * 1e-8
            results[name, batch] = latency.Latency(
                name=name,
                batch=batch,
                dtype=options["dtype"],
                device="cpu",
                mode=options["mode"],
                l2="warm",
                median_ms=ms,
                p95_ms=ms,
                low_ms=ms,
                high_ms=ms,
                runs=9,
                peak_bytes=1,
                least_bytes=1,
                fingerprint=here,
            )
        results["0", batch] = SretNasError("0: out of memory")
        return results

    monkeypatch.setattr("sret_nas.latency.measurement.measure", measure)


ARGUMENTS = ("calibrate", "sret_tiny", "-n", 30, "--holdout", 20, "--threads", 1, "--seed", 3)


def test_the_scores_are_printed_and_the_predictor_is_kept(cli: Callable[..., Any]) -> None:
    result = cli(*ARGUMENTS)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["on", "other", "architectures"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "predictor",
        "line over MACs",
        "measured again",
        "nn-Meter, as published on its own devices",
    ]
    assert "99.0%" in lines[-1]
    assert "device  cpu, torch sees no GPU" in result.err
    assert "29 architectures of 'sret_tiny'" in result.err
    assert "skipped: 0: out of memory" in result.err
    found = latency.load_predictor(threads=1)
    assert (found.space, found.architectures) == ("sret_tiny", 29)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_scores_hold_in_a_terminal(
    width: int, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cli(*ARGUMENTS).out.split()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", cli(*ARGUMENTS).out)
    assert max(map(len, out.splitlines())) <= width
    assert set(out.split()) <= set(whole)
    assert [word for word in out.split() if "%" in word and "±" not in word] == [
        word for word in whole if "%" in word and "±" not in word
    ]


def test_json_says_the_same(cli: Callable[..., Any]) -> None:
    document = cli(*ARGUMENTS, "--json").json
    assert document["schema"] == 1
    assert document["predictor"]["space"] == "sret_tiny"
    assert document["held_out"]["macs_line"]["within_5"] == 1.0  # the device's own law
    assert document["held_out"]["predictor"]["architectures"] == 19
    assert document["skipped"] == ["0: out of memory"]
    assert json.loads(Path(document["path"]).read_text()) == document["predictor"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has the device alone, while somebody has it."""
    from sret_nas.runner.lease import Lease

    now: list[str] = []

    @contextmanager
    def measuring(self: Lease, *_: Any) -> Iterator[None]:
        now.append(self.device.stem)
        yield
        now.remove(self.device.stem)

    monkeypatch.setattr(Lease, "measuring", measuring)
    return now


@pytest.mark.parametrize("arguments", [ARGUMENTS, ("profile", "sret_t")])
def test_nothing_of_ours_computes_meanwhile(
    cli: Callable[..., Any],
    held: list[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
) -> None:
    seen: list[list[str]] = []

    def measure(*_: Any, **__: Any) -> Any:
        seen.append(held.copy())
        raise SretNasError("enough")

    monkeypatch.setattr("sret_nas.latency.measurement.measure", measure)
    assert cli(*arguments).code == 1
    assert seen == [["cpu"]]


def test_csv_has_a_line_for_every_method(cli: Callable[..., Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(cli(*ARGUMENTS, "--format", "csv").out)))
    assert len(rows) == 4
    assert float(rows[1]["within_10"]) == 1.0
    assert rows[3]["kendall_tau"] == ""


def test_without_others_nothing_is_judged(cli: Callable[..., Any]) -> None:
    result = cli("calibrate", "sret_tiny", "-n", 30, "--holdout", 0, "--threads", 1)
    assert (result.code, result.out) == (0, "")
    assert "kept in" in result.err
    assert (
        cli("calibrate", "sret_tiny", "-n", 30, "--holdout", 0, "--json").json["held_out"] is None
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sret_tini",), "sret_tini"),
        (("sret_tiny", "-n", 19), "equal to 20"),
        (("sret_tiny", "--batch", 0), "--batch"),
    ],
)
def test_what_cannot_be_is_refused(
    cli: Callable[..., Any], arguments: tuple[object, ...], words: str
) -> None:
    result = cli("calibrate", *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
