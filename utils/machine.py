"""What the machine gives to this process."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The file in which Linux limits the CPU time of a container: a number of microseconds (or "max") per period of microseconds."""

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The file in which it limits the memory of a container, in bytes (or "max")."""


HALF_TFLOPS = {"H100 PCIe": 756.5, "H100 NVL": 835.5, "H200 NVL": 835.5, "H200": 989.4, "H100": 989.4, "A100": 311.9, "V100": 125.0,
               "T4": 65.0}
"""Dense rate of a card (NVIDIA's data sheets) in the precision that auto takes, bf16, or fp16 up to T4, by a part of its name, the first
that fits; without a form it is SXM's."""


def half_tflops(name: str) -> float | None:
    """The rate that a card of this name is sold with, in TFLOP/s of 16-bit products; None for one that is not known."""
    return next((rate for part, rate in HALF_TFLOPS.items() if part in name), None)


def cores() -> int:
    """Processor cores that this process may use. Under a job scheduler or in a container they are fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no quota: "max 100000"
        return allowed


def memory() -> int:
    """Bytes of memory that the machine, or the container around this process, has."""
    limits = []
    with suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no container, or one without a limit: "max"
        limits.append(int(MEMORY_LIMIT.read_text()))
    return min(limits, default=1 << 33)


def free_memory() -> int:
    """Bytes of memory that the machine, or the container around this process, has left."""
    limits = []
    with suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError, KeyError):
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"]) - int(stat["active_file"])
        limits.append(int((group / "memory.max").read_text()) - used)
    return max(0, min(limits, default=memory()))
