"""CIDEr as in the COCO caption evaluation (its clipped, length-penalised form, CIDEr-D): the mean over n = 1 … 4 of the tf-idf
cosine between caption and references, times 10. Document frequencies come from the references of the clips scored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.metrics.bleu import check_pairs, ngrams

ORDER = 4
SIGMA = 6.0
SCALE = 10.0

Gram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights of one sentence."""

    weights: list[dict[Gram, float]]
    norms: list[float]
    length: int
    """Number of 2-grams, which the evaluation takes for the length."""


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = SIGMA) -> tuple[float, list[float]]:
    """(mean, per clip) CIDEr of N tokenised captions against N lists of tokenised references; 10 is the highest.

    One clip alone scores 0: with a single document no n-gram is informative.
    """
    check_pairs(candidates, references)
    counts = [[ngrams(reference.split(), ORDER) for reference in own] for own in references]
    frequency = document_frequency(counts)
    log_documents = math.log(len(candidates))
    scores = []
    for candidate, own in zip(candidates, counts):
        vector = _vector(ngrams(candidate.split(), ORDER), frequency, log_documents)
        total = sum(_similarity(vector, _vector(reference, frequency, log_documents), sigma) for reference in own)
        scores.append(SCALE * total / len(own))
    return math.fsum(scores) / len(scores), scores


def document_frequency(references: Sequence[Sequence[list[Counter[Gram]]]]) -> Counter[Gram]:
    """In how many clips' references each n-gram occurs."""
    frequency: Counter[Gram] = Counter()
    for own in references:
        frequency.update({gram for reference in own for counts in reference for gram in counts})
    return frequency


def _vector(counts: list[Counter[Gram]], frequency: Counter[Gram], log_documents: float) -> _Vector:
    weights = [{gram: count * (log_documents - math.log(max(1, frequency[gram]))) for gram, count in own.items()} for own in counts]
    norms = [math.sqrt(sum(weight * weight for weight in own.values())) for own in weights]
    return _Vector(weights, norms, length=sum(counts[1].values()))


def _similarity(candidate: _Vector, reference: _Vector, sigma: float) -> float:
    """Mean over the orders of the clipped cosine, with the Gaussian penalty on the difference of lengths."""
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * sigma**2))
    total = 0.0
    for own, other, own_norm, other_norm in zip(candidate.weights, reference.weights, candidate.norms, reference.norms):
        if own_norm == 0 or other_norm == 0:
            continue
        product = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
        total += product / (own_norm * other_norm)
    return total * penalty / len(candidate.weights)
