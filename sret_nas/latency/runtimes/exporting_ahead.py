"""Many architectures exported before they are measured: several at once, a process each.

Run as a module it exports the architectures that it reads, as a JSON list, from its input.

Requires torch, onnx and onnxruntime (``pip install "sret_nas[onnx]"``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch

from sret_nas.arch import Architecture
from sret_nas.device import cores
from sret_nas.errors import SretNasError
from sret_nas.latency.building import input_shape, module
from sret_nas.latency.runtimes.exporting import exported, kept

LEAST = 4
"""Missing files from which on processes of their own pay: each has to start torch."""
MOST = 8
"""Processes at once; each takes about 1 GB."""
LOOK_S = 0.5


def export_ahead(
    archs: Sequence[Architecture], dtype: str, progress: Callable[[str], None]
) -> None:
    """Export what is not kept yet, where that is much and there are several cores.

    What cannot be exported is left out: whoever wants it then exports it, and sees why.

    Args:
        archs: The architectures.
        dtype: ``fp32``, ``fp16`` or ``int8``.
        progress: Told how many are done.
    """
    missing = list({a.id: a for a in archs if not kept(a, dtype).is_file()}.values())
    number = min(cores(), len(missing) // 2, MOST)
    if len(missing) < LEAST or number < 2:
        return
    command = [sys.executable, "-m", __name__, dtype]
    parts = [json.dumps([one.to_dict() for one in missing[i::number]]) for i in range(number)]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=nowhere, stderr=nowhere, text=True)  # noqa: S603
        for _ in parts
    ]
    try:
        for process, part in zip(started, parts, strict=True):
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(part)
        while any(process.poll() is None for process in started):
            done = sum(kept(one, dtype).is_file() for one in missing)
            progress(f"exporting to ONNX, {number} at once: {done} of {len(missing)}")
            time.sleep(LOOK_S)
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(dtype: str, text: str) -> None:
    """Export architectures into the cache folder.

    Args:
        dtype: ``fp32``, ``fp16`` or ``int8``.
        text: A JSON list of them.
    """
    torch.set_num_threads(1)
    for given in json.loads(text):
        arch = Architecture.load(given)
        model = module(arch)
        try:
            with exported(arch, model, input_shape(model), dtype, lambda: None):
                pass
        except SretNasError:
            continue


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.read())
