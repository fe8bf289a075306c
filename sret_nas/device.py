"""Which device, and why; in words: its name, what it can compute in, and its fingerprint.

torch is imported on first use.
"""

from __future__ import annotations

import csv
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sret_nas import gpus
from sret_nas.errors import UsageError

if TYPE_CHECKING:
    import torch

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
AUTO = "auto"
"""The first GPU that can be used, else the CPU."""
NEEDED_BYTES = 2**30
"""Free memory below which a GPU counts as full: CUDA's own needs and a small batch, estimated."""
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Fingerprint:
    """What a measurement depends on, beside the model.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        name: The processor's or the GPU's name.
        cores: Processor cores that this process may use.
        threads: Threads of torch on the CPU.
        torch: Version of torch.
        driver: Version of the GPU's driver; ``None`` on a CPU or where unknown.
        clock_mhz: Clock as found (GPU: of its SMs); ``None`` where unknown.
        clock_max_mhz: The highest clock of it; ``None`` where unknown.
    """

    device: str
    name: str
    cores: int
    threads: int
    torch: str
    driver: str | None = None
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits: the same device, software and threads.

        Clocks are left out: they change from one second to the next. So are a GPU's number,
        which is no property of it, and what of the processor this process may use.
        """
        lasting: tuple[object, ...] = (
            self.device,
            self.name,
            self.cores,
            self.threads,
            self.torch,
            self.driver,
        )
        if self.device != "cpu":
            lasting = ("cuda", self.name, self.torch, self.driver)
        return hashlib.sha256(repr(lasting).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        clock = f", {self.clock_mhz} MHz" if self.clock_mhz else ""
        driver = f", driver {self.driver}" if self.driver else ""
        threads = f", {self.threads} of {self.cores} cores" if self.device == "cpu" else ""
        return f"{self.name}{threads}{clock}{driver}, torch {self.torch}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the key."""
        return asdict(self) | {"key": self.key}


@dataclass(frozen=True)
class Choice:
    """The device that was chosen, and why.

    Attributes:
        name: ``cpu``, ``cuda:N``, or ``cuda`` for all GPUs in turn.
        reason: Why that one; with what to do where a GPU cannot be used.
        gpu: The model of a GPU.
    """

    name: str
    reason: str
    gpu: str | None = None

    def __str__(self) -> str:
        return f"{self.name}{f' ({self.gpu})' if self.gpu else ''}, {self.reason}"


def choose(device: str = AUTO, *, spread: bool = False, needed_bytes: int = NEEDED_BYTES) -> Choice:
    """Choose a device that can be used: the first GPU that can, else the CPU.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``.
        spread: Whether ``cuda`` means all GPUs in turn.
        needed_bytes: Free memory that the work needs of a GPU.

    Raises:
        UsageError: there is no such device here, or it cannot be used; with the next step.
    """
    if device == "cpu":
        return Choice("cpu", "as asked")
    number, why_none = gpus.seen()
    if device == AUTO:
        passed_over = ""
        for index in range(number):
            gpu = gpus.look(index)
            obstacle = gpu.obstacle(gpus.built_for(), needed_bytes)
            if obstacle is None:
                first = "the first GPU that can be used" if index else "the first GPU"
                return Choice(f"cuda:{index}", first + passed_over, gpu.name)
            passed_over += f"; cuda:{index}: {obstacle[0]} ({obstacle[1]})"
        return Choice("cpu", "no GPU can be used" + passed_over if number else why_none)
    names = _names(number)
    _refuse_unknown(device, names)
    everywhere = device == "cuda" and spread
    asked = range(number) if everywhere else [names.index(_plain(device)) - 1]
    for index in asked:
        gpu = gpus.look(index)
        obstacle = gpu.obstacle(gpus.built_for(), needed_bytes)
        if obstacle is not None:
            raise UsageError(
                f"cuda:{index} ({gpu.name}): {obstacle[0]}",
                f"{obstacle[1]}; or choose another device: {AUTO}, {', '.join(names)}",
            )
    if everywhere:
        which = f"all {number} GPUs in turn" if number > 1 else "the only GPU"
        return Choice("cuda", f"{which}, as asked", gpu.name)
    return Choice(_plain(device), "as asked", gpu.name)


def _names(number: int) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(number))]


def _plain(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


def _refuse_unknown(device: str, names: list[str]) -> None:
    if _plain(device) not in names:
        raise UsageError(
            f"no such device here: {device}; allowed: {AUTO}, {', '.join(names)}",
            None if len(names) > 1 else "sret-nas doctor says what torch sees of this machine",
        )


def resolve(device: str = AUTO) -> torch.device:
    """The device of that name, whether or not it has room now.

    Args:
        device: ``auto`` (as ``choose`` chooses), ``cpu``, ``cuda`` (the first GPU) or
            ``cuda:N``.

    Raises:
        UsageError: there is no such device here; with those that are.
    """
    import torch

    if device == AUTO:
        return torch.device(choose().name)
    if device != "cpu":
        _refuse_unknown(device, _names(gpus.seen()[0]))
    return torch.device(_plain(device))


def torch_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type of torch by that name, where the device has arithmetic for it.

    Args:
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: Where it is to be used.

    Raises:
        UsageError: no such type, or the device would only emulate it.
    """
    import torch

    if dtype not in _TORCH_NAMES:
        raise UsageError(f"dtype: given {dtype!r}; allowed: {', '.join(DTYPES)}")
    if not has_dtype(dtype, device):
        native = [known for known in DTYPES if has_dtype(known, device)]
        raise UsageError(
            f"{device} has no {dtype} arithmetic (it would be emulated, several times slower)",
            f"here: {', '.join(native)}",
        )
    found: torch.dtype = getattr(torch, _TORCH_NAMES[dtype])
    return found


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Within, fp32 is fp32: products and convolutions on a GPU do not use TF32.

    torch's own default is TF32 for convolutions. What was set before is set again afterwards;
    it holds for the whole process.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    products: str | None = None
    # The older switches set the newer ones as well; torch's compiler reads the older.
    with suppress(RuntimeError):  # torch reads them no more once they contradict the newer ones
        products = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    backends[0].fp32_precision = "ieee"
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = "tf32" in before[1:]
        for backend, precision in zip(backends, before, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


def has_dtype(dtype: str, device: torch.device) -> bool:
    """Whether the device computes in that type, rather than through another one."""
    import torch

    if dtype == "fp32":
        return True
    if device.type == "cuda":
        with torch.cuda.device(device):
            return dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True  # nobody to ask: let torch try
    supported: bool = getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")()
    return supported


def fingerprint(device: torch.device, threads: int | None = None) -> Fingerprint:
    """Look at the device as it is now.

    Args:
        device: As ``resolve`` gives it.
        threads: Threads of torch on the CPU; default: as set.
    """
    import torch

    common: dict[str, Any] = {
        "device": str(device),
        "cores": cores(),
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if device.type == "cpu":
        now, highest = _cpu_clock_mhz()
        return Fingerprint(
            name=processor(), clock_mhz=now, clock_max_mhz=highest, driver=None, **common
        )
    properties = torch.cuda.get_device_properties(device)
    driver, now, highest = _nvidia_smi(f"GPU-{properties.uuid}")
    return Fingerprint(
        name=properties.name, driver=driver, clock_mhz=now, clock_max_mhz=highest, **common
    )


def cores() -> int:
    """Processor cores that this process may use: by affinity, and by a container's limit."""
    from joblib import cpu_count

    return int(cpu_count())


def processor() -> str:
    """The name of the processor, as the operating system tells it."""
    names = _cpuinfo("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo(field: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(field)]


def _cpu_clock_mhz() -> tuple[int | None, int | None]:
    found = [float(value) for value in _cpuinfo("cpu MHz")]
    highest = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return (
        round(sum(found) / len(found)) if found else None,
        int(highest.read_text()) // 1000 if highest.exists() else None,
    )


def _nvidia_smi(uuid: str) -> tuple[str | None, int | None, int | None]:
    """Driver, SM clock now and at most in MHz; it reads and changes nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None, None
    query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm"
    answer = subprocess.run(  # noqa: S603 (a fixed program, fixed arguments)
        [program, f"--id={uuid}", query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    rows = list(csv.reader(answer.stdout.splitlines(), skipinitialspace=True))
    if answer.returncode or not rows or len(rows[0]) != 3:
        return None, None, None
    driver, now, highest = rows[0]
    return driver, _whole(now), _whole(highest)


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def cache_folder() -> Path:
    """The user's cache folder for what was measured here.

    ``$SRET_NAS_CACHE``, else ``sret_nas`` under ``$XDG_CACHE_HOME``, else under
    ``~/.cache``.
    """
    if own := os.environ.get("SRET_NAS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sret_nas"
