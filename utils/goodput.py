"""Goodput: the share of the time since a training was first started in which it trained, in steps that it did not lose again.

Rows, in the order in which they were written: {"event": "start" | "ready" | "save" | "evaluation" | "end", "time" (seconds since 1970),
"step", "seconds" (that a save or an evaluation took), "trained" (seconds of all steps up to "step")}. A run that is killed writes nothing;
its next "start" follows the last row that it wrote.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omnivast.utils.log import duration

PARTS = ("trained", "starting", "saving", "evaluating", "lost")


def goodput(rows: Iterable[Mapping[str, Any]]) -> dict[str, float] | None:
    """Seconds by ``PARTS``, their sum "wall", "starts", and "goodput", a share; None where the rows tell nothing.

    starting: from a program's start until its first step. lost: what is left: steps that were done again, and waits for another start.
    """
    first = last = began = None
    found = dict.fromkeys(PARTS, 0.0)
    starts = 0
    for row in rows:
        event, at = row.get("event"), row.get("time")
        if not isinstance(at, (int, float)):
            continue
        first, last = (at if first is None else first), at
        if event == "start":
            starts, began = starts + 1, at
        elif event == "ready" and began is not None:
            found["starting"], began = found["starting"] + at - began, None
        elif event in ("save", "evaluation"):
            found["saving" if event == "save" else "evaluating"] += float(row.get("seconds", 0.0))
        if isinstance(row.get("trained"), (int, float)):
            found["trained"] = float(row["trained"])
    if first is None or last is None or last <= first:
        return None
    wall = last - first
    found["lost"] = max(0.0, wall - sum(found[part] for part in PARTS[:-1]))
    return {**found, "wall": wall, "starts": starts, "goodput": min(1.0, found["trained"] / wall)}


def in_words(found: Mapping[str, float]) -> str:
    """``goodput 91.2 %: of 10:00:00 since the first of 2 starts 9:07:12 were training, …``"""
    names = {"starting": "starting", "saving": "saving", "evaluating": "evaluating", "lost": "lost to interruptions"}
    rest = ", ".join(f"{duration(found[part])} {words}" for part, words in names.items() if found[part] >= 0.5)
    starts = f"the first of {found['starts']:.0f} starts" if found["starts"] > 1 else "the start"
    whole, trained = duration(found["wall"]), duration(found["trained"])
    return f"goodput {100 * found['goodput']:.1f} %: of {whole} since {starts} {trained} were training" + (f"; {rest}" if rest else "")


def process_age() -> float:
    """Seconds since this process began; 0 where that is not told (other systems than Linux)."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    return 0.0
