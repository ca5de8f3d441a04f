"""Where the bytes of a media file lie: in a file of their own, or in a part of a tar shard. Both are decoded by the same code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A member of a shard: ``size`` bytes of the file ``path`` from byte ``offset`` on."""

    path: str
    offset: int
    size: int
    name: str
    """As the shard names it."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


Source = str | Part


class CutError(ValueError):
    """A shard that ends before its member does."""


def as_source(path: str | Path | Part) -> Source:
    """A path as text, a part as it is."""
    return path if isinstance(path, Part) else str(path)


def span(source: Source) -> tuple[str, int, int]:
    """(file, first byte, number of bytes). Raises OSError, and CutError for a member that its shard no longer holds whole."""
    if isinstance(source, str):
        return source, 0, os.path.getsize(source)
    size = os.path.getsize(source.path)
    if size < source.offset + source.size:
        raise CutError(f"its shard has {size} bytes, and should have at least {source.offset + source.size}")
    return source.path, source.offset, source.size


def is_empty(source: Source | None) -> bool:
    """Whether it is a file, or a part of one, without a byte; a folder, or nothing, is not."""
    if isinstance(source, str):
        return os.path.isfile(source) and os.path.getsize(source) == 0
    return source is not None and source.size == 0


def url(source: Source) -> str:
    """What FFmpeg opens. Its ``subfile`` reads a part without a detour through Python."""
    if isinstance(source, str):
        return f"file:{source}"
    return f"subfile,,start,{source.offset},end,{source.offset + source.size},,:file:{source.path}"


def content(source: Source) -> bytes:
    """All bytes. Raises OSError and CutError."""
    path, start, size = span(source)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        found = b""
        while len(found) < size and (more := file.read(size - len(found))):
            found += more
    return found


def identity(source: Source) -> tuple[object, ...]:
    """What changes when the bytes may have changed: place, size and time."""
    if isinstance(source, str):
        status = os.stat(source)
        return os.path.abspath(source), status.st_size, status.st_mtime_ns
    return os.path.abspath(source.path), source.offset, source.size, os.stat(source.path).st_mtime_ns
