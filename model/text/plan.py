"""What one forward of the text model does, planned on the host: which tokens are computed, where they stand, what they attend to.

Letters: N rows (texts), L tokens of the longest, T real tokens of all rows, M memory rows (clips), R texts per memory row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omnivast.config.tasks import Group
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.packing import Packing
from omnivast.utils.transfer import Index

SPARE = 1.25
"""The most cells per text that a grid of texts sharing memories may have; with more, most of it would be empty, and the texts are not
arranged in a grid."""


@dataclass
class CrossPass:
    """Rows [start, stop) of a layout and what they attend to.

    With ``index`` None the rows are R blocks of len(memory): row start + r · M + m attends to memory row m, and the R texts
    of a memory row are one long query. With ``index`` (stop - start,) each row names its memory row::

        index None, M 3, R 2                                 index 2 0 2
        row 0 1 2 | 3 4 5     clip 0  ←  texts 0, 3          row 0 1 2     clip 2  ←  text 0
             blocks           clip 1  ←  texts 1, 4                        clip 0  ←  text 1
                              clip 2  ←  texts 2, 5                        clip 2  ←  text 2
    """

    start: int
    stop: int
    memory: Memory
    group: Group
    index: Index | None = None
    length: int = 0
    """Tokens of the longest of these rows; 0 stands for the length of the layout."""


@dataclass
class LastBlock:
    """The W tokens whose final states are read, which alone are the queries of the last block.

    index: (W,) into the T real tokens. packing: the W tokens moved to the left of an (N, most of a row) grid. columns: (N, most) where in
    its row of the layout each of them stood. queries: as in TextPlan, on the narrower grid.
    """

    index: Index
    packing: Packing
    columns: Index
    queries: list[Packing]


class Outputs:
    """Which tokens of the (N, L) grid have a state in the output, row by row; stays on the host."""

    def __init__(self, real: NDArray[np.bool_]) -> None:
        self.real = real

    def packing(self) -> Packing:
        """Where the states stand in the grid."""
        return Packing((self.real.shape[0], self.real.shape[1]), _index(self.real))

    def places(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The numbers (k,) of the states of the tokens ``chosen`` (N, L), row by row. They must have one."""
        return np.flatnonzero(chosen[self.real])

    def firsts(self) -> NDArray[np.int64]:
        """The number of the state of every row's first token, (N,)."""
        counts = self.real.sum(1)
        return counts.cumsum() - counts


@dataclass
class TextPlan:
    """Everything that a forward of the text model needs to know; numpy arrays, or tensors once it is sent to the device.

    packing: the T tokens that are computed, in the (N, L) grid. ids, positions: (T,). visible, reach: (N, L), see Layout. passes: what rows
    attend to. queries: for each pass, where its tokens stand among the queries. last: None where every state is read. firsts: (N,) into
    the states that are read. padded: the same in the grid. prompt: (T,) True at tokens of prompts; None where there are none.
    """

    packing: Packing
    ids: Index
    positions: Index
    visible: Index
    reach: Index
    passes: list[CrossPass]
    queries: list[Packing]
    last: LastBlock | None
    firsts: Index
    padded: Packing
    outputs: Outputs
    prompt: Index | None = None


def plan_texts(layout: Layout, passes: Sequence[CrossPass] = (), wanted: NDArray[np.bool_] | None = None) -> TextPlan:
    """Run every row of the layout; with ``passes`` (which must cover all rows in order), attend to memories.

    ``wanted`` (N, L) bool: only these tokens, and the first of every row, are read from the output, so that the last block
    computes no others (None: all real tokens). Of them all it needs keys and values only.
    """
    real = layout.real
    packing = Packing((len(layout), layout.length), _index(real))
    read = real if wanted is None else _with_firsts(wanted & real)
    outputs = Outputs(read)
    last = None if wanted is None else _last_block(real, read, passes)
    return TextPlan(packing, layout.ids[real], layout.positions[real], layout.visible, layout.reach, list(passes),
                    place_queries(passes, packing), last, outputs.firsts(), outputs.packing(), outputs,
                    None if layout.prompt is None else layout.prompt[real])


def _index(real: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    return None if real.all() else np.flatnonzero(real)


def _with_firsts(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wanted[:, 0] = True
    return wanted


def _last_block(real: NDArray[np.bool_], read: NDArray[np.bool_], passes: Sequence[CrossPass]) -> LastBlock:
    counts = read.sum(1)
    most = int(counts.max())
    row, column = read.nonzero()
    index = row * most + (read.cumsum(1) - 1)[row, column]
    columns = np.zeros(len(read) * most, dtype=np.int64)
    columns[index] = column
    packing = Packing((len(read), most), index)
    shorter = [replace(p, length=int(counts[p.start:p.stop].max())) for p in passes]
    return LastBlock(np.flatnonzero(read[real]), packing, columns.reshape(-1, most), place_queries(shorter, packing))


def place_queries(passes: Sequence[CrossPass], packing: Packing) -> list[Packing]:
    """Where the tokens of each pass stand among the queries: (M, R · its length) where texts share memory rows, else (texts, its length).
    The passes cover all rows of ``packing`` in order."""
    texts, longest = packing.shape
    index = np.arange(texts * longest) if packing.index is None else packing.index
    ends = np.searchsorted(index, [p.stop * longest for p in passes])
    queries = []
    for p, start, stop in zip(passes, [0, *ends], ends):
        length, count = p.length or longest, p.stop - p.start
        rows = len(p.memory) if p.index is None else count
        repeats = count // rows
        text, column = index[start:stop] // longest - p.start, index[start:stop] % longest
        cells = (text % rows * repeats + text // rows) * length + column
        in_order = repeats == 1 and len(cells) == count * length
        queries.append(Packing((rows, repeats * length), None if in_order else cells))
    return queries


def shared_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Arranges texts with memory rows (P,) in a grid, so that all texts of a memory row are one long query.

    Returns used (M,), the memory rows; grid (R, M), numbers of texts: column m holds the texts of memory row used[m], and cells left over
    repeat text 0; place (P,), the index of each text in the flattened grid. Where too many cells would be left over, every text has a
    column to itself.
    """
    numbers = np.arange(len(rows))
    used, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    most = int(counts.max())
    if most * len(used) > SPARE * len(rows):
        return rows, numbers[None], numbers
    order = np.argsort(inverse, kind="stable")
    nth = np.empty_like(order)
    nth[order] = numbers - (counts.cumsum() - counts)[inverse[order]]
    place = nth * len(used) + inverse
    grid = np.zeros(most * len(used), dtype=np.int64)
    grid[place] = numbers
    return used, grid.reshape(most, -1), place
