"""What a terminal shows: no line is wider than it, and no number is cut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sret_nas.cli import output
from sret_nas.cli.table import Column

from sret_nas import zoo

Cli = Callable[..., Any]
GOLDEN = Path(__file__).parent / "golden" / "terminal"
COLUMNS = [
    Column("name", "name", left=True),
    Column("macs", "MACs of it", lambda value: f"{value:,}"),
    Column("note", "note", rank=2, long=True),
    Column("depth", "depth", rank=1),
    Column("never", "never"),
]
ROWS = [
    {"name": "first", "macs": 1_112_444_672, "note": "words " * 12, "depth": 20},
    {"name": "second", "macs": None, "note": "", "depth": 7},
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def of(width: int) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(width))

    return of


def plain(text: str) -> str:
    """Without what moves the cursor or changes the type."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def numbers(text: str) -> set[str]:
    return {word.strip(",.:;()") for word in text.split() if re.match(r"[+-]?\d", word)}


Print = Callable[[int], tuple[str, str]]


@pytest.fixture
def printed(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> Print:
    def at(width: int) -> tuple[str, str]:
        terminal(width)
        output.print_table(ROWS, COLUMNS)
        captured = capsys.readouterr()
        return plain(captured.out), captured.err

    return at


def test_a_pipe_has_no_edge_and_an_empty_column_goes(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(ROWS, COLUMNS)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "MACs", "of", "it", "note", "depth"]
    assert lines[0].split() == ["first", "1,112,444,672", *12 * ["words"], "20"]
    assert lines[1].split() == ["second", "–", "7"]


def test_long_text_wraps_between_words_in_its_own_column(printed: Print) -> None:
    out, err = printed(72)
    lines = out.splitlines()
    assert lines[1].split() == ["first", "1,112,444,672", *7 * ["words"], "20"]
    assert lines[2] == " " * 23 + " ".join(5 * ["words"])
    assert not err


def test_long_text_without_room_stands_below(printed: Print) -> None:
    out, err = printed(40)
    assert out.splitlines() == [
        "name       MACs of it  depth",
        "first   1,112,444,672     20",
        "second              –      7",
        "",
        "note",
        "first  words words words words words",
        "       words words words words words",
        "       words words",
    ]
    assert not err


def test_the_least_important_column_goes_and_is_named(printed: Print) -> None:
    out, err = printed(22)
    assert out.splitlines()[:3] == [
        "name       MACs of it",
        "first   1,112,444,672",
        "second              –",
    ]
    assert "left out for the width" in err
    assert err.split("terminal:")[1].split()[0] == "depth"


def test_where_nothing_fits_rows_stand_upright(printed: Print) -> None:
    out, err = printed(20)
    assert out.splitlines()[:4] == [
        "name   first",
        "MACs   1,112,444,672",
        "of it",
        "note   words words",
    ]
    assert max(map(len, out.splitlines())) <= 20
    assert not err


def test_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([{"name": "[red]x[/red]", "macs": 1}], COLUMNS[:2], title="[b]y")
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out and "[b]y" in out


# --- the commands -----------------------------------------------------------------------------

SMALL = """
image_size: 32
stem_stride: 4
num_classes: 7
stages:
- {heads: 2, head_dim: 4, blocks: 2, recursions: 2, groups: [4, 2]}
- {heads: 4, head_dim: 4, recursions: 3, groups: [1, 4, 2]}
"""

LINES = [
    ["spaces", "list"],
    ["spaces", "check", "sret_tiny", "--budget", "500MMACs", "--budget", "1GB"],
    ["spaces", "sample", "sret", "-n", "3"],
    ["doctor"],
    ["profile", *zoo.PUBLISHED, "--no-latency"],
    ["profile", "sret_t", "--by", "layer", "--no-latency"],
    ["profile", "small.yaml", "--counters", "--no-latency"],
]


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, ...], str]:
    """What the commands print into a pipe, as far as they have been asked."""
    return {}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_number_is_whole_and_no_line_too_wide(
    line: list[str],
    width: int,
    cli: Cli,
    terminal: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wholes: dict[tuple[str, ...], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    whole = wholes.get(tuple(line)) or wholes.setdefault(tuple(line), cli(*line).out)
    terminal(width)
    shown = cli(*line)
    assert shown.code == 0
    out = plain(shown.out)
    assert max(map(len, out.splitlines())) <= width
    assert numbers(out) <= numbers(whole)
    if line[0] != "doctor":
        assert len(numbers(out)) >= 3


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_plan_holds_in_its_width(
    width: int, cli: Cli, terminal: Callable[[int], None], tmp_path: Path
) -> None:
    proxy = tmp_path / "tiny.yaml"
    proxy.write_text("{image_size: 28, width: 0.5, subset: 64, val_images: 32, epochs: 1}")
    terminal(width)
    result = cli("search", "smoke", "--dry-run", "--proxy", proxy, "--trials", "5")
    assert result.code == 0
    lines = plain(result.out).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1] == "feasible share of the space  100.00%"
    values = [line[29:] for line in lines[1:]]
    assert values[1:3] == ["all 10", "5"]
    assert any(value.startswith("measured") or "images/s" in value for value in values)


@pytest.mark.parametrize("line", LINES[:2] + LINES[4:6], ids=" ".join)
def test_golden_terminal(line: list[str], cli: Cli, terminal: Callable[[int], None]) -> None:
    terminal(80)
    name = "-".join(word for word in line if not word.startswith("sret"))
    golden = GOLDEN / f"{name.replace('--', '')}.txt"
    assert plain(cli(*line).out) == golden.read_text()


def test_another_encoding_gets_other_signs_not_an_error() -> None:
    program = Path(sys.executable).with_name("sret-nas")
    line = [program, "profile", "sret_t", "--no-latency"]
    for encoding in ("ascii", "latin-1"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(line, env=environment, capture_output=True, check=True)
        assert b"| stage 3" in done.stdout and b"` head" in done.stdout


@pytest.mark.parametrize("width", [80, 50, 40])
def test_a_long_name_is_not_broken(
    width: int,
    cli: Cli,
    terminal: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a trial, ``RUN#5``, or of a file: what is copied from the screen works."""
    monkeypatch.chdir(tmp_path)
    path = Path("runs-of-sret-4g-macs-3684a7.yaml")
    zoo.PRESETS["sret_t"].save(path)
    terminal(width)
    out = plain(cli("profile", path, "sret_t", "--no-latency").out)
    assert str(path) in out
