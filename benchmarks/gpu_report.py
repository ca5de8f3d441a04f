"""What benchmarks/gpu.py has measured so far: rows, each written as soon as it is known."""

from __future__ import annotations

import gc
import json
import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")
RATES = ("clips_per_s", "captions_per_s", "pairs_per_s")
COMPARED = ("step", "decode", "rerank", "score")
"""Works that have a plain way."""
TRACEBACK = 30
"""Lines that are kept of one."""


class TimeLimitError(BaseException):
    """The time given is used up. No Exception, which torch's compiler would take for one of its own."""


class Report:
    """What was measured so far, written after every row."""

    def __init__(self, out: Path, limit_s: float, facts: dict[str, Any]) -> None:
        self.out, self.end = out, time.monotonic() + limit_s
        self.content: dict[str, Any] = {**facts, "rows": [], "left_out": []}

    def run(self, row: dict[str, Any], work: Callable[[], dict[str, Any]], device: torch.device) -> bool:
        """Do ``work`` and add what it found to ``row``; False where it failed or there was no time left for it."""
        if time.monotonic() > self.end:
            self.content["left_out"].append(row)
            self.write()
            return False
        began = time.monotonic()
        try:
            with self._alarm():
                row |= work()
        except (torch.OutOfMemoryError, MemoryError):
            row["error"] = "out of memory"
        except (Exception, TimeLimitError) as error:  # a row that fails must not take the others with it
            log.error("%s", row, exc_info=error)
            row["traceback"] = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK:]
            first = str(error).partition("\n")[0]
            # cuBLAS needs memory, too, and says so in words of its own.
            row["error"] = "out of memory" if "ALLOC_FAILED" in first else f"{type(error).__name__}: {first}"
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        row["spent_s"] = round(time.monotonic() - began, 2)
        self.content["rows"].append(row)
        self.write()
        log.info("%s", "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
        return "error" not in row

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Stop what runs when the time is used up."""

        def ring(*_: Any) -> None:
            raise TimeLimitError("stopped at the time limit")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.end - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def write(self) -> None:
        """Replace the file by what is known now."""
        self.content["ratio_to_plain"] = ratios(self.content["rows"])
        write_atomically(self.out, json.dumps(self.content, indent=1) + "\n")


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The best rate of ours over the best of the plain way, of each work."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        rate = next((row[key] for key in RATES if key in row), 0.0)
        if "way" in row:
            best[row["work"], row["way"]] = max(rate, best.get((row["work"], row["way"]), 0.0))
    return {name: best[name, "ours"] / best[name, "plain"] for name in COMPARED if best.get((name, "plain")) and (name, "ours") in best}
