"""Ranks and best candidates of some queries among very many candidates, read block by block from a file: no more of the table of scores
is held than the queries' scores with one block, however many candidates there are.

A rank is how many candidates score at least as high as the best true one. That score must be known first; so the blocks that hold true
candidates are scored twice, each time by a product of the same shape, which rounds alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from omnivast.evaluation.metrics import recall

Blocks = Callable[[Iterable[int]], Iterator[tuple[slice, Tensor]]]
"""Numbers of blocks → (the candidates of each, (Q, block) scores)."""


class Stream:
    """Q queries among C candidates.

    Args:
        blocks: scores, from which a test's own order of scores may be made (the dual softmax).
        width: candidates of each block but the last.
        same: (C,) as in :func:`evaluation.retrieval.search.search`, or None.
        query_keys, candidate_keys, also: as in :func:`evaluation.metrics.recall.ranks`.
    """

    def __init__(self, blocks: Blocks, width: int, same: np.ndarray | None, query_keys: np.ndarray, candidate_keys: np.ndarray,
                 also: np.ndarray | None, first_query: int = 0) -> None:
        self.count, self.width, self.query_keys = len(candidate_keys), width, query_keys
        self.same = np.arange(self.count) if same is None else same
        self.pairs = recall.true_pairs(query_keys, candidate_keys, also)
        self.blocks, self.first_query = blocks, first_query
        far = self.same // width < np.arange(self.count) // width
        self.needed_later = np.unique(self.same[far])
        """Candidates that stand for some of a later block."""

    def all_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Every block, each candidate that is the same as an earlier one with the score of that."""
        kept: dict[int, Tensor] = {}
        for part, scores in self.blocks(range(-(-self.count // self.width))):
            first = self.same[part]
            for number in self.needed_later[(self.needed_later >= part.start) & (self.needed_later < part.stop)].tolist():
                kept[number] = scores[:, number - part.start].clone()
            inside = first >= part.start
            if not np.array_equal(first, np.arange(part.start, part.stop)):
                scores = scores[:, torch.from_numpy(np.where(inside, first - part.start, 0))]
                for column in np.flatnonzero(~inside).tolist():
                    scores[:, column] = kept[int(first[column])]
            yield part, scores

    def best_true(self) -> tuple[Tensor, np.ndarray]:
        """(Q,) the best score of each query's true candidates, and (Q,) how many of them have it. Raises ValueError without any."""
        queries, candidates = self.pairs[0], self.same[self.pairs[1]]
        counts = np.bincount(queries, minlength=len(self.query_keys))
        if not counts.all():
            raise ValueError(f"query {self.first_query + int(np.argmin(counts))} has no true candidate")
        found = None
        for part, scores in self.blocks(np.unique(candidates // self.width).tolist()):
            here = np.flatnonzero((candidates >= part.start) & (candidates < part.stop))
            found = scores.new_empty(len(queries)) if found is None else found
            found[here] = scores[queries[here], candidates[here] - part.start]
        assert found is not None, "there is at least one query"
        best = found.new_full((len(self.query_keys),), -torch.inf).scatter_reduce(0, torch.from_numpy(queries), found, "amax")
        return best, np.bincount(queries[(found >= best[queries]).numpy()], minlength=len(self.query_keys))

    def ranks(self, depth: int, see: Callable[[slice, Tensor], object] = lambda part, scores: None) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) ranks, from 1, and (Q, depth) the best candidates; ``see`` is shown each block. Raises ValueError for a score that is not
        a number."""
        best, as_good = self.best_true()
        above = np.zeros(len(self.query_keys), np.int64)
        top = best.new_empty((len(best), 0))
        numbers = torch.empty((len(best), 0), dtype=torch.int64)
        for part, scores in self.all_blocks():
            if (unknown := scores.isnan().any(1)).any():
                raise ValueError(f"the scores of query {self.first_query + int(unknown.int().argmax())} are not all numbers")
            see(part, scores)
            above += (scores >= best[:, None]).sum(1).numpy()
            if depth:
                here, columns = scores.topk(min(depth, scores.shape[1]), dim=1)
                together, chosen = torch.cat([top, here], 1), torch.cat([numbers, columns + part.start], 1)
                top, order = together.topk(min(depth, together.shape[1]), dim=1)
                numbers = chosen.gather(1, order)
        return 1 + above - as_good, numbers.numpy()
