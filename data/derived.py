"""Files made of other files, once: beside the original, or in the user's cache where its folder cannot be written."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("omnivast")


def places(original: Path, kind: str, ending: str) -> list[Path]:
    """The possible paths of a file that is made from ``original``: ``<original>.<ending>``, or a file in the cache folder of ``kind``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "omnivast", kind)
    own = hashlib.sha256(str(original.resolve()).encode()).hexdigest()[:16]
    return [original.with_name(f"{original.name}.{ending}"), cache / f"{own}.{original.name}.{ending}"]


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made where it can be."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK)


def first_writable(candidates: Sequence[Path], needed: str, fault: type[Exception]) -> Path:
    """The first of the paths whose folder can be written. Raises ``fault``, whose message begins with ``needed``, where none can."""
    for place in candidates:
        if writable(place.parent):
            return place
    folders = " nor ".join(str(place.parent) for place in candidates)
    raise fault(f"{needed}, but neither {folders} can be written; make one of them writable, or set XDG_CACHE_HOME to a folder that is")


@contextmanager
def locked(file: Path, doing: str) -> Iterator[None]:
    """Held by one process at a time, and let go when it ends, however it ends; ``doing`` says what the others wait for."""
    with open(file.with_name(file.name + ".lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s is being %s by another process; waiting for it", file, doing)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks: each works for itself, and the last one's rename holds
            logger.warning("%s: this file system has no locks (%s)", file, error)
        yield
