"""Being asked to stop: the step is finished and saved first.

Exit codes: 143 after SIGTERM, 130 after SIGINT (Ctrl-C), 138 after SIGUSR1 (pre-emption): 128 + the signal's number, as shells do.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger("omnivast")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
PATIENCE = 20.0
"""Seconds for which a batch is still waited for once the run was asked to stop; then it ends as it was last saved."""
IMPATIENCE = 2.0
"""Seconds after which another Ctrl-C aborts at once; sooner ones are the launcher passing on the first."""


class StopSignals:
    """Within ``with``, the signals are noted in ``number`` instead of ending the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.noted_at = 0.0
        self.at_once = False
        self.waiting_since: float | None = None
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._lose_patience)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def immediately(self) -> Iterator[None]:
        """Inside this context a signal ends the process at once, and so does one that was noted shortly before: everything is saved."""
        self.at_once = True
        try:
            if self.number is not None:
                raise SystemExit(128 + self.number)
            yield
        finally:
            self.at_once = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside this context the process waits for something that may never come. A step that does not get its data is not finished: a
        signal then ends the process."""
        self.waiting_since = time.monotonic()
        try:
            yield
        finally:
            self.waiting_since = None

    def _lose_patience(self, number: int, frame: FrameType | None) -> None:
        """Called again and again once a signal was noted."""
        since = self.waiting_since
        if self.number is not None and since is not None and time.monotonic() - max(since, self.noted_at) >= 0.9 * PATIENCE:
            logger.error("stopped by %s while no batch came; continue from the last checkpoint with --resume true",
                         signal.Signals(self.number).name)
            # Not sys.exit, which waits for the processes that read the data: one of them hangs.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            # A process forked with this handler: SIGTERM is its parent's word to end, what a whole group gets is its parent's to answer.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.at_once:
            raise SystemExit(128 + number)
        if self.number is None:
            self.number, self.noted_at = number, time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        elif number == signal.SIGINT and time.monotonic() - self.noted_at > IMPATIENCE:
            raise KeyboardInterrupt
