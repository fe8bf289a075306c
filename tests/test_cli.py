"""The command line: exit codes, streams, formats, help."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sret_nas.cli import main, output
from typer.main import get_command

import sret_nas

Cli = Callable[..., Any]


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"sret-nas {sret_nas.__version__}\n"


def test_the_console_command_is_installed() -> None:
    program = Path(sys.executable).with_name("sret-nas")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sret-nas ")
    assert not done.stderr


def commands() -> list[list[str]]:
    """Every command line that has a help page."""
    found: list[list[str]] = [[]]

    def walk(command: Any, path: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            found.append([*path, name])
            walk(child, [*path, name])

    walk(get_command(main.app), [])
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_help_shows_an_example(path: list[str], cli: Cli) -> None:
    for flag in ("--help", "-h"):
        result = cli(*path, flag)
        assert result.code == 0
        assert "Usage: sret-nas" in result.out
        assert "sret-nas" in result.out.split("Example:")[1]


def test_the_set_of_flags_is_frozen() -> None:
    """A flag that appears or disappears is a decision, not an accident."""
    frozen = json.loads((Path(__file__).parent / "golden" / "flags.json").read_text())
    now: dict[str, list[str]] = {}

    def walk(command: Any, path: str) -> None:
        flags = [name for parameter in command.params for name in parameter.opts]
        now[path] = sorted(set(flags) - {"--install-completion", "--show-completion"})
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")

    walk(get_command(main.app), "sret-nas")
    assert now == frozen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prifole"], "prifole"),
        (["profile"], "ARCH"),
        (["profile", "sret_t", "--format", "xml"], "xml"),
        (["profile", "sret_t", "--bach", "1"], "--bach"),
        (["profile", "sret_x", "--no-latency"], "did you mean 'sret_t'"),
        (["profile", "gone.yaml"], "gone.yaml: cannot be read"),
        (["profile", "sret_t", "--batch", "1,x"], "--batch: given '1,x'"),
        (["profile", "sret_t", "--batch", "0"], "batch: given 0"),
        (["profile", "sret_t", "--device", "tpu"], "tpu"),
        (["profile", "sret_t", "--dtype", "int3"], "int3"),
        (["profile", "sret_t", "--mode", "graph"], "mode graph needs a CUDA device"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments: list[str], said: str, cli: Cli) -> None:
    result = cli(*arguments)
    assert result.code == 2
    error, *hints = result.err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert all(hint.startswith("hint: ") for hint in hints)
    assert len(hints) <= 1


def test_debug_shows_the_traceback_from_anywhere(cli: Cli) -> None:
    assert "Traceback" not in cli("profile", "gone.yaml").err
    for arguments in (["--debug", "profile", "gone.yaml"], ["profile", "gone.yaml", "--debug"]):
        result = cli(*arguments)
        assert "Traceback" in result.err
        assert result.code == 2


def test_a_bug_is_exit_1_and_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("sret_nas.profile.profile", broken)
    result = cli("profile", "sret_t")
    assert result.code == 1
    assert result.err.splitlines()[0] == "error: ZeroDivisionError: division by zero"


def test_interruption_is_exit_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sret_nas.profile.profile", interrupted)
    assert cli("profile", "sret_t").code == 130


def test_shell_completion_names_commands_and_presets() -> None:
    program = Path(sys.executable).with_name("sret-nas")

    def complete(words: str) -> list[str]:
        environment = os.environ | {
            "_SRET_NAS_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run([program], env=environment, capture_output=True, text=True)
        return done.stdout.split()

    assert complete("sret-nas pro") == ["profile"]
    assert "sret_lt_16_14" in complete("sret-nas profile sret_l")


COLUMNS = [
    output.Column("name", "name", left=True),
    output.Column("macs", "MACs", lambda value: f"{value:,}"),
    output.Column("note", "note", long=True),
]
ROWS = [{"name": "a", "macs": 1_112_444_672, "note": "x" * 200}, {"name": "b", "macs": None}]


def test_machine_formats_are_raw(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit(ROWS, COLUMNS, output.Format.csv)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == {"name": "a", "macs": "1112444672", "note": "x" * 200}
    output.emit(ROWS, COLUMNS, output.Format.json)
    assert json.loads(capsys.readouterr().out) == ROWS
    with pytest.raises(ValueError, match="JSON"):
        output.emit([], [], output.Format.json, {"latency": float("nan")})


def test_a_usage_error_keeps_the_name_of_its_command(cli: Cli) -> None:
    assert "sret-nas profile --help" in cli("profile").err


QUIET = """
import logging, sys
from sret_nas.noise import quiet_libraries
assert "optuna" not in sys.modules
{call}
import optuna
from sret_nas.study.address import Address
from sret_nas.study.storage import open_storage
open_storage(Address.parse("sqlite:///study.db"))
verbosity, pool = optuna.logging.get_verbosity(), logging.getLogger("sqlalchemy.pool")
print(verbosity == optuna.logging.ERROR, pool.level)
"""


@pytest.mark.parametrize(("call", "said"), [("quiet_libraries()", "True 50"), ("", "False 0")])
def test_libraries_are_quiet_in_the_command_and_as_they_were_elsewhere(
    call: str, said: str, tmp_path: Path
) -> None:
    code = QUIET.format(call=call)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == said, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
def test_a_closed_output_is_one_line() -> None:
    code = "from sret_nas.cli.main import main; main()"
    line = f"'{sys.executable}' -c '{code}' spaces list --format json"
    done = subprocess.run(["sh", "-c", f"{line} >&-"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written: it is closed\n"
    both = subprocess.run(["sh", "-c", f"{line} >&- 2>&-"], capture_output=True, text=True)
    assert both.returncode == 1


@pytest.mark.parametrize("command", ["profile", "evaluate", "train", "export", "report", "search"])
def test_a_name_that_no_file_can_have_is_exit_2(command: str, cli: Cli) -> None:
    result = cli(command, "n" * 300)
    assert result.code == 2
    assert "too long" in result.err
    assert "bug" not in result.err


def test_sigterm_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writing(arguments: list[str]) -> int:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(main, "run", writing)
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
