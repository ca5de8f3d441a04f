"""Ranks and recall of retrieval. Ties are counted pessimistically: a wrong candidate with the true one's score stands before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from omnivast.evaluation.metrics import bootstrap

DEPTHS = (1, 5, 10, 50)
ROWS_AT_ONCE = 1024


def ranks(scores: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray, also: np.ndarray | None = None) -> np.ndarray:
    """Rank of the best true candidate of every query, from 1.

    Args:
        scores: (Q, C) float, higher is better.
        query_keys: (Q,) int; candidate c is true for query q when their keys are equal. Several queries may share a key
            (several texts of a clip), and several candidates too (several texts of a clip, searched by the clip).
        candidate_keys: (C,) int.
        also: (P, 2) int, sorted by query: pairs (query, candidate) that are true beside those of equal keys, as where several clips
            have the same text.

    Returns:
        (Q,) int64: 1 + how many false candidates score as high as the best true one, or higher. Other true candidates of
        the same query never count against it.

    Raises:
        ValueError: shapes disagree, a score is not a number, or a query has no true candidate.
    """
    scores = np.asarray(scores)
    query_keys, candidate_keys = np.asarray(query_keys), np.asarray(candidate_keys)
    if scores.shape != (len(query_keys), len(candidate_keys)):
        raise ValueError(f"scores are {scores.shape}, but there are {len(query_keys)} queries and {len(candidate_keys)} candidates")
    result = np.empty(len(query_keys), dtype=np.int64)
    for rows in row_chunks(len(query_keys)):
        result[rows] = _ranks_of_rows(scores[rows], query_keys[rows], candidate_keys, pairs_within(also, rows), rows.start)
    return result


def pairs_within(also: np.ndarray | None, rows: slice) -> np.ndarray | None:
    """The pairs of :func:`ranks` whose query is in ``rows``, their queries counted from its start."""
    if also is None:
        return None
    start, stop = np.searchsorted(also[:, 0], [rows.start, rows.stop])
    return also[start:stop] - [rows.start, 0]


def _ranks_of_rows(
    scores: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray, also: np.ndarray | None, first: int
) -> np.ndarray:
    queries, candidates = true_pairs(query_keys, candidate_keys, also)
    counts = np.bincount(queries, minlength=len(query_keys))
    if not counts.all():
        raise ValueError(f"query {first + int(np.argmin(counts))} has no true candidate")
    unknown = np.isnan(scores.min(1))
    if unknown.any():
        raise ValueError(f"the scores of query {first + int(np.argmax(unknown))} are not all numbers")
    true = scores[queries, candidates]
    best = np.maximum.reduceat(true, np.cumsum(counts) - counts)
    as_good = np.bincount(queries[true >= best[queries]], minlength=len(query_keys))
    return 1 + (scores >= best[:, None]).sum(1) - as_good


def true_pairs(query_keys: np.ndarray, candidate_keys: np.ndarray, also: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(P,) queries in order and (P,) their true candidates, see :func:`ranks`; each pair once."""
    order = np.argsort(candidate_keys, kind="stable")
    first, last = (np.searchsorted(candidate_keys[order], query_keys, side) for side in ("left", "right"))
    counts = last - first
    queries = np.repeat(np.arange(len(query_keys)), counts)
    candidates = order[np.arange(len(queries)) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
    if also is not None:
        pairs = np.unique(np.concatenate([np.stack([queries, candidates], 1), also]), axis=0)
        queries, candidates = pairs[:, 0], pairs[:, 1]
    return queries, candidates


def reranked_ranks(
    first_ranks: np.ndarray, top: np.ndarray, top_scores: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray,
    also: np.ndarray | None = None,
) -> np.ndarray:
    """Ranks after the first k candidates of every query were put in the order of a second score, before all others.

    Args:
        first_ranks: (Q,) ranks by the first score, from :func:`ranks`.
        top: (Q, k) int: the k best candidates by the first score.
        top_scores: (Q, k) their second score.
        query_keys, candidate_keys, also: as in :func:`ranks`.

    Returns:
        (Q,) int64; a query whose true candidates are all outside the k keeps its rank.
    """
    if np.isnan(top_scores).any():
        raise ValueError(f"the re-ranking scores of query {int(np.argmax(np.isnan(top_scores).any(1)))} are not all numbers")
    true = np.asarray(candidate_keys)[top] == np.asarray(query_keys)[:, None]
    if also is not None:
        queries, candidates = np.arange(len(top))[:, None], len(candidate_keys)
        true |= np.isin(queries * candidates + top, also[:, 0] * candidates + also[:, 1])
    best = np.where(true, top_scores, -np.inf).max(1, keepdims=True)
    within = 1 + ((top_scores >= best) & ~true).sum(1)
    # With ties at the edge of the k, the pessimistic first rank of a true candidate inside may exceed k: it is inside all the same.
    return np.where(true.any(1), within, first_ranks).astype(np.int64)


def summary(query_ranks: Sequence[int] | np.ndarray, depths: Sequence[int] = DEPTHS) -> dict[str, float]:
    """``{"r1", "r5", "r10", "r50", "median_rank", "mean_rank"}``: recalls in percent, ranks from 1. Raises ValueError without queries."""
    values = np.asarray(query_ranks)
    each = np.arange(len(values))
    return {name: bootstrap.value(measure, len(values)) for name, measure in measures(values, each, len(values), depths).items()}


def measures(query_ranks: np.ndarray, clip: np.ndarray, clips: int, depths: Sequence[int] = DEPTHS) -> dict[str, bootstrap.Measure]:
    """The metrics of :func:`summary` for any draw of clips; query q belongs to clip ``clip[q]`` of ``clips``."""
    if not len(query_ranks):
        raise ValueError("no query to summarise")
    recalls: dict[str, bootstrap.Measure] = {
        f"r{depth}": bootstrap.mean((query_ranks <= depth).astype(float), clip, clips, 100.0) for depth in depths
    }
    return {**recalls, "median_rank": bootstrap.Median(query_ranks, clip), "mean_rank": bootstrap.mean(query_ranks, clip, clips)}


def row_chunks(rows: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices that cover ``rows`` rows, at most ``size`` at once, so that comparisons need bounded memory."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
