"""How sure a result is: how often a text that nothing in the index fits finds something with such a score.

A search shows the best of all moments, so what counts is the best score that such a text reaches, not its score with one moment. Of texts
that fit nothing, the null, a share scores at least as high: the (conformal) p-value of a result,

    (1 + texts of the null whose best score is at least this one) / (1 + texts of the null).

A query like the texts of the null, which fits nothing either, has a p-value of at most x with probability x, however scores are spread.
A user may mean several nulls, and a result has to be better than each, so that its p-value is the largest:

- the **background**: texts about other things, searched in this index;
- the same **recombined**, phrases of one put into another (background.py): they share more with what is there;
- the **absent**, where they were fitted (``omnivast index --fit``, known.py): texts whose clips are known, searched among these clips with
  their own left out. They share with other clips what descriptions of such clips share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from omnivast.config.tasks import Modality
from omnivast.model.interface import Rows

REMEMBERED = 256
"""Weightings of which the nulls are kept."""

Weights = Mapping[Modality, float]
Best = Callable[[Rows, Weights], np.ndarray]
"""(texts, weights) → (texts,) the best score of each in an index."""
Absent = Callable[[Weights, frozenset[Modality]], np.ndarray]
"""(weights, tracks to compare by) → (texts,) the best score of each text whose own clip is left out; empty where nothing can be compared
so."""


class QueryError(ValueError):
    """A query that cannot be answered; the message says what is valid."""


class Nulls:
    """The nulls of an index, computed when they are first needed and kept for the next query with the same weights."""

    def __init__(self, best: Best, backgrounds: Sequence[Rows], absent: Absent | None) -> None:
        self._best, self._backgrounds, self._absent = best, backgrounds, absent
        self._kept: dict[tuple[object, ...], list[np.ndarray]] = {}

    def __call__(self, weights: Weights, has: frozenset[Modality]) -> list[np.ndarray]:
        """The nulls (texts,), sorted upwards, of results with the tracks ``has``."""
        key = tuple(weights[track] for track in Modality)
        found = self._remembered(key, lambda: [self._best(texts, weights) for texts in self._backgrounds])
        if self._absent is None:
            return found
        absent = self._absent
        return found + self._remembered((*key, has), lambda: [absent(weights, has)])

    def _remembered(self, key: tuple[object, ...], compute: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        if key not in self._kept:
            if len(self._kept) >= REMEMBERED:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = [np.sort(null) for null in compute() if len(null)]
        return self._kept[key]


def p_values(nulls: Sequence[np.ndarray], scores: np.ndarray) -> np.ndarray:
    """(N,) p-values of scores (N,), each the largest by any of the nulls, which are sorted upwards."""
    found = np.zeros(len(scores))
    for null in nulls:
        above = len(null) - np.searchsorted(null, scores, "left")
        found = np.maximum(found, (1.0 + above) / (1.0 + len(null)))
    return found


def check_share(at_most_false: float, nulls: Sequence[np.ndarray]) -> None:
    """Raise QueryError for a share that the nulls have too few texts for."""
    if not 0 < at_most_false < 1:
        raise QueryError(f"at_most_false is {at_most_false:g}; expected a share between 0 and 1, such as 0.01")
    fewest = min(map(len, nulls))
    if at_most_false * (1 + fewest) < 1:
        raise QueryError(f"at_most_false is {at_most_false:g}, but {fewest} texts that nothing fits tell nothing below "
                         f"{1 / (1 + fewest):.2g}")
