"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement


class Finding(NamedTuple):
    """One line of the examination.

    Attributes:
        what: What was looked at.
        found: What is there.
        state: ``ok``, ``missing`` (something will not work) or ``note``.
        next_step: What to do about it; empty where nothing is needed.
    """

    what: str
    found: str
    state: Literal["ok", "missing", "note"] = "ok"
    next_step: str = ""


def findings() -> list[Finding]:
    """Look at versions, processors, number formats, compilers and storage."""
    return [*_versions(), *_devices(), *_storage()]


def _versions() -> Iterator[Finding]:
    own = importlib.metadata.version("sret_nas")
    yield Finding("sret_nas", own)
    system = f"{platform.system()} {platform.release()}"
    yield Finding("python", f"{platform.python_version()} on {system}")
    for line in importlib.metadata.requires("sret_nas") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "–", "missing", f'pip install "{requirement}"')
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, version)
        else:
            yield Finding(requirement.name, version, "missing", f'pip install "{requirement}"')


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", f"does not load: {error}", "missing", "pip install --upgrade torch")
        return
    from sret_nas import gpus
    from sret_nas.device import NEEDED_BYTES, cores, processor

    yield Finding("cpu", f"{processor()}, {cores()} cores, {torch.get_num_threads()} torch threads")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield Finding("cpu bf16", f"native ({torch.backends.cpu.get_cpu_capability()})")
    else:
        yield Finding("cpu bf16", "emulated", "note", "training on this CPU stays in fp32")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = gpus.look(index)
            capability = "compute {}.{}".format(*gpu.capability)
            memory = f"{gpu.total_bytes / 2**30:.0f} GiB"
            told = f"{gpu.name}, {memory}, {capability}"
            obstacle = gpu.obstacle(gpus.built_for(), NEEDED_BYTES)
            if obstacle is None:
                yield Finding(f"cuda:{index}", told)
            else:
                yield Finding(f"cuda:{index}", f"{told}; {obstacle[0]}", "note", obstacle[1])
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield Finding("cuda bf16", "native" if bf16 else "none", "ok" if bf16 else "note")
        yield Finding("cuda fp32", "TF32 is off in training and in measurements")
    else:
        built = torch.version.cuda
        yield Finding(
            "cuda",
            f"no device (torch built for CUDA {built})" if built else "torch built without CUDA",
            "note",
            "everything runs on the CPU; with a GPU, install its driver and a CUDA build of torch",
        )
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("c++ compiler", compiler)
    else:
        yield Finding("c++ compiler", "–", "note", "install g++ to use --mode compile on the CPU")


def _storage() -> Iterator[Finding]:
    yield Finding("sqlite", sqlite3.sqlite_version)
    here = Path.cwd()
    free = f"{shutil.disk_usage(here).free / 2**30:.1f} GiB free"
    if os.access(here, os.W_OK):
        yield Finding("working directory", f"writable, {free}")
    else:
        yield Finding(
            "working directory", f"read-only, {free}", "note", "search with --out DIR elsewhere"
        )
