"""Command lines that a page or a note names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from sret_nas.evaluators.registry import PROXY
from sret_nas.runner import RunResult


def line(words: Iterable[object]) -> str:
    """Words as a shell takes them; the ``#`` of ``RUN#N`` begins no comment there.

    Args:
        words: The command and its arguments.

    Example:
        >>> line(["train", "runs/demo#2", "--data", "my images"])
        "train runs/demo#2 --data 'my images'"
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./-]+#\d+", word, re.ASCII) else shlex.quote(word)


def take_away(outcome: RunResult, trial: int) -> list[str]:
    """From a member of the front to a file for another runtime: train, evaluate, export.

    Args:
        outcome: The run.
        trial: The member.
    """
    run = outcome.run
    source = f"{run.path}#{trial}" if run.has_folder else f"{trial:03d}.yaml"
    return [
        line(["sret-nas", "train", source, *_data(outcome), "--out", model(outcome, trial)]),
        *use(model(outcome, trial), outcome.config.data["source"]),
    ]


def several(outcome: RunResult, count: int) -> str:
    """The command that trains several members, and measures what the search was worth.

    Args:
        outcome: The run.
        count: How many.
    """
    return line(["sret-nas", "train", outcome.run.path, "--top", count, *_data(outcome)])


def _data(outcome: RunResult) -> list[str]:
    return ["--data", outcome.config.data["source"]]


def model(outcome: RunResult, trial: int) -> str:
    """The folder that a trained member is put into.

    Args:
        outcome: The run.
        trial: The member.
    """
    return f"models/{outcome.run.path.name}-{trial}"


def use(folder: str, data: str) -> list[str]:
    """What one does with a model folder: evaluate, export.

    Args:
        folder: The model folder.
        data: What it was, or is to be, trained on.
    """
    return [
        line(["sret-nas", "evaluate", folder, "--data", data]),
        line(["sret-nas", "export", folder, "--to", "onnx", "--int8", "--data", data]),
    ]


def search(outcome: RunResult) -> str:
    """The command line that asks for the same search."""
    config = outcome.config
    name = str(config.space.get("name", "space"))
    words = ["sret-nas", "search", name]
    if config.space_folder:
        words[-1] = f"{config.space_folder}/{name}.yaml"
    for bound in config.budget:
        words += ["--budget", bound]
    words += ["--objectives", ",".join(config.objectives)]
    if config.evaluator != PROXY:
        words += ["--evaluator", config.evaluator]
    words += ["--data", config.data["source"], "--sampler", config.sampler]
    words += ["--device", config.device, "--workers", str(config.workers)]
    words += ["--seed", str(config.seed)]
    if config.trials:
        words += ["--trials", str(config.trials)]
    if config.timeout_s:
        words += ["--timeout", f"{config.timeout_s:g}s"]
    if not config.published:
        words.append("--no-seeds")
    run = outcome.run
    if not run.own_database:
        words += ["--storage", str(run.address), "--study", run.study_name]
    return shlex.join([*words, "--out", str(run.path)] if run.has_folder else words)
