"""Being asked to stop: the step is finished and saved first.

Exit codes: 143 after SIGTERM, 130 after SIGINT (Ctrl-C), 138 after SIGUSR1 (pre-emption): 128 + the signal's number, as shells do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
IMPATIENCE = 2.0
"""Seconds after which another Ctrl-C aborts at once; sooner ones are the launcher passing on the first."""


class StopSignals:
    """Within ``with``, the signals are noted in ``number`` instead of ending the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.noted_at = 0.0
        self.at_once = False
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def immediately(self) -> Iterator[None]:
        """Within, a signal ends the process without delay, as does one noted shortly before: everything is saved."""
        self.at_once = True
        try:
            if self.number is not None:
                raise SystemExit(128 + self.number)
            yield
        finally:
            self.at_once = False

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
        elif number == signal.SIGINT and time.monotonic() - self.noted_at > IMPATIENCE:
            raise KeyboardInterrupt
