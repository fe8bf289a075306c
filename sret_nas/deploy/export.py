"""From a model to a file of another runtime that has run there on real images.

Shapes: N images, C channels, S side, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sret_nas import files
from sret_nas.deploy.choosing import Candidate, choose
from sret_nas.deploy.comparing import Comparison, accuracy, compare, latencies, logits
from sret_nas.deploy.exported import Exported, Side
from sret_nas.deploy.exporting import EXPORTERS, Exporter, NotHere, Runner, Wanted
from sret_nas.deploy.opening import Opened
from sret_nas.deploy.sample import Sample
from sret_nas.errors import SretNasError, UsageError
from sret_nas.latency.timing import Summary
from sret_nas.model.frozen import resized
from sret_nas.model.onnx import root
from sret_nas.training.failures import is_out_of_memory

CALIBRATION = 128
"""Training images that static int8 is calibrated on."""
Tell = Callable[[str], None]


def find_exporter(to: str) -> Exporter:
    """The exporter of a name, with its packages.

    Raises:
        UsageError: no such name, or a package is missing.
    """
    if to not in EXPORTERS:
        raise UsageError(f"--to: given '{to}'; allowed: {', '.join(EXPORTERS)}")
    EXPORTERS[to].prepare()
    return EXPORTERS[to]


def check(exporter: Exporter, opened: Opened, wanted: Wanted, int8: bool) -> nn.Module:
    """The module that is exported.

    Raises:
        UsageError: the options do not go together, or the model is an ONNX file already.
    """
    if opened.module is None:
        raise UsageError(
            f"{opened.name}: an ONNX file is exported already; allowed: a folder, a checkpoint "
            "or a timm model",
            "export the model it was made of",
        )
    if wanted.dtype not in exporter.dtypes:
        raise UsageError(f"--{wanted.dtype} with --to {exporter.name}: not offered")
    if int8 and not exporter.int8:
        can = " or ".join(name for name, one in EXPORTERS.items() if one.int8)
        raise UsageError(f"--int8 with --to {exporter.name}: not offered; allowed: with {can}")
    if int8 and wanted.dtype != "fp32":
        raise UsageError("given --int8 and --fp16; allowed: one of the two")
    if wanted.opset is not None and exporter.name != "onnx":
        raise UsageError(f"--opset with --to {exporter.name}; allowed: with --to onnx")
    return opened.module


def export(
    opened: Opened,
    exporter: Exporter,
    out: Path,
    sample: Sample,
    wanted: Wanted,
    *,
    int8: bool = False,
    threads: int | None = None,
    tell: Tell = lambda _: None,
) -> Exported:
    """Write a file, run it in its own runtime, and keep it if it computes what PyTorch does.

    Args:
        opened: The model.
        exporter: The kind of file.
        out: The file; written whole or not at all.
        sample: Images to run it on.
        wanted: What it shall be like.
        int8: Try every way to int8, and take the one that loses least.
        threads: Threads to compute with; by default those of PyTorch.
        tell: Told of the progress.

    Raises:
        UsageError: the options do not go together.
        SretNasError: the file does not run, or computes something else; it is not kept.
        OSError: it cannot be written.
    """
    module = check(exporter, opened, wanted, int8)
    if wanted.batch is None and not exporter.free_batch:
        wanted = replace(wanted, batch=1)
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder; allowed: a file", "remove it, or name another")
    threads = threads or torch.get_num_threads()
    torch_run = _torch_runner(resized(module, wanted.side))
    tell("asking PyTorch")
    try:
        wanted_NK = logits(torch_run, sample.images)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"{opened.name}: takes no images of {wanted.side} px: {root(error)}", "another --size"
        ) from error
    made = _Making(exporter, module, sample, wanted, wanted_NK, threads, tell)
    with files.whole(out) as draft, tempfile.TemporaryDirectory(prefix="sret-nas-") as scratch:
        if int8:
            return made.in_int8(draft, out, torch_run, Path(scratch))
        return made.in_float(draft, out, torch_run, Path(scratch))


@dataclass(frozen=True)
class _Making:
    """What both ways to a file have in common."""

    exporter: Exporter
    module: nn.Module
    sample: Sample
    wanted: Wanted
    truth: Tensor
    threads: int
    tell: Tell

    @property
    def one_batch(self) -> Tensor:
        return self.sample.images[: self.wanted.batch or 1]

    def in_float(self, draft: Path, out: Path, torch_run: Runner, scratch: Path) -> Exported:
        """A file in float32 or half precision."""
        exporter, dtype = self.exporter, self.wanted.dtype
        self._write(draft, self.wanted)
        runners = {"torch": torch_run}
        comparison, not_run, run = None, None, None
        try:
            run = exporter.runner(draft, self.wanted, self.threads)
        except NotHere as reason:
            not_run = str(reason)
        except Exception as error:  # of a runtime that is not ours
            raise SretNasError(f"the file does not load: {root(error)}; it is not kept") from error
        size = _bytes(draft)
        if run is not None:
            comparison = self._compared(run)
            self._hold(comparison, exporter.tolerance[dtype], dtype)
            runners["after"] = run
        before = Side(f"torch {torch.__version__}", "fp32", self._torch_top1(), None)
        if dtype != "fp32" and run is not None:
            plain = scratch / f"plain{exporter.suffix}"
            self._write(plain, replace(self.wanted, dtype="fp32"))
            runners["before"] = exporter.runner(plain, self.wanted, self.threads)
            found = self._compared(runners["before"])
            before = Side(exporter.runtime, "fp32", found.top1, _bytes(plain))
        self.tell("timing")
        ms = latencies(runners, self.one_batch, self.threads)
        return self._exported(
            out,
            comparison,
            not_run,
            before.timed(ms.get("before", ms["torch"])),
            Side(
                exporter.runtime, dtype, None if comparison is None else comparison.top1, size
            ).timed(ms.get("after")),
        )

    def in_int8(self, draft: Path, out: Path, torch_run: Runner, scratch: Path) -> Exported:
        """The file in int8 that loses least."""
        exporter = self.exporter
        plain = scratch / f"plain{exporter.suffix}"
        self._write(plain, self.wanted)
        runners = {"before": exporter.runner(plain, self.wanted, self.threads)}
        found = self._compared(runners["before"])
        self._hold(found, exporter.tolerance["fp32"], "fp32")
        base = Side(exporter.runtime, "fp32", found.top1, _bytes(plain))
        tried: list[Candidate] = []
        ways = exporter.quantised(self.module, plain, self.wanted, self.sample.calibration, scratch)
        for name, path in ways:
            self.tell(f"int8 {name}: running")
            candidate, run = self._tried(name, path, found)
            tried.append(candidate)
            if run is not None:
                runners[name] = run
        self.tell("timing")
        ms = latencies(runners, self.one_batch, self.threads)
        tried = [_timed(one, ms.get(one.name)) for one in tried]
        best = choose(tried)
        assert best.path is not None
        draft.write_bytes(best.path.read_bytes())
        return self._exported(
            out,
            Comparison(best.difference, found.scale, best.equal_predictions, best.top1),
            None,
            base.timed(ms["before"]),
            Side(exporter.runtime, "int8", best.top1, best.size_bytes).timed(ms[best.name]),
            best.name,
            tuple(tried),
        )

    def _write(self, path: Path, wanted: Wanted) -> None:
        self.tell(f"writing {self.exporter.name}, {wanted.dtype}, {wanted.side} px")
        self.exporter.write(self.module, path, wanted)

    def _compared(self, run: Runner) -> Comparison:
        self.tell(f"running the file in {self.exporter.runtime}")
        try:
            found_NK = logits(run, self.sample.images)
        except Exception as error:  # of a runtime that is not ours
            raise SretNasError(f"the file does not run: {root(error)}; it is not kept") from error
        return compare(found_NK, self.truth, self.sample.labels)

    def _hold(self, found: Comparison, tolerance: float, dtype: str) -> None:
        if found.difference > tolerance * max(1.0, found.scale):
            raise SretNasError(
                f"the file computes something else: logits differ by up to {found.difference:.3g} "
                f"of {found.scale:.3g}; allowed in {dtype}: {tolerance:.0e} of it; it is not kept",
                "without --fp16 it is exact" if dtype == "fp16" else None,
            )

    def _tried(
        self, name: str, path: Path | Exception, plain: Comparison
    ) -> tuple[Candidate, Runner | None]:
        if isinstance(path, UsageError):
            raise path
        if isinstance(path, Exception):
            return Candidate(name, error=root(path)), None
        try:
            run = self.exporter.runner(path, self.wanted, self.threads)
            found = self._compared(run)
        except Exception as error:  # one way that fails is no reason against the others
            return Candidate(name, error=root(error)), None
        if found.top1 is not None and plain.top1 is not None:
            loss = plain.top1 - found.top1
        else:
            loss = 1 - found.equal_predictions
        return Candidate(
            name,
            path,
            _bytes(path),
            found.difference,
            found.equal_predictions,
            found.top1,
            loss,
        ), run

    def _torch_top1(self) -> float | None:
        return accuracy(self.truth, self.sample.labels)

    def _exported(
        self,
        out: Path,
        comparison: Comparison | None,
        not_run: str | None,
        before: Side,
        after: Side,
        chosen: str | None = None,
        candidates: tuple[Candidate, ...] = (),
    ) -> Exported:
        return Exported(
            out,
            self.exporter.name,
            self.wanted,
            len(self.truth),
            comparison,
            not_run,
            before,
            after,
            chosen,
            candidates,
            self.threads,
        )


def _timed(candidate: Candidate, found: Summary | None) -> Candidate:
    if candidate.error is not None:
        return candidate
    if found is None:
        return replace(candidate, error="fails as it is timed")
    return replace(candidate, latency_ms=1e3 * found.median_s)


def _torch_runner(module: nn.Module) -> Runner:
    def run(x_BCSS: Tensor) -> Tensor:
        with torch.inference_mode():
            logits_BK: Tensor = module(x_BCSS)
        return logits_BK

    return run


def _bytes(path: Path) -> int:
    """Of a file, of a folder of files, or of a file and what lies beside it of the same stem."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path
    return sum(one.stat().st_size for one in {path, beside} if one.exists())
