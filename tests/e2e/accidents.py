"""run.py that meets with accidents: ``python -m tests.e2e.accidents FOLDER SIGNAL:RANK:STEP,… ARGUMENTS OF run.py``.

The process of RANK sends itself SIGNAL in STEP, once: a group that is started again gets past it. Its process id is then in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from omnivast.utils import distributed
from omnivast.utils.log import JsonlWriter
from omnivast.utils.watchdog import Watchdog
from tests.e2e.program import call


def prepare(folder: Path, plan: str) -> None:
    """Let the accidents of ``plan`` happen to this process."""
    begin = Watchdog.at
    accidents = [(signal.Signals[name], int(rank), int(step)) for name, rank, step in (part.split(":") for part in plan.split(","))]

    def at(self: Watchdog, step: int, phase: str, *, uneven: bool = False) -> None:
        begin(self, step, phase, uneven=uneven)
        for number, rank, when in accidents:
            note = folder / number.name
            if (rank, when, "forward and backward pass") == (distributed.rank(), step, phase) and not note.exists():
                note.write_text(str(os.getpid()))
                os.kill(os.getpid(), number)

    Watchdog.at = at  # type: ignore[method-assign]


def die_after_lines(number: int) -> None:
    """SIGKILL after so many lines of the .jsonl files that this process writes."""
    append, left = JsonlWriter.append, iter(range(number - 1))

    def counted(self: JsonlWriter, row: dict[str, Any]) -> None:
        append(self, row)
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    JsonlWriter.append = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2])
    sys.exit(call(sys.argv[3:]))
