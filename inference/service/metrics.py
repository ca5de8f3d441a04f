"""Counts and times of requests, as Prometheus reads them."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""


class Metrics:
    """Used from the event loop alone."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def note(self, route: str, status: int, seconds: float) -> None:
        """A request that has been answered."""
        self._requests[route, status] += 1
        self._times.setdefault(route, [0] * (len(EDGES) + 1))[bisect_left(EDGES, seconds)] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]  # a Counter adds any numbers

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """The page that Prometheus fetches. ``gauges``: name → (what it is, value)."""
        lines = ["# HELP omnivast_requests_total Requests answered.", "# TYPE omnivast_requests_total counter"]
        lines += [f'omnivast_requests_total{{route="{route}",status="{status}"}} {count}'
                  for (route, status), count in sorted(self._requests.items())]
        lines += ["# HELP omnivast_request_seconds Time from a request to its answer.", "# TYPE omnivast_request_seconds histogram"]
        for route, counts in sorted(self._times.items()):
            below = 0
            for edge, count in zip((*map(str, EDGES), "+Inf"), counts):
                below += count
                lines.append(f'omnivast_request_seconds_bucket{{route="{route}",le="{edge}"}} {below}')
            lines += [f'omnivast_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}',
                      f'omnivast_request_seconds_count{{route="{route}"}} {below}']
        for name, (help_text, value) in {**gauges, **_process()}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _process() -> dict[str, tuple[str, float]]:
    """Memory and open files, where the system tells."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return {"process_resident_memory_bytes": ("Memory in use.", pages * os.sysconf("SC_PAGE_SIZE")),
                "process_open_fds": ("Open files.", len(os.listdir("/proc/self/fd")))}
    except OSError:  # not Linux
        return {}
