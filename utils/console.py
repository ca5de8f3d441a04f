"""Standard output whose reader may leave early, as in ``… | head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 128 + 13
"""Exit status of a program whose output nobody reads any more: that of SIGPIPE in a shell."""


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Inside this context, writing output that nobody reads any more ends the program with ``EXIT_STATUS`` and without a traceback."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be tried again, and told of, at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_STATUS) from None
