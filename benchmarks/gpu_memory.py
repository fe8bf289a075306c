"""Peak memory, predicted and as CUDA's allocator saw it: published variants, then random ones.

fp32, inference and both kinds of training, as ``memory.py`` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator

import memory
import torch
from gpu_bench import Bench, Row

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.space import SearchSpace
from sret_nas.space.bundled import bundled

KINDS = ("inference", "training", "checkpointed training")
BATCHES = (1, 64)
RANDOM = 2
"""Architectures of each bundled space."""


def rows(bench: Bench) -> Iterator[Row]:
    variants = list(zoo.PUBLISHED)[:1] if bench.reduced else list(zoo.PUBLISHED)
    archs = {name: bench.arch(name) for name in variants}
    if not bench.reduced:
        for space in bundled():
            drawn = SearchSpace.load(space).sample(RANDOM, seed=0)
            archs |= {f"{space} {arch.id}": arch for arch in drawn}
    for name, arch in archs.items():
        for batch in (1, 2) if bench.reduced else BATCHES:
            yield from of(bench, name, arch, batch)


def of(bench: Bench, name: str, arch: Architecture, batch: int) -> Iterator[Row]:
    """One architecture at one batch size: a row for each kind."""
    row: Row = {"what": name, "published": name in zoo.PUBLISHED, "batch": batch}
    try:
        found = memory.measure(arch, batch, bench.place.type)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        yield row | {"failed": str(error).splitlines()[0]}
        return
    finally:
        if bench.cuda:
            torch.cuda.empty_cache()
    for kind, one in found.items():
        yield row | {"kind": kind} | one
