"""The results of a shard: a JSON line per item, in order, appended as they come; a file that is done is complete and never changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from omnivast.utils.files import sync_folder

Row = dict[str, Any]


def line_of(row: Row) -> bytes:
    """One way to write a row, so that equal results are equal bytes."""
    return (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n").encode()


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that parse, up to the first that does not: what a kill, or a full disk, cut off is left out."""
    found = []
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                json.loads(line)
            except ValueError:
                break
            found.append(line)
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """Of a file that is done."""
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


class ShardResults:
    """What a worker has of a shard. It goes on where the furthest of the workers before it stopped."""

    def __init__(self, folder: Path, shard: str, owner: str) -> None:
        """``owner`` names the worker: no two write to one file."""
        self.final = folder / f"{shard}.jsonl"
        self._own = folder / "parts" / f"{owner}.jsonl"
        self._shard = shard
        self._file: BinaryIO | None = None

    def open(self) -> int:
        """Items that are there already; -1 where the shard is done."""
        if self.final.exists():
            return -1
        self._own.parent.mkdir(parents=True, exist_ok=True)
        lines = max((whole_lines(path) for path in self._parts()), key=len, default=[])
        temporary = self._own.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            file.writelines(lines)
        os.replace(temporary, self._own)
        self._file = open(self._own, "ab")  # noqa: SIM115 (closed by close)
        return len(lines)

    def append(self, row: Row) -> None:
        assert self._file is not None
        self._file.write(line_of(row))
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """The shard is done: its file gets its name, and what dead workers left is removed."""
        self.close()
        with suppress(FileNotFoundError):  # another worker, which took this one for dead, was as fast, and its results are the same
            os.replace(self._own, self.final)
        sync_folder(self.final.parent)
        for path in self._parts():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parts(self) -> list[Path]:
        return sorted(self._own.parent.glob(f"{self._shard}@*.jsonl"))


def lines_of_unfinished(folder: Path) -> int:
    """Items with a result in shards that are being worked on. For progress: a moment's view."""
    best: dict[str, int] = {}
    for path in (folder / "parts").glob("*.jsonl"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            shard = path.stem.split("@")[0]
            best[shard] = max(best.get(shard, 0), sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")))
    return sum(best.values())
