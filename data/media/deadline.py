"""A bound on the time that a file may take. A decoder stuck in a file cannot be stopped from outside, but it can be left behind."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

SECONDS_PER_CLIP = 300.0

Result = TypeVar("Result")


class DeadlineError(TimeoutError):
    """A call that did not return in time."""


def within(seconds: float, function: Callable[..., Result], *args: Any) -> Result:
    """``function(*args)``, run in the caller's reading thread. What it raises is raised here.

    Raises DeadlineError when it takes longer than ``seconds``. It is then abandoned in its thread (a daemon, which does not keep the
    process from ending), and the next call gets a new thread.
    """
    process, thread = getattr(_caller, "reading", (None, None))
    if thread is None or process != os.getpid():  # a forked process has none of its parent's threads
        thread = _ReadingThread()
        _caller.reading = os.getpid(), thread
    thread.calls.put((function, args))
    try:
        value, error = thread.results.get(timeout=seconds)
    except BaseException as stopped:  # an interruption too leaves a call behind whose result nobody takes
        thread.calls.put(None)
        del _caller.reading
        if isinstance(stopped, queue.Empty):
            raise DeadlineError(f"not done within {seconds:g} s") from None
        raise
    if error is not None:
        raise error
    return value


class _ReadingThread(threading.Thread):
    """Runs one call after the other."""

    def __init__(self) -> None:
        super().__init__(name="reading", daemon=True)
        self.calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (call := self.calls.get()) is not None:
            function, args = call
            try:
                self.results.put((function(*args), None))
            except BaseException as error:
                self.results.put((None, error))
            del call, function, args


_caller = threading.local()
"""Of each calling thread: ``reading``, the process and the thread that reads for it. Two callers of one would get each other's results."""
