"""What a retrieval test keeps of every clip and text.

Features to search with are kept in memory or in files. The condition features that re-ranking needs are large: they are kept in memory as
far as there is room and where that is cheaper than encoding the clips again; the other clips are encoded again.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivast.config.tasks import Modality
from omnivast.evaluation.retrieval.same import projections
from omnivast.evaluation.retrieval.search import Features
from omnivast.model.interface import Rows
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import free_memory

logger = logging.getLogger("omnivast")

ROWS_AT_ONCE = 1 << 14
MEASURED_CLIPS = 64
"""Clips, after the first batch, over which costs are measured; of fewer all are kept."""
Again = Callable[[list[int], Sequence[Modality]], Iterator[tuple[list[int], Any]]]
"""Annotation rows, modalities → batches of these clips in this order, each as annotation rows and their Features."""


class FeatureRows:
    """What is kept of N clips or texts to search with, appended batch by batch: float32 in memory, or float16 in files, one for each of its
    tensors, from which they are mapped.

    The rounding of unit vectors to float16 changes a similarity by less than 2⁻¹⁰.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.count = path, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of a row of each tensor, by the tensor's name."""
        self._parts: list[Rows] = []
        self.places: list[Tensor] = []
        """Projections of each part before it was rounded to float16, see :func:`evaluation.retrieval.same.first_of_same`."""

    def append(self, rows: Rows) -> None:
        """Add n rows. Raises ValueError when they have other names or shapes than those before."""
        shapes = {name: tuple(x.shape[1:]) for name, x in rows.tensors.items()}
        if self.count and shapes != self.shapes:
            raise ValueError(f"the model keeps {shapes} of each clip or text of this batch to search with, of earlier ones {self.shapes}; "
                             "expected the same of all batches")
        self.count, self.shapes = self.count + len(rows), shapes
        self.places.append(projections(rows))
        if self.path is None:
            self._parts.append(rows)
            return
        for name, x in rows.tensors.items():
            with open(file_of(self.path, name), "ab") as file:
                x.half().numpy().tofile(file)

    def read(self) -> Features:
        """All rows: float32 tensors, or float16 arrays on their files."""
        if self.path is None:
            return {name: torch.cat([part[name] for part in self._parts]) for name in self.shapes}
        return mapped(self.path, self.count, self.shapes)


def file_of(path: Path, name: str) -> Path:
    """The file of one of the tensors kept under ``path``."""
    return path.with_name(f"{path.name}.{name}")


def temporary_folder(inside: str | Path) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when it is not used any more. Raises ValueError when it cannot be made."""
    try:
        Path(inside).mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="omnivast_features_", dir=inside)
    except OSError as error:
        raise ValueError(f"run_cfg.ret_features_dir: '{inside}' cannot hold the features of retrieval: {error.strerror}") from None


def mapped(path: Path, count: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """``count`` float16 rows of files, by name."""
    return {name: np.memmap(file_of(path, name), np.float16, "r", shape=(count, *shape)) if count else np.empty((0, *shape), np.float16)
            for name, shape in shapes.items()}


def write_joined(parts: Sequence[FeatureRows], order: np.ndarray, path: Path) -> Path:
    """Write the rows of all parts to files in the given order, which numbers the rows of the parts one after the other. A single part
    that is in order already stays where it is. Returns the path under which they are kept."""
    filled = [part for part in parts if part.count]
    if len(filled) == 1 and filled[0].path is not None and np.array_equal(order, np.arange(len(order))):
        return filled[0].path
    rows = [part.read() for part in filled]
    starts = np.cumsum([0, *(part.count for part in filled)])
    for name, shape in filled[0].shapes.items():
        with open(file_of(path, name), "wb") as file:
            for start in range(0, len(order), ROWS_AT_ONCE):
                wanted = order[start : start + ROWS_AT_ONCE]
                chunk = np.empty((len(wanted), *shape), np.float16)
                for tensors, first, stop in zip(rows, starts, starts[1:]):
                    here = (wanted >= first) & (wanted < stop)
                    chunk[here] = tensors[name][wanted[here] - first]
                chunk.tofile(file)
    return path


@dataclasses.dataclass
class Cost:
    """Seconds and bytes of condition features, measured over ``clips`` clips."""

    clips: int = 0
    again: float = 0.0
    """Seconds to read, decode and encode these clips."""
    keep: float = 0.0
    """Seconds to bring their features to the CPU's memory; to bring them back takes as long."""
    bytes: int = 0

    def keeping_pays(self, share: float) -> bool:
        """Whether it costs less to keep all features and bring a ``share`` of them back than to encode that share again."""
        return self.keep * (1 + share) <= self.again * share

    def __str__(self) -> str:
        return (f"{self.bytes / 1e6 / self.clips:.3g} MB a clip, {1e3 * self.keep / self.clips:.3g} ms to keep and as much to bring back, "
                f"{1e3 * self.again / self.clips:.3g} ms to read and encode again")


class Conditions:
    """Condition features of this process's clips for re-ranking: kept on the CPU until ``limit`` bytes are full, unless the first clips
    show that it costs less to encode again those that will be needed. Clips that were not kept are encoded again, where they are needed.

    Args:
        modalities: those of the retrieval groups.
        part: what is kept of a batch's features (``Model.matching_features`` of these modalities).
        share: of the clips, how large a part will be needed, as far as one can tell beforehand.
    """

    def __init__(self, modalities: Iterable[Modality], part: Callable[[Any], Any], limit: int, share: float = 1.0) -> None:
        self.modalities, self.part, self.limit, self.share = tuple(modalities), part, limit, share
        self.bytes = self.clips = self.clips_kept = self.clips_again = 0
        self.seconds_again = 0.0
        self.cost, self.decision = Cost(), ""
        self._batches: list[tuple[list[int], Any]] = []
        """Annotation rows of each batch, with its features where they are kept."""

    def add(self, rows: list[int], features: Any, seconds: float = 0.0) -> None:
        """Add a batch. ``seconds``: how long it took to read and encode it."""
        start = time.monotonic()
        part = self.part(features)
        size = part.nbytes
        # After the first batch that is not kept none is, so that those encoded again make the same batches, and the same numbers.
        if self.clips_kept < self.clips or self.bytes + size > self.limit:
            self.clips += len(rows)
            self._batches.append((rows, None))
            return
        self._batches.append((rows, part.to("cpu")))
        self.clips += len(rows)
        self.bytes, self.clips_kept = self.bytes + size, self.clips
        if len(self._batches) > 1 and not self.decision:  # The first batch also pays for whatever starts with it.
            cost = self.cost
            self.cost = Cost(cost.clips + len(rows), cost.again + seconds, cost.keep + time.monotonic() - start, cost.bytes + size)
            self._decide()

    def add_absent(self, rows: list[int]) -> None:
        """Add a batch whose features were not kept; called after all batches whose features were."""
        self.clips += len(rows)
        self._batches.append((rows, None))

    def _decide(self) -> None:
        """Once enough clips are measured: go on keeping features, or drop them all."""
        if self.cost.clips < MEASURED_CLIPS:
            return
        pays = self.cost.keeping_pays(self.share)
        self.decision = f"{self.cost}, {100 * self.share:.3g} % needed as estimated: " + ("kept" if pays else "encoded again")
        logger.info("condition features: %s%s", self.decision, f", as far as {self.limit / 1e9:.3g} GB go" if pays else "")
        if not pays:
            self._batches = [(rows, None) for rows, _ in self._batches]
            self.bytes = self.clips_kept = 0

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """(clips,) the place in :meth:`chunks` of each clip, in the order in which they were added; -1: it is not among them.

        Args:
            wanted: (clips,) bool, whose features are needed.
        """
        places, first, count = np.full(self.clips, -1, np.int64), 0, 0
        for rows, _ in self._batches:
            stop = first + len(rows)
            if wanted[first:stop].any():
                places[first:stop] = np.arange(count, count + len(rows))
                count += len(rows)
            first = stop
        return places

    def chunks(self, wanted: np.ndarray, again: Again | None) -> Iterable[Any]:
        """Features in chunks, whole batches that hold a clip with ``wanted`` (clips,) true: those kept, then those encoded again. Others
        are let go."""
        places, first, batches = self.places(wanted), 0, []
        for batch_rows, features in self._batches:
            if places[first : first + len(batch_rows)].max(initial=-1) >= 0:
                batches.append((batch_rows, features))
            first += len(batch_rows)
        self._batches = [(batch_rows, None) for batch_rows, _ in self._batches]
        kept = [features for _, features in batches if features is not None]
        rows = [row for batch_rows, features in batches if features is None for row in batch_rows]
        if rows and again is None:
            raise ValueError(f"the condition features of {len(rows)} clips are needed, were not kept, and cannot be encoded again")
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
        logger.info("condition features of %d of %d clips were not kept (%s); they are encoded again", len(self.rows), self.owner.clips,
                    "it costs less" if not self.owner.clips_kept and self.owner.decision else f"{self.owner.limit / 1e9:.3g} GB are full")
        read, start = 0, time.monotonic()
        bar: Progress[Any] = progress(len(self.rows), "encoding again", unit="clips")
        with bar:
            for rows, features in self.again(self.rows, self.owner.modalities):
                if rows != self.rows[read : read + len(rows)]:
                    missing = next(a for a, b in zip(self.rows[read:], [*rows, None]) if a != b)
                    raise RuntimeError(f"the clip in annotation row {missing} could be read at first, but not again for re-ranking")
                read += len(rows)
                self.owner.seconds_again += time.monotonic() - start
                yield features
                start = time.monotonic()
                bar.update(len(rows))
        if read < len(self.rows):
            raise RuntimeError(f"the clip in annotation row {self.rows[read]} could be read at first, but not again for re-ranking")


def reranked_share(clips: int, texts: int, depth: int) -> float:
    """About which share of ``clips`` the re-ranking of ``texts`` needs, as if each text drew its ``depth`` clips at random."""
    return 1 - max(0.0, 1 - depth / clips) ** texts if clips else 1.0


def share_of_memory(gigabytes: float | None) -> int:
    """Bytes that one process may keep. ``gigabytes`` are for all processes of this machine; None: half of the memory that is free now."""
    total = 1e9 * gigabytes if gigabytes is not None else free_memory() / 2
    return int(total / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
