"""Indexing shared out over the processes of a launcher (torchrun), which share a disk.

Each process indexes its share of the files into an index of its own, ``parts/<rank>`` in the index's folder; when all have ended, rank 0
puts their rows into the index, in the order of the files' paths, and the parts go. Killed at any moment, what lies in the parts counts as
done for the next call, whatever its number of processes.

The files are cut into units, always the same of the same folder, and no batch of moments spans two of them: so the model is shown the same
batches however many processes there are, and the index is the same, to the byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from omnivast.inference.index.store import File, Place, Store
from omnivast.model.interface import Rows

PARTS = "parts"
UNIT_BYTES = 1 << 28
"""A unit ends with the file that brings it to so many bytes: a few long videos are to be shared out too."""
ROWS_AT_ONCE = 4096
"""Moments of a part that become part of the index with one transaction."""


def units(files: Iterable[File], most: int) -> dict[str, int]:
    """Path → the number of its unit: consecutive files, at most ``most``, or fewer that are ``UNIT_BYTES`` together."""
    numbers: dict[str, int] = {}
    number = count = size = 0
    for file in files:
        if count == most or size >= UNIT_BYTES:
            number, count, size = number + 1, 0, 0
        numbers[file.path] = number
        count, size = count + 1, size + file.size
    return numbers


def share(pending: Sequence[File], unit_of: Mapping[str, int], rank: int, processes: int) -> list[File]:
    """The files of one process, in order. Each unit goes to the process that has the fewest bytes so far."""
    sizes: dict[int, int] = {}
    for file in pending:
        sizes[unit_of[file.path]] = sizes.get(unit_of[file.path], 0) + 1 + file.size
    given, owner = [0] * processes, {}
    for unit, size in sizes.items():
        owner[unit] = given.index(min(given))
        given[owner[unit]] += size
    return [file for file in pending if owner[unit_of[file.path]] == rank]


def folders(store: Store) -> list[Path]:
    """The parts that lie in an index."""
    return sorted((store.folder / PARTS).glob("[0-9]*"), key=lambda path: int(path.name))


def of_rank(store: Store, rank: int) -> Store:
    """The part of a process; what it left unfinished when it was killed is cut off."""
    return Store.begin(store.folder / PARTS / str(rank), store.meta)


def done(store: Store) -> dict[str, list[File]]:
    """Path → the files of that path in the parts: two where it has changed since."""
    found: dict[str, list[File]] = {}
    for part in _opened(store):
        for path, file in part.files().items():
            found.setdefault(path, []).append(file)
        part.close()
    return found


def merge(store: Store, now: Mapping[str, File]) -> None:
    """Put the files of all parts into the index, in the order of ``now``, path → the file as it is now, and remove the parts. Files that
    have gone or changed since are left out."""
    opened = list(_opened(store))
    where = {path: (part, file) for part in opened for path, file in part.files().items() if now.get(path) == file.unread}
    known = store.files()
    batch: list[tuple[Store, File, list[tuple[int, Place, str]]]] = []
    rows = 0
    for path in now:
        if path not in where or known.get(path) == where[path][1]:  # in the index already, when this was killed
            continue
        part, file = where[path]
        batch.append((part, file, part.moments(path)))
        rows += len(batch[-1][2])
        if rows >= ROWS_AT_ONCE:
            _put(store, batch)
            batch, rows = [], 0
    _put(store, batch)
    for part in opened:
        part.close()
    shutil.rmtree(store.folder / PARTS, ignore_errors=True)


def _put(store: Store, batch: Sequence[tuple[Store, File, Sequence[tuple[int, Place, str]]]]) -> None:
    if any(moments for *_, moments in batch):
        store.append({group: Rows({name: torch.from_numpy(np.concatenate([part.vectors(group)[name][[row for row, *_ in moments]]
                                                                          for part, _, moments in batch if moments]))
                                   for name in shapes}) for group, shapes in store.meta.shapes.items()})
    if batch:
        store.commit([(file, [(place, words) for _, place, words in moments]) for _, file, moments in batch])


def _opened(store: Store) -> Iterator[Store]:
    for folder in folders(store):
        yield Store.begin(folder, store.meta)
