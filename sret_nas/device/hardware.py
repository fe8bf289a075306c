"""What a device is: its name, cores, driver and clocks, and the fingerprint of all that.

torch is imported on first use.
"""

from __future__ import annotations

import csv
import hashlib
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
        runtime: Name and version of what ran the model; ``None`` for torch itself.
    """

    device: str
    name: str
    cores: int
    threads: int
    torch: str
    driver: str | None = None
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None
    runtime: str | None = None

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
        if self.runtime:
            lasting += (self.runtime,)
        return hashlib.sha256(repr(lasting).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        clock = f", {self.clock_mhz} MHz" if self.clock_mhz else ""
        driver = f", driver {self.driver}" if self.driver else ""
        threads = f", {self.threads} of {self.cores} cores" if self.device == "cpu" else ""
        runtime = f", {self.runtime}" if self.runtime else ""
        return f"{self.name}{threads}{clock}{driver}, torch {self.torch}{runtime}"

    def to_dict(self) -> dict[str, Any]:
        """All attributes and the key, as plain data for JSON."""
        return asdict(self) | {"key": self.key}


def fingerprint(
    device: torch.device, threads: int | None = None, runtime: str | None = None
) -> Fingerprint:
    """Look at a device as it is now.

    Args:
        device: The device, as ``resolve`` gives it.
        threads: Threads of torch on the CPU; default: as torch has them.
        runtime: Name and version of what runs the model; ``None`` for torch itself.
    """
    import torch

    common: dict[str, Any] = {
        "device": str(device),
        "cores": cores(),
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "runtime": runtime,
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
