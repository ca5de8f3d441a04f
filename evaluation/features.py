"""What a retrieval test keeps of every clip and text: contrastive features in memory or in files, and condition features, which are
large, as far as memory goes; what was not kept is encoded again."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.tasks import Modality
from evaluation.search import Features
from utils.log import Progress, progress

logger = logging.getLogger("omnivast")

ROWS_AT_ONCE = 1 << 14
Again = Callable[[list[int], Sequence[Modality]], Iterator[tuple[list[int], Any]]]
"""Annotation rows, modalities → batches of these clips in this order, each as annotation rows and their ClipFeatures."""


class FeatureRows:
    """(N, D) contrastive features, appended batch by batch: float32 in memory, or float16 in a file, from which they are mapped.

    The rounding of unit vectors to float16 changes a similarity by less than 2⁻¹⁰.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.count, self.width = path, 0, 0
        self._parts: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Add (n, D) rows."""
        self.count, self.width = self.count + len(rows), rows.shape[1]
        if self.path is None:
            self._parts.append(rows.float().cpu())
            return
        with open(self.path, "ab") as file:
            rows.to("cpu", torch.float16).numpy().tofile(file)

    def read(self) -> Features:
        """All rows: a float32 tensor, or a float16 array on its file."""
        if self.path is None:
            return torch.cat(self._parts) if self._parts else torch.empty(0, self.width)
        return mapped(self.path, self.count, self.width)


def mapped(path: Path, count: int, width: int) -> np.ndarray:
    """(count, width) float16 rows of a file."""
    if not count:
        return np.empty((0, width), np.float16)
    return np.memmap(path, np.float16, "r", shape=(count, width))


def write_joined(parts: Sequence[FeatureRows], order: np.ndarray, path: Path) -> Path:
    """Write the rows of all parts to a file in the given order, which numbers the rows of the parts one after the other. A single part
    that is in order already stays where it is. Returns the path of the file."""
    filled = [part for part in parts if part.count]
    if len(filled) == 1 and filled[0].path is not None and np.array_equal(order, np.arange(len(order))):
        return filled[0].path
    rows = [part.read() for part in filled]
    starts = np.cumsum([0, *(part.count for part in filled)])
    with open(path, "wb") as file:
        for start in range(0, len(order), ROWS_AT_ONCE):
            wanted = order[start : start + ROWS_AT_ONCE]
            chunk = np.empty((len(wanted), filled[0].width), np.float16)
            for own, first, stop in zip(rows, starts, starts[1:]):
                here = (wanted >= first) & (wanted < stop)
                chunk[here] = own[wanted[here] - first]
            chunk.tofile(file)
    return path


class Conditions:
    """Condition features of this process's clips for re-ranking: kept on the CPU until ``limit`` bytes are full. The clips after that are
    encoded again, those alone whose features are needed then.

    Args:
        modalities: those of the retrieval groups; no others are kept.
    """

    def __init__(self, modalities: Iterable[Modality], limit: int) -> None:
        self.modalities, self.limit = tuple(modalities), limit
        self.bytes = self.clips = self.clips_kept = self.clips_again = 0
        self.seconds_again = 0.0
        self._batches: list[tuple[list[int], Any]] = []
        """Annotation rows of each batch, with its features where they are kept."""

    def add(self, rows: list[int], features: Any, dtype: torch.dtype | None) -> None:
        """A batch. ``dtype``: the precision in which texts attend to the features (None: as they are), so that keeping them in it changes
        nothing."""
        self.clips += len(rows)
        condition = {m: x if dtype is None else x.to(dtype) for m, x in features.condition.items() if m in self.modalities}
        size = sum(x.nbytes for x in condition.values())
        # After the first batch that is not kept none is, so that those encoded again make the same batches, and the same numbers.
        if self.clips_kept + len(rows) < self.clips or self.bytes + size > self.limit:
            self._batches.append((rows, None))
            return
        masks = {m: x for m, x in features.condition_mask.items() if m in self.modalities}
        self._batches.append((rows, dataclasses.replace(features, condition=condition, condition_mask=masks).to("cpu")))
        self.bytes, self.clips_kept = self.bytes + size, self.clips

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """(clips,) the place in :meth:`chunks` of each clip, in the order in which they were added; -1: it is not among them.

        Args:
            wanted: (clips,) bool, whose features are needed.
        """
        places, first, count = np.full(self.clips, -1, np.int64), 0, 0
        for rows, features in self._batches:
            stop = first + len(rows)
            if features is not None or wanted[first:stop].any():
                places[first:stop] = np.arange(count, count + len(rows))
                count += len(rows)
            first = stop
        return places

    def chunks(self, wanted: np.ndarray, again: Again | None) -> Iterable[Any]:
        """Features in chunks: those kept, then, encoded again, whole batches that hold a clip with ``wanted`` (clips,) true."""
        kept = [features for _, features in self._batches if features is not None]
        places, first, rows = self.places(wanted), 0, []
        for own, features in self._batches:
            if features is None and places[first : first + len(own)].max(initial=-1) >= 0:
                rows += own
            first += len(own)
        if rows and again is None:
            raise ValueError(f"the condition features of {len(rows)} clips are needed, but were not kept: they exceed {self.limit} bytes")
        self.clips_again = len(rows)
        return _Chunks(kept, rows, again, self)


@dataclasses.dataclass
class _Chunks:
    kept: list[Any]
    rows: list[int]
    again: Again | None
    owner: Conditions

    def __iter__(self) -> Iterator[Any]:
        yield from self.kept
        if not self.rows or self.again is None:
            return
        logger.info("condition features of %d of %d clips did not fit into %.1f GB; they are encoded again", len(self.rows),
                    self.owner.clips, self.owner.limit / 1e9)
        place, start = 0, time.monotonic()
        bar: Progress[Any] = progress(len(self.rows), "encoding again", unit="clips")
        with bar:
            for rows, features in self.again(self.rows, self.owner.modalities):
                if rows != self.rows[place : place + len(rows)]:
                    missing = next(a for a, b in zip(self.rows[place:], [*rows, None]) if a != b)
                    raise RuntimeError(f"the clip in annotation row {missing} could be read at first, but not again for re-ranking")
                place += len(rows)
                self.owner.seconds_again += time.monotonic() - start
                yield features
                start = time.monotonic()
                bar.update(len(rows))
        if place < len(self.rows):
            raise RuntimeError(f"the clip in annotation row {self.rows[place]} could be read at first, but not again for re-ranking")


def free_memory() -> int:
    """Bytes of memory that the machine, or the container around this process, has left."""
    found = []
    with suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError, KeyError):
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"]) - int(stat["active_file"])
        found.append(int((group / "memory.max").read_text()) - used)
    with suppress(OSError, ValueError):
        found = found or [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return max(0, min(found, default=1 << 33))


def share_of_memory(gigabytes: float | None) -> int:
    """Bytes that one process may keep: so many gigabytes for all processes of this machine; None: half of what is free now."""
    total = 1e9 * gigabytes if gigabytes is not None else free_memory() / 2
    return int(total / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
