"""What the machine gives to this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says what share of the cores a container may use: so many microseconds, or "max", of so many."""


def cores() -> int:
    """Processor cores that this process may use, which under a job scheduler or in a container are fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no quota: "max 100000"
        return allowed
