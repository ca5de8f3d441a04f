"""CIDEr as in the COCO caption evaluation (its clipped, length-penalised form, CIDEr-D): the mean over n = 1 … 4 of the tf-idf
cosine between caption and references, times 10. Document frequencies come from the references of the clips scored."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnivast.evaluation.metrics.bleu import check_pairs, ngrams

ORDER = 4
SIGMA = 6.0
SCALE = 10.0
KEPT = 512
"""Clips whose references' weights are kept: a training step scores each clip for several groups."""

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
    against = Cider(references, sigma)
    scores = [against.scores(clip, [candidate])[0] for clip, candidate in enumerate(candidates)]
    return math.fsum(scores) / len(scores), scores


class Cider:
    """CIDEr of any captions against the tokenised references of N clips, which are counted once.

    ``frequency``: their document frequencies, where known already; n-grams that occur in one clip alone may be absent from it.
    """

    def __init__(
        self, references: Sequence[Sequence[str]], sigma: float = SIGMA, frequency: Mapping[Gram, int] | None = None
    ) -> None:
        self._references, self._sigma = references, sigma
        # A gram that occurs in no clip weighs as much as one that occurs in one.
        self._rare = math.log(len(references))
        counts = document_frequency(references) if frequency is None else frequency
        self._weights = {gram: self._rare - math.log(count) for gram, count in counts.items() if count > 1}
        self._recent = functools.lru_cache(maxsize=KEPT)(self._vectors)

    def scores(self, clip: int, candidates: Sequence[str]) -> list[float]:
        """CIDEr of tokenised captions of one clip; 10 is the highest."""
        references = self._recent(clip)
        vectors = (self._vector(candidate) for candidate in candidates)
        return [SCALE * sum(_similarity(vector, other, self._sigma) for other in references) / len(references) for vector in vectors]

    def _vectors(self, clip: int) -> list[_Vector]:
        return [self._vector(text) for text in self._references[clip]]

    def _vector(self, text: str) -> _Vector:
        find, rare = self._weights.get, self._rare
        counts = ngrams_of(text)
        weights = [{gram: count * find(gram, rare) for gram, count in of_length.items()} for of_length in counts]
        norms = [math.sqrt(sum(weight * weight for weight in of_length.values())) for of_length in weights]
        return _Vector(weights, norms, length=sum(counts[1].values()))


def document_frequency(references: Sequence[Sequence[str]]) -> Counter[Gram]:
    """In how many clips' references each n-gram occurs."""
    frequency: Counter[Gram] = Counter()
    for texts in references:
        frequency.update({gram for reference in texts for counts in ngrams_of(reference) for gram in counts})
    return frequency


def ngrams_of(text: str) -> list[Counter[Gram]]:
    """Counts of the 1-grams to 4-grams of a tokenised text."""
    return ngrams(text.split(), ORDER)


def _similarity(candidate: _Vector, reference: _Vector, sigma: float) -> float:
    """Mean over the orders of the clipped cosine, with the Gaussian penalty on the difference of lengths."""
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * sigma**2))
    total = 0.0
    for weights, other, norm, other_norm in zip(candidate.weights, reference.weights, candidate.norms, reference.norms):
        if norm == 0 or other_norm == 0:
            continue
        product = sum(min(weight, other[gram]) * other[gram] for gram, weight in weights.items() if gram in other)
        total += product / (norm * other_norm)
    return total * penalty / len(candidate.weights)
