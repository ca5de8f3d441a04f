"""Exhaustive search by similarity in bounded memory: ranks and the best candidates of every query, without the whole table of scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.metrics import recall

SCORES_AT_ONCE = 1 << 24
"""Similarities held at once."""
CANDIDATES_AT_ONCE = 1 << 14
"""Candidates read from a file at once."""
TEMPERATURE = 0.01
"""Of the dual softmax: similarities are divided by it, as if multiplied by CLIP's logit scale of 100."""

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
    """Dot products of (Q, D) queries with (C, D) candidates.

    Args:
        query_keys, candidate_keys, also: as in :func:`evaluation.metrics.recall.ranks`.
        depth: best candidates kept per query.
        dual_softmax: rank also by the score times the softmax, over the queries, of each candidate's scores (Cheng et al., CAMoE, 2021).
            It looks at all test queries at once, so that its numbers compare with no other; needs a second pass.
        same: (C,) the number of the first candidate that is the same (:mod:`evaluation.same`), whose scores then count. A product with
            equal columns rounds them otherwise at other places, so that ties would be broken by chance.
    """
    depth = min(depth, len(candidates))
    found = Search(query_keys, candidate_keys, np.empty(len(queries), np.int64), np.empty((len(queries), depth), np.int64), also=also)

    def ranked(rows: slice, scores: Tensor) -> np.ndarray:
        return recall.ranks(scores.numpy(), query_keys[rows], candidate_keys, recall.pairs_within(also, rows))

    total = torch.full((len(candidates),), -torch.inf, dtype=torch.float64)
    for rows, scores in score_rows(queries, candidates, same):
        found.ranks[rows] = ranked(rows, scores)
        found.top[rows] = scores.topk(depth, dim=1).indices.numpy()
        if dual_softmax:
            total = torch.logaddexp(total, torch.logsumexp(scores.double() / TEMPERATURE, 0))
    if dual_softmax:
        found.dual_ranks = np.empty(len(queries), np.int64)
        for rows, scores in score_rows(queries, candidates, same):
            # float64 holds exp(-700): similarities from -1 to 1 never underflow into ties.
            wide = scores.double()
            found.dual_ranks[rows] = ranked(rows, wide * torch.exp(wide / TEMPERATURE - total))
    return found


def score_rows(queries: Features, candidates: Features, same: np.ndarray | None = None) -> Iterator[tuple[slice, Tensor]]:
    """(rows, (R, C) float32 similarities) of as many queries at once as memory allows; ``same`` as in :func:`search`."""
    columns = None if same is None or (same == np.arange(len(same))).all() else torch.from_numpy(same)
    for rows in recall.row_chunks(len(queries), max(1, SCORES_AT_ONCE // max(1, len(candidates)))):
        own = _float32(queries[rows])
        if isinstance(candidates, Tensor):
            scores = own @ candidates.float().T
            yield rows, scores if columns is None else scores[:, columns]
            continue
        scores = torch.empty((len(own), len(candidates)))
        for part in recall.row_chunks(len(candidates), CANDIDATES_AT_ONCE):
            scores[:, part] = own @ _float32(candidates[part]).T
        yield rows, scores


def _float32(features: Features) -> Tensor:
    return features.float() if isinstance(features, Tensor) else torch.from_numpy(np.array(features)).float()
