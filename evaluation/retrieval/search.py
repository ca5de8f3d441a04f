"""Exhaustive search by the model's similarity in bounded memory: ranks and the best candidates of every query, without the whole table of
scores. The processes share the queries out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from omnivast.evaluation.metrics import recall
from omnivast.evaluation.retrieval.stream import Stream
from omnivast.model.interface import DUAL_TEMPERATURE, Rows
from omnivast.utils import distributed

SCORES_AT_ONCE = 1 << 24
"""Similarities held at once."""
CANDIDATES_AT_ONCE = 1 << 14
"""Candidates read from a file at once."""
PARTS = 64
"""Parts of the queries, dealt out to the processes. Their number is fixed, and each is scored by itself, since a product of other shape is
rounded otherwise: any number of processes finds the same."""
Item = TypeVar("Item")
Features = Mapping[str, Tensor | np.ndarray]
"""What is kept of N clips or texts, by name, as the model has made it (``Model.index_clips``): each (N, …) a float32 tensor, or an array,
which may be float16 and mapped from a file; it is read in parts and compared in float32."""
Score = Callable[[Rows, Rows], Tensor]
"""Queries (Q), candidates (C) → (Q, C) float32 scores."""


@dataclass
class Search:
    """One direction of one group: (Q,) keys of queries, (C,) of candidates, (Q,) first ranks, (Q, depth) best candidates first, and
    (Q,) ranks after the dual softmax, where asked for."""

    query_keys: np.ndarray
    candidate_keys: np.ndarray
    ranks: np.ndarray
    top: np.ndarray
    dual_ranks: np.ndarray | None = None
    also: np.ndarray | None = None
    """Further true candidates, as in :func:`evaluation.metrics.recall.ranks`."""


def search(
    queries: Features,
    candidates: Features,
    score: Score,
    query_keys: np.ndarray,
    candidate_keys: np.ndarray,
    depth: int,
    dual_softmax: bool = False,
    also: np.ndarray | None = None,
    same: np.ndarray | None = None,
    pair_numbers: int = 1,
    temperature: float = DUAL_TEMPERATURE,
) -> Search:
    """Scores of Q queries with C candidates. Called with the same on every process, each of which does its share.

    Args:
        query_keys, candidate_keys, also: as in :func:`evaluation.metrics.recall.ranks`.
        depth: best candidates kept per query.
        dual_softmax: rank also by the score times the softmax, over the queries, of each candidate's scores (Cheng et al., CAMoE, 2021).
            It looks at all test queries at once, so that its numbers compare with no other; needs a second pass.
        same: (C,) the number of the first candidate that is the same (:mod:`evaluation.retrieval.same`), whose scores then count. A product
            with equal columns rounds them otherwise at other places, so that ties would be broken by chance.
        pair_numbers: numbers that ``score`` holds per score.
        temperature: what scores are divided by in the softmax.
    """
    count = size(candidates)
    depth = min(depth, count)
    width = stream_width(queries, candidates, pair_numbers)

    def scored(part: slice) -> Iterator[tuple[slice, Tensor]]:
        return score_rows(queries, candidates, score, same, part, pair_numbers)

    def ranked(rows: slice, scores: Tensor) -> np.ndarray:
        return recall.ranks(scores.numpy(), query_keys[rows], candidate_keys, recall.pairs_within(also, rows))

    def streamed(part: slice, change: Callable[[slice, Tensor], Tensor] = lambda block, scores: scores) -> Stream:
        def blocks(wanted: Iterable[int]) -> Iterator[tuple[slice, Tensor]]:
            rows = read(queries, part)
            for number in wanted:
                block = slice(number * width, min((number + 1) * width, count))
                yield block, change(block, score(rows, read(candidates, block)).cpu())

        return Stream(blocks, width, same, query_keys[part], candidate_keys, recall.pairs_within(also, part), part.start)

    def first(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if width:
            total = torch.full((count,), -torch.inf, dtype=torch.float64)

            def see(block: slice, scores: Tensor) -> None:
                total[block] = torch.logsumexp(scores.double() / temperature, 0)

            return *streamed(part).ranks(depth, see if dual_softmax else lambda *_: None), total.numpy() if dual_softmax else None
        ranks, top, total = [], [], torch.full((count,), -torch.inf, dtype=torch.float64)
        for rows, scores in scored(part):
            ranks.append(ranked(rows, scores))
            top.append(scores.topk(depth, dim=1).indices.numpy())
            if dual_softmax:
                total = torch.logaddexp(total, torch.logsumexp(scores.double() / temperature, 0))
        return np.concatenate(ranks), np.concatenate(top), total.numpy() if dual_softmax else None

    ranks, top, totals = zip(*_shared_out(size(queries), first))
    result = Search(query_keys, candidate_keys, np.concatenate(ranks), np.concatenate(top), also=also)
    if dual_softmax:
        total = torch.from_numpy(np.logaddexp.reduce(totals, axis=0))

        def second(part: slice) -> np.ndarray:
            if width:
                return streamed(part, lambda block, x: x.double() * torch.exp(x.double() / temperature - total[block])).ranks(0)[0]
            # float64 holds exp(-700): similarities from -1 to 1 never underflow into ties.
            wide = ((rows, scores.double()) for rows, scores in scored(part))
            return np.concatenate([ranked(rows, scores * torch.exp(scores / temperature - total)) for rows, scores in wide])

        result.dual_ranks = np.concatenate(_shared_out(size(queries), second))
    return result


def _shared_out(queries: int, compute: Callable[[slice], Item]) -> list[Item]:
    """The results of ``compute`` for every part of the queries, in their order, on every process."""
    parts = list(recall.row_chunks(queries, -(-queries // PARTS)))
    rank, world = distributed.rank(), distributed.world_size()
    gathered = distributed.all_gather_objects([compute(part) for part in parts[rank::world]])
    return [gathered[n % world][n // world] for n in range(len(parts))]


def score_rows(queries: Features, candidates: Features, score: Score, same: np.ndarray | None, part: slice, pair_numbers: int = 1
               ) -> Iterator[tuple[slice, Tensor]]:
    """(rows, (R, C) float32 scores) of as many of a part of the queries at once as memory allows; ``same`` and ``pair_numbers`` as in
    :func:`search`."""
    columns = None if same is None or (same == np.arange(len(same))).all() else torch.from_numpy(same)
    count, whole = size(candidates), pair_numbers == 1 and all(isinstance(x, Tensor) for x in candidates.values())
    at_once = max(1, SCORES_AT_ONCE // max(1, count))
    at_once = at_once if pair_numbers == 1 else min(at_once, max(1, math.isqrt(SCORES_AT_ONCE // pair_numbers)))
    for chunk in recall.row_chunks(part.stop - part.start, at_once):
        rows = slice(part.start + chunk.start, part.start + chunk.stop)
        query_rows = read(queries, rows)
        if whole:
            scores = score(query_rows, read(candidates, slice(None)))
        else:
            width = CANDIDATES_AT_ONCE if pair_numbers == 1 else SCORES_AT_ONCE // (len(query_rows) * pair_numbers)
            scores = torch.empty((len(query_rows), count))
            for block in recall.row_chunks(count, min(CANDIDATES_AT_ONCE, max(1, width))):
                scores[:, block] = score(query_rows, read(candidates, block)).cpu()
        yield rows, scores if columns is None else scores[:, columns]


def stream_width(queries: Features, candidates: Features, pair_numbers: int) -> int:
    """How many candidates at once are compared with a part of the queries, where there are so many that not all scores can be held; 0 where
    they can, or where the candidates are held in memory anyway."""
    part, count = max(1, -(-size(queries) // PARTS)), size(candidates)
    if all(isinstance(x, Tensor) for x in candidates.values()) or part * count <= SCORES_AT_ONCE:
        return 0
    return max(1, min(CANDIDATES_AT_ONCE, SCORES_AT_ONCE // (part * pair_numbers)))


def size(features: Features) -> int:
    """N."""
    return len(next(iter(features.values())))


def read(features: Features, rows: slice | np.ndarray) -> Rows:
    """Some rows, in float32."""
    def part(kept: Tensor | np.ndarray) -> Tensor:
        return kept[rows].float() if isinstance(kept, Tensor) else torch.from_numpy(np.array(kept[rows])).float()

    return Rows({name: part(kept) for name, kept in features.items()})
