"""ROUGE-L as in the COCO caption evaluation: an F-score (beta 1.2) of the longest common subsequence, with the best precision
and the best recall over a clip's references, averaged over clips."""

from __future__ import annotations

from collections.abc import Sequence

from omnivast.evaluation.metrics.bleu import check_pairs

BETA = 1.2


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """(mean, per clip) ROUGE-L from 0 to 1 of N tokenised captions against N lists of tokenised references."""
    check_pairs(candidates, references)
    scores = [_score(candidate, texts) for candidate, texts in zip(candidates, references)]
    return sum(scores) / len(scores), scores


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit-parallel dynamic programming: one row of the table per big integer."""
    places: dict[str, int] = {}
    for position, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << position
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()


def _score(candidate: str, references: Sequence[str]) -> float:
    # Splitting at single blanks keeps an empty sentence as one empty token, as the COCO evaluation has it.
    tokens = candidate.split(" ")
    precision = recall = 0.0
    for reference in references:
        reference_tokens = reference.split(" ")
        common = common_subsequence(reference_tokens, tokens)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(reference_tokens))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
