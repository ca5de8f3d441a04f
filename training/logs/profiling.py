"""``run_cfg.profile``: a trace of some steps, which Perfetto (ui.perfetto.dev) or chrome://tracing opens, and what it says in short."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from omnivast.utils import distributed
from omnivast.utils.files import write_atomically

logger = logging.getLogger("omnivast")
Interval = tuple[float, float]
"""Begin and end in microseconds."""
TOP = 25


def steps_of(text: str | None) -> range:
    """``"20-25"`` → steps 20 to 25, ``"20"`` → step 20, None → none. Raises ValueError for anything else."""
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last:
        raise ValueError(f"run_cfg.profile '{text}': expected the steps to profile, counted from 1: 20-25, or 20")
    return range(first, last + 1)


class StepProfiler:
    """Profiles some steps of a training, each process its own, into ``log/profile/``. Every other step costs nothing."""

    def __init__(self, steps: range, folder: Path, device: torch.device) -> None:
        self.steps, self.folder, self.device = steps, folder / "log" / "profile", device
        self.profiler: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Inside, step ``number`` is done. A profile that an error or a signal breaks off is written as far as it went."""
        if number not in self.steps:
            yield
            return
        try:
            if self.profiler is None:
                self.profiler = profile_of(self.device)
                self.profiler.start()
            with torch.profiler.record_function(f"step {number}"):
                yield
        except BaseException:
            self._end(number)
            raise
        if number == self.steps[-1]:
            self._end(number)

    def close(self, last: int) -> None:
        """The training is over after step ``last``, perhaps within the steps to profile."""
        if self.profiler is not None:
            self._end(last)

    def _end(self, last: int) -> None:
        """A disk that refuses it costs the profile, not the training."""
        profiler, self.profiler = self.profiler, None
        if profiler is None:
            return
        wait_for(self.device)
        profiler.stop()
        trace = self.folder / f"rank_{distributed.rank()}.json.gz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            write_atomically(trace.with_name(f"rank_{distributed.rank()}.txt"), table_of(profiler, self.device))
        except (OSError, RuntimeError) as error:
            logger.warning("the profile could not be written: %s", error)
            return
        found = summary(profiler, self.device)
        gaps = "" if found["gap_share"] is None else f"; between its kernels the GPU stood still for {100 * found['gap_share']:.1f} %"
        logger.info("steps up to %d are profiled: %s (open it in ui.perfetto.dev)%s", last, trace, gaps)


def profile_of(device: torch.device) -> Any:
    """torch's profiler for what runs on ``device`` and on the host."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds)


def wait_for(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table_of(profiler: Any, device: torch.device) -> str:
    """torch's table of operations, those that take most first."""
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=100)


def summary(profiler: Any, device: torch.device) -> dict[str, Any]:
    """Where the time went.

    Returns:
        "kernels": the ``TOP`` that took most, each with "name", "ms", "calls" and its "share" of all; of a CPU its operations.
        "busy_ms", "window_ms", "gap_share", "gaps": of a GPU from its first kernel to its last: how long any ran, how long it took, the
        share in which none ran, and the longest such gaps (ms, and the kernel that followed); None, and no gaps, on a CPU.
    """
    events = [event for event in profiler.events() if _computes(event, device)]
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        times[event.name].append(event.self_cpu_time_total if device.type == "cpu" else event.time_range.elapsed_us())
    whole = sum(map(sum, times.values())) or 1.0
    kernels = [{"name": name[:160], "ms": sum(own) / 1e3, "calls": len(own), "share": sum(own) / whole}
               for name, own in sorted(times.items(), key=lambda item: -sum(item[1]))[:TOP]]
    found: dict[str, Any] = {"kernels": kernels, "gap_share": None, "gaps": []}
    if device.type == "cpu" or not events:
        return found
    named = [(event.time_range.start, event.time_range.end, event.name) for event in events]
    busy, gaps = idle([(start, end) for start, end, _ in named])
    window = max(end for _, end, _ in named) - min(start for start, _, _ in named)
    begun = {start: name for start, _, name in named}
    longest = sorted(gaps, key=lambda gap: gap[0] - gap[1])[:10]
    return {**found, "busy_ms": busy / 1e3, "window_ms": window / 1e3, "gap_share": 1 - busy / window if window else 0.0,
            "gaps": [{"ms": (end - start) / 1e3, "before": begun[end][:100]} for start, end in longest]}


def _computes(event: Any, device: torch.device) -> bool:
    """Whether the event is a kernel or a copy on the device (not a mark around several), or an operation of the CPU."""
    on_gpu = event.device_type != torch.autograd.DeviceType.CPU
    return on_gpu == (device.type == "cuda") and not getattr(event, "is_user_annotation", False)


def idle(intervals: Iterable[Interval]) -> tuple[float, list[Interval]]:
    """The time that the intervals cover together, and the gaps between them."""
    covered, gaps, until = 0.0, list[Interval](), None
    ordered: Sequence[Interval] = sorted(intervals)
    for start, end in ordered:
        if until is None or start > until:
            if until is not None:
                gaps.append((until, start))
            covered, until = covered + end - start, end
        elif end > until:
            covered, until = covered + end - until, end
    return covered, gaps
