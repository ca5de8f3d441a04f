"""Exhaustive search by similarity in bounded memory: ranks and the best candidates of every query, without the whole table of scores. The
processes share the queries out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from omnivast.evaluation.metrics import recall
from omnivast.utils import distributed

SCORES_AT_ONCE = 1 << 24
"""Similarities held at once."""
CANDIDATES_AT_ONCE = 1 << 14
"""Candidates read from a file at once."""
PARTS = 64
"""Parts of the queries, dealt out to the processes. Their number is fixed, and each is scored by itself, since a product of other shape is
rounded otherwise: any number of processes finds the same."""
TEMPERATURE = 0.01
"""Of the dual softmax: similarities are divided by it, as if multiplied by CLIP's logit scale of 100."""

Item = TypeVar("Item")
Features = Tensor | np.ndarray
"""(N, D): a float32 tensor, or an array, which may be float16 and mapped from a file; it is read in parts and compared in float32."""


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
    """What else is true, as in :func:`evaluation.metrics.recall.ranks`."""


def search(
    queries: Features,
    candidates: Features,
    query_keys: np.ndarray,
    candidate_keys: np.ndarray,
    depth: int,
    dual_softmax: bool = False,
    also: np.ndarray | None = None,
    same: np.ndarray | None = None,
) -> Search:
    """Dot products of (Q, D) queries with (C, D) candidates. Called with the same on every process, each of which does its share.

    Args:
        query_keys, candidate_keys, also: as in :func:`evaluation.metrics.recall.ranks`.
        depth: best candidates kept per query.
        dual_softmax: rank also by the score times the softmax, over the queries, of each candidate's scores (Cheng et al., CAMoE, 2021).
            It looks at all test queries at once, so that its numbers compare with no other; needs a second pass.
        same: (C,) the number of the first candidate that is the same (:mod:`evaluation.same`), whose scores then count. A product with
            equal columns rounds them otherwise at other places, so that ties would be broken by chance.
    """
    depth = min(depth, len(candidates))

    def ranked(rows: slice, scores: Tensor) -> np.ndarray:
        return recall.ranks(scores.numpy(), query_keys[rows], candidate_keys, recall.pairs_within(also, rows))

    def first(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        ranks, top, total = [], [], torch.full((len(candidates),), -torch.inf, dtype=torch.float64)
        for rows, scores in score_rows(queries, candidates, same, part):
            ranks.append(ranked(rows, scores))
            top.append(scores.topk(depth, dim=1).indices.numpy())
            if dual_softmax:
                total = torch.logaddexp(total, torch.logsumexp(scores.double() / TEMPERATURE, 0))
        return np.concatenate(ranks), np.concatenate(top), total.numpy() if dual_softmax else None

    ranks, top, totals = zip(*_shared_out(len(queries), first))
    found = Search(query_keys, candidate_keys, np.concatenate(ranks), np.concatenate(top), also=also)
    if dual_softmax:
        total = torch.from_numpy(np.logaddexp.reduce(totals, axis=0))

        def second(part: slice) -> np.ndarray:
            # float64 holds exp(-700): similarities from -1 to 1 never underflow into ties.
            wide = ((rows, scores.double()) for rows, scores in score_rows(queries, candidates, same, part))
            return np.concatenate([ranked(rows, scores * torch.exp(scores / TEMPERATURE - total)) for rows, scores in wide])

        found.dual_ranks = np.concatenate(_shared_out(len(queries), second))
    return found


def _shared_out(queries: int, compute: Callable[[slice], Item]) -> list[Item]:
    """What ``compute`` finds of each part of the queries, in their order, on every process."""
    parts = list(recall.row_chunks(queries, -(-queries // PARTS)))
    rank, world = distributed.rank(), distributed.world_size()
    gathered = distributed.all_gather_objects([compute(part) for part in parts[rank::world]])
    return [gathered[n % world][n // world] for n in range(len(parts))]


def score_rows(queries: Features, candidates: Features, same: np.ndarray | None, part: slice) -> Iterator[tuple[slice, Tensor]]:
    """(rows, (R, C) float32 similarities) of as many of a part of the queries at once as memory allows; ``same`` as in :func:`search`."""
    columns = None if same is None or (same == np.arange(len(same))).all() else torch.from_numpy(same)
    for chunk in recall.row_chunks(part.stop - part.start, max(1, SCORES_AT_ONCE // max(1, len(candidates)))):
        rows = slice(part.start + chunk.start, part.start + chunk.stop)
        own = _float32(queries[rows])
        if isinstance(candidates, Tensor):
            scores = own @ candidates.float().T
        else:
            scores = torch.empty((len(own), len(candidates)))
            for place in recall.row_chunks(len(candidates), CANDIDATES_AT_ONCE):
                scores[:, place] = own @ _float32(candidates[place]).T
        yield rows, scores if columns is None else scores[:, columns]


def _float32(features: Features) -> Tensor:
    return features.float() if isinstance(features, Tensor) else torch.from_numpy(np.array(features)).float()
