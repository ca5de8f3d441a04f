"""Clips that show what a clip before them shows: encoded anew, at another size, trimmed, brighter or darker.

In two steps: what looks alike is found among all clips, by blocks of rows, so that memory grows with their number and not with its square;
then two clips are laid over each other (:mod:`omnivast.corpus.clips.movement`), since other moments of one scene look alike too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from omnivast.config.extras import import_extra, is_installed
from omnivast.corpus.clips.movement import alike

log = logging.getLogger("omnivast")
BLOCK = 4096
"""Rows that are compared at once."""
MOST = 256
"""Of so many clips that look most alike is it asked whether they are copies."""
NEAR = 0.55
"""Distance of the mean shapes of two clips up to which they may be copies: trimmed ones are the farthest."""
ALIKE = 0.88
"""How alike copies are; see movement. Chosen between other moments of one video (0.84 at most) and trimmed copies (0.91 at least)."""
SAME = 0.15
"""Distance of mean looks up to which two clips in which nothing moves are copies."""
MANY = 1_000_000
"""Clips above which faiss is asked, where it is installed: not all pairs are compared then."""
PROBED = 32
"""Cells of faiss's index that are searched for each clip."""


@dataclass(frozen=True)
class Seen:
    """What is known of a clip."""

    shape: ndarray
    """(D,) of norm 1: the mean of what its frames look like, by which others are found."""
    look: ndarray
    """(WIDTH,) of norm 1."""
    moved: ndarray
    """(M, PARTS) uint8."""


def copies(clips: Sequence[Seen], near: float = NEAR, same: float = SAME) -> ndarray:
    """(N,) int64: of each clip the one before it of which it is a copy, and which is none itself; -1 where there is none. ``near`` and
    ``same``: NEAR and SAME, for the vectors at hand. The same whatever the size of the blocks."""
    found = np.full(len(clips), -1, np.int64)
    if not clips:
        return found
    shapes = np.stack([clip.shape for clip in clips]).astype(np.float32)
    for row, others in neighbours(shapes, near):
        found[row] = next((other for other in others if found[other] < 0 and _is_copy(clips[row], clips[other], same)), -1)
    return found


def _is_copy(one: Seen, other: Seen, same: float) -> bool:
    score = alike(one.moved, other.moved)
    if score is None:
        return float(np.linalg.norm(one.look.astype(np.float32) - other.look.astype(np.float32))) <= same
    return score >= ALIKE


def neighbours(vectors: ndarray, distance: float) -> Iterator[tuple[int, list[int]]]:
    """(N, D) unit vectors → (row, rows before it that are nearer than ``distance``), in order; the nearest first, MOST of them."""
    if len(vectors) > MANY and not is_installed("faiss"):
        log.warning("copies: all pairs of %d clips are compared; with faiss (pip install \"omnivast[faiss]\") far fewer are",
                    len(vectors))
    yield from (_by_cells if len(vectors) > MANY and is_installed("faiss") else _by_blocks)(vectors, 1 - distance**2 / 2)


def _by_blocks(vectors: ndarray, least: float) -> Iterator[tuple[int, list[int]]]:
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        best: list[list[tuple[float, int]]] = [[] for _ in rows]
        for before in range(0, start + 1, BLOCK):
            products = rows @ vectors[before : before + BLOCK].T
            if before == start:
                products[np.triu_indices(len(rows))] = -2.0
            for row in np.flatnonzero((products >= least).any(1)).tolist():
                columns = np.flatnonzero(products[row] >= least)
                if len(columns) > MOST:
                    columns = columns[np.argpartition(-products[row, columns], MOST)[:MOST]]
                found = [(-float(products[row, column]), before + column) for column in columns.tolist()]
                best[row] = sorted(best[row] + found)[:MOST]
        yield from ((start + number, [other for _, other in own]) for number, own in enumerate(best))


def _by_cells(vectors: ndarray, least: float) -> Iterator[tuple[int, list[int]]]:
    """By an inverted file: vectors lie in cells around centres, and only the nearest cells are searched."""
    faiss = import_extra("faiss")
    cells = int(4 * len(vectors) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (64 * cells))])
    index.nprobe = min(PROBED, cells)
    for start in range(0, len(vectors), BLOCK):  # added as it is searched, so that what is found lies before, or in the same block
        rows = vectors[start : start + BLOCK]
        index.add(rows)
        products, places = index.search(rows, MOST)
        for number, (own, others) in enumerate(zip(products, places)):
            yield start + number, [int(place) for product, place in zip(own, others) if product >= least and 0 <= place < start + number]
