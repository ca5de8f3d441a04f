"""What the system allows the processes that read the data, and what is said when it is not enough or when one of them dies."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SPARE_FILES = 8
"""Files that a process opens at once at most, to read a clip or to receive a batch."""
FILES_PER_WORKER, LOCKS, LOCKS_PER_WORKER = 3, 8, 3
"""What torch's queues and events take of a process that starts workers; a lock is a page of /dev/shm."""


class LoaderError(RuntimeError):
    """Worker processes ended without saying why."""


class LimitError(LoaderError):
    """The system does not allow what reading the data takes; another start would end the same way."""


@contextmanager
def workers_explained() -> Iterator[None]:
    """While this context is active, a worker that dies raises LoaderError. torch reports its death by a signal, which can interrupt any
    line of code."""
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):
            raise died(error) from error
        if str(error).startswith("Too many open files"):
            raise no_more_files() from error
        raise


@contextmanager
def check_start(workers: int, context: Any) -> Iterator[None]:
    """Worker processes are started within this context. Raises LimitError where the system does not allow it, before the first one
    starts if that can be known: a loader that fails half-way raises again when it is dropped. ``context``: the start method, one of
    multiprocessing's."""
    try:
        if out_of_files(FILES_PER_WORKER * workers):
            raise no_more_files()
        [context.Lock() for _ in range(LOCKS + LOCKS_PER_WORKER * workers)].clear()
        yield
    except OSError as error:
        raise _cannot_start(error) from error


def died(error: Exception) -> LoaderError:
    """What is said of a process that ended."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return LoaderError(f"a process that reads the data ended unexpectedly ({first}). Most often the machine ran out of memory: lower "
                       "n_workers or batch_size, or set n_workers to 0 to see the fault itself")


def out_of_files(more: int = 0) -> bool:
    """Whether this process has (nearly) reached its limit of open files, with ``more`` to be opened: then a file that cannot be read
    need not be damaged."""
    opened: list[int] = []
    try:
        while len(opened) < SPARE_FILES + more:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False


def no_more_files() -> LimitError:
    """What is said where no file can be opened."""
    try:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        known, raised = f"only {limit}", f"{max(1024, 2 * limit)} or more"
    except ImportError:  # not on Windows
        known, raised = "no more", "1024 or more"
    return LimitError(f"too many open files: a process may have {known} at once (`ulimit -n`), which is not enough to read the data. "
                      f"Raise the limit (`ulimit -n`: {raised}; docker run --ulimit nofile=…), or lower n_workers")


def _cannot_start(error: OSError) -> LimitError:
    """Why no worker starts, by what the system refused."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return no_more_files()
    if error.errno == errno.EAGAIN:
        return LimitError("no process can be started to read the data: there are as many as the system allows (`ulimit -u`, or the pids "
                          "limit of the container). Raise it, or lower n_workers (0: none is started)")
    if error.errno == errno.ENOMEM:
        return LimitError("no process can be started to read the data: no memory is left. Lower n_workers (0: none is started) or "
                          "batch_size")
    return LimitError(f"no process can be started to read the data: {error.strerror or error}. Each needs some pages of /dev/shm, which "
                      f"{_shared_memory()}; enlarge it (docker run --shm-size=64m), or set n_workers to 0, which starts none")


def _shared_memory() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return "is not there"
    return f"has {usage.free >> 10:,} of {usage.total >> 10:,} KiB left"
