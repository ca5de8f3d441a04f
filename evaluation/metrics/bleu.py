"""Corpus BLEU-1 to 4 as the COCO caption evaluation computes it: clipped n-gram precision against all references of a clip,
the reference length closest to the candidate's (the shorter of two equally close), and tiny constants in place of smoothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

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
    check_pairs(candidates, references)
    matched, offered = [0] * order, [0] * order
    candidate_length = reference_length = 0
    for candidate, own_references in zip(candidates, references):
        tokens = candidate.split()
        reference_tokens = [reference.split() for reference in own_references]
        candidate_length += len(tokens)
        reference_length += min((abs(len(r) - len(tokens)), len(r)) for r in reference_tokens)[1]
        reference_counts = [ngrams(r, order) for r in reference_tokens]
        for n, counts in enumerate(ngrams(tokens, order)):
            offered[n] += max(0, len(tokens) - n)
            matched[n] += sum(min(count, max(r[n][gram] for r in reference_counts)) for gram, count in counts.items())
    return _scores(matched, offered, candidate_length, reference_length)


def _scores(matched: list[int], offered: list[int], candidate_length: int, reference_length: int) -> list[float]:
    """The geometric means of the precisions of orders 1 … n, times the brevity penalty."""
    ratio = (candidate_length + NUMERATOR_FLOOR) / (reference_length + DENOMINATOR_FLOOR)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n, (hits, total) in enumerate(zip(matched, offered), start=1):
        product *= (hits + NUMERATOR_FLOOR) / (total + DENOMINATOR_FLOOR)
        scores.append(product ** (1 / n) * brevity)
    return scores


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError unless there is one candidate per clip, and at least one reference for each."""
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidate captions for {len(references)} clips with references")
    if not candidates:
        raise ValueError("no caption to score")
    empty = [row for row, own in enumerate(references) if not own]
    if empty:
        raise ValueError(f"{len(empty)} clips have no reference caption, the first in row {empty[0]}")
