"""The ``sret-nas`` command: its commands, its errors, its exit codes.

Commands import what they need when they run, so that ``--help`` stays fast and
loads no torch.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from sret_nas import __version__
from sret_nas.errors import SretNasError
from sret_nas.noise import quiet_libraries

from . import (
    calibrate,
    dashboard,
    doctor,
    evaluate,
    export,
    output,
    pareto,
    profile,
    report,
    runs,
    search,
    spaces,
    train,
    worker,
)

app = typer.Typer(
    name="sret-nas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find Pareto-optimal Sliced Recursive Transformers for a budget and a device.",
    epilog="Example: sret-nas search --budget 4GFLOPs",
)
app.command(epilog="Example: sret-nas search --budget 4GFLOPs")(search.search)
app.command(epilog="Example: sret-nas worker --storage postgresql://me@db/nas --study demo")(
    worker.worker
)
app.command(epilog="Example: sret-nas runs --storage @storage.txt")(runs.runs)
app.command(epilog="Example: sret-nas profile sret_t sret_s deit_small_patch16_224")(
    profile.profile
)
app.command(epilog="Example: sret-nas train runs/NAME#7 --data ./images --out models/NAME")(
    train.train
)
app.command(epilog="Example: sret-nas evaluate models/demo --data ./images")(evaluate.evaluate)
app.command(epilog="Example: sret-nas export models/NAME --to onnx --int8")(export.export)
app.command(epilog="Example: sret-nas calibrate sret_tiny --threads 1")(calibrate.calibrate)
app.add_typer(spaces.app, name="spaces", epilog="Example: sret-nas spaces list")
app.command(epilog="Example: sret-nas pareto runs/NAME --format csv")(pareto.pareto)
app.command(epilog="Example: sret-nas report runs/NAME")(report.report)
app.command(epilog="Example: sret-nas dashboard runs/NAME")(dashboard.dashboard)
app.command(epilog="Example: sret-nas doctor --format json")(doctor.doctor)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"sret-nas {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Options of all commands; ``main`` has already taken ``--debug`` from the line."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors become a line and a hint."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler talks to stderr
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="sret-nas", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SretNasError as error:
        if debug:
            traceback.print_exc()
        output.error(str(error), error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        output.error("interrupted")
        return 130
    except BrokenPipeError:  # whoever reads has seen enough
        return 1
    except (OSError, MemoryError, ImportError) as error:  # of this machine, not of the program
        if debug:
            traceback.print_exc()
        output.error(*_of_machine(error))
        return 2 if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG else 1
    except Exception as error:
        # Typer's usage errors; it keeps its own copy of click, so they are known by their form.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "sret-nas"
            if error.format_message():  # empty where the help has just been printed
                message = error.format_message().replace("Value error, ", "")
                output.error(message, f"{command} --help shows what is allowed")
            return int(error.exit_code)
        if debug:
            traceback.print_exc()
        output.error(
            f"{type(error).__name__}: {error}", "this is a bug; --debug shows where it happened"
        )
        return 1


def _of_machine(error: OSError | MemoryError | ImportError) -> tuple[str, str | None]:
    """What the machine refuses, and what to do."""
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}", None
    text = str(error).strip().splitlines()
    if isinstance(error, ImportError) and "annot allocate memory" not in str(error):
        what = f"a package cannot be loaded: {text[0] if text else error.name}"
        return what, "sret-nas doctor shows what is installed; --debug where it is needed"
    return "there is not memory enough", "close other programs, or raise the limit (ulimit -v)"


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End as after SIGTERM, but with what is half written removed."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point of the console command."""
    signal.signal(signal.SIGTERM, _end)  # what needs longer to end has a handler of its own
    closed = sys.stdout is None  # as by >&- in a shell
    if closed:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    output.print_in_any_encoding()
    quiet_libraries()
    code = run(sys.argv[1:])
    if closed:
        output.error("standard output cannot be written: it is closed")
        sys.exit(code or 1)
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            output.error(f"standard output cannot be written: {error.strerror}")
        # Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)
