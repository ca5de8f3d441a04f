"""How fast each process trains: throughput, share of the GPU's rate, memory, waits for data and for others; log/performance.jsonl, curves
in TensorBoard, and a line that names stragglers."""

from __future__ import annotations

import logging
import resource
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from omnivast.data.batch import Batch
from omnivast.utils import distributed
from omnivast.utils.machine import half_tflops
from omnivast.utils.precision import device_name

logger = logging.getLogger("omnivast")
SECONDS = 60.0
"""At least so many seconds lie between two reports, for which the processes exchange their figures."""
STRAGGLING = 0.1
"""A process whose own work takes this share longer than that of the median process is a straggler."""
ENOUGH = 10
"""Steps after which stragglers are warned of: a few may be slow by chance."""
CURVES = 16
"""Most processes that get curves of their own; of more, the slowest, the median and the fastest do."""


class Performance:
    """What this process did since the last report. ``flops``: a batch → FLOPs of a step with it, nothing recomputed; None: nobody knows."""

    def __init__(self, device: torch.device, flops: Callable[[Batch], float | None]) -> None:
        self.device = device
        self.rate = half_tflops(device_name(device)) if device.type == "cuda" else None
        self._flops = flops
        self._per_clip: dict[str, float | None] = {}
        self._begin()

    def _begin(self) -> None:
        self.last, self.steps = time.monotonic(), 0
        self.seconds = self.waited = self.exchanged = 0.0
        self.clips = Counter[str]()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self, batch: Batch) -> None:
        """The step under way trains on ``batch``. FLOPs are counted with the first batch of each corpus, where the GPU's rate is known."""
        self.clips[batch.corpus] += len(batch)
        if self.rate is not None and batch.corpus not in self._per_clip:
            found = self._flops(batch)
            self._per_clip[batch.corpus] = None if found is None else found / len(batch)

    def step(self, seconds: float, waited: float, exchanged: float) -> None:
        """A step is done: all its seconds, and those of them spent waiting for data and in exchanges with other processes."""
        self.steps += 1
        self.seconds, self.waited, self.exchanged = self.seconds + seconds, self.waited + waited, self.exchanged + exchanged

    def due(self) -> bool:
        """Clocks differ: rank 0's answer counts."""
        return time.monotonic() - self.last >= SECONDS

    def report(self, step: int) -> dict[str, Any] | None:
        """The line of performance.jsonl, on every rank; warns of stragglers on rank 0. None where no step was done."""
        if not self.steps:
            return None
        every = distributed.all_gather_objects(self._own())
        row = summary(step, self.steps, every, self._tflops([own["clips"] for own in every]), self.rate)
        self._begin()
        if row["stragglers"] and row["steps"] >= ENOUGH and distributed.is_main():
            logger.warning("step %d: %s", step, "; ".join(row["stragglers"]))
        return row

    def _own(self) -> dict[str, Any]:
        seconds = max(self.seconds, 1e-9)
        return {"rank": distributed.rank(), "host": socket.gethostname(), "seconds": self.seconds, "clips": dict(self.clips),
                "clips_per_second": self.clips.total() / seconds, "data_wait": self.waited / seconds,
                "exchange_wait": self.exchanged / seconds, "memory_gb": self._memory() / 1e9}

    def _tflops(self, clips: Sequence[Mapping[str, int]]) -> float | None:
        """TFLOP of these clips of every process; None where those of a corpus are not known."""
        found = [(self._per_clip.get(corpus), number) for own in clips for corpus, number in own.items()]
        if any(per_clip is None for per_clip, _ in found):
            return None
        return sum((per_clip or 0.0) * number for per_clip, number in found) / 1e12

    def _memory(self) -> int:
        """Bytes of the GPU held at most since the last report; on a CPU, of the process since it began."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def summary(step: int, steps: int, processes: Sequence[Mapping[str, Any]], tflop: float | None, rate: float | None) -> dict[str, Any]:
    """All processes together: rates of all, the share "mfu" of their GPUs' ``rate`` (TFLOP/s of each), of which they did ``tflop``, the
    "slowest" (ranks by their own work, at most 5) and, in words, those among them that hold up the others."""
    seconds = max(own["seconds"] for own in processes)
    order = sorted(processes, key=lambda own: -own_work(own))
    return {"step": step, "steps": steps, "seconds": seconds,
            "clips_per_second": sum(own["clips_per_second"] for own in processes),
            "data_wait": max(own["data_wait"] for own in processes), "memory_gb": max(own["memory_gb"] for own in processes),
            "mfu": tflop / (seconds * rate * len(processes)) if tflop and rate and seconds else None,
            "slowest": [own["rank"] for own in order[:5]], "stragglers": stragglers(processes), "processes": list(processes)}


def own_work(own: Mapping[str, Any]) -> float:
    """Seconds in which the process did not wait in an exchange for others."""
    return own["seconds"] * (1 - own["exchange_wait"])


def stragglers(processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The processes that all others wait for, in words, the slowest first. A process that waits for nobody while others wait is slow."""
    if len(processes) < 2:
        return []
    median = statistics.median_low([own_work(own) for own in processes])
    slow = [own for own in processes if own_work(own) > (1 + STRAGGLING) * median]
    found = []
    for own in sorted(slow, key=lambda own: -own_work(own)):
        more = own_work(own) - median
        data = own["data_wait"] * own["seconds"] - statistics.median(other["data_wait"] * other["seconds"] for other in processes)
        cause = "most of it waiting for its data" if data > more / 2 else "computing"
        found.append(f"rank {own['rank']} on {own['host']} takes {100 * more / median:.0f} % longer than the median process, {cause}")
    return found


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """Names of curves → values, for TensorBoard."""
    found = {f"performance/{name}": row[name] for name in ("clips_per_second", "mfu", "memory_gb", "data_wait") if row[name] is not None}
    processes = list(row["processes"])
    named = {f"rank_{own['rank']}": own for own in processes}
    if len(processes) > CURVES:
        order = sorted(processes, key=own_work)
        named = {"fastest": order[0], "median": order[len(order) // 2], "slowest": order[-1]}
    for name, own in named.items() if len(processes) > 1 else ():
        for key in ("data_wait", "exchange_wait", "memory_gb", "clips_per_second"):
            found[f"processes_{key}/{name}"] = own[key]
    return found
