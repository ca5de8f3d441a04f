"""Corpus BLEU-1 to 4 as the COCO caption evaluation computes it: clipped n-gram precision against all references of a clip,
the reference length closest to the candidate's (the shorter of two equally close), and tiny constants in place of smoothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDER = 4
# The constants of the COCO evaluation: they keep an empty corpus from dividing by zero and are part of its published numbers.
NUMERATOR_FLOOR = 1e-15
DENOMINATOR_FLOOR = 1e-9


def ngrams(tokens: Sequence[str], order: int = ORDER) -> list[Counter[tuple[str, ...]]]:
    """Counts of the 1-grams, 2-grams, … up to ``order``, one counter each."""
    return [Counter(zip(*(tokens[start:] for start in range(n)))) for n in range(1, order + 1)]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = ORDER) -> list[float]:
    """Corpus BLEU-1 … BLEU-``order``, from 0 to 1.

    Args:
        candidates: N tokenised captions (tokens separated by blanks).
        references: N lists of tokenised references, each with at least one.

    Raises:
        ValueError: the lists differ in length, are empty, or a clip has no reference.
    """
    return [float(score) for score in bleu_of_sums(bleu_terms(candidates, references, order).sum(0)[None])[0]]


def bleu_terms(candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = ORDER) -> np.ndarray:
    """(N, 2 · order + 2) float64: per clip the matched and the offered n-grams of each order, then the candidate's and the reference's
    length. Sums over clips decide the score. Raises ValueError as :func:`bleu`."""
    check_pairs(candidates, references)
    terms = np.zeros((len(candidates), 2 * order + 2))
    for row, candidate, texts in zip(terms, candidates, references):
        tokens = candidate.split()
        reference_tokens = [reference.split() for reference in texts]
        row[-2:] = len(tokens), min((abs(len(r) - len(tokens)), len(r)) for r in reference_tokens)[1]
        reference_counts = [ngrams(r, order) for r in reference_tokens]
        for n, counts in enumerate(ngrams(tokens, order)):
            row[n] = sum(min(count, max(r[n][gram] for r in reference_counts)) for gram, count in counts.items())
            row[order + n] = max(0, len(tokens) - n)
    return terms


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """(R, order) BLEU-1 … of (R, 2 · order + 2) sums of :func:`bleu_terms`: geometric means of the precisions of orders 1 … n, times
    the brevity penalty."""
    order = (sums.shape[1] - 2) // 2
    precision = (sums[:, :order] + NUMERATOR_FLOOR) / (sums[:, order:-2] + DENOMINATOR_FLOOR)
    means = np.exp(np.cumsum(np.log(precision), axis=1) / np.arange(1, order + 1))
    ratio = (sums[:, -2] + NUMERATOR_FLOOR) / (sums[:, -1] + DENOMINATOR_FLOOR)
    return means * np.exp(np.minimum(0.0, 1 - 1 / ratio))[:, None]


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError unless there is one candidate per clip, and at least one reference for each."""
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidate captions for {len(references)} clips with references")
    if not candidates:
        raise ValueError("no caption to score")
    empty = [row for row, texts in enumerate(references) if not texts]
    if empty:
        raise ValueError(f"{len(empty)} clips have no reference caption, the first in row {empty[0]}")
