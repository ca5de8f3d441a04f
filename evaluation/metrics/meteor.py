"""METEOR 1.5 (Denkowski and Lavie, "Meteor Universal", WMT 2014) from the counts that its aligner finds; English settings.

The aligner (stems, synonyms, paraphrases) is the reference's own Java program, see :mod:`evaluation.captions.java`; the formula is here, so
that the corpus score can be recomputed for any draw of clips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COUNTS = 23
"""Numbers per clip: words of caption and reference, their function words; per matcher (exact, stem, synonym, paraphrase) the matched
content words of both, then the matched function words of both; chunks; matched words of caption and reference."""
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])


def meteor_terms(counts: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """(N, 23) float64 terms whose sum over clips decides the corpus score: a clip whose words all match in one chunk adds no chunk."""
    terms = np.array(counts, dtype=np.float64).reshape(-1, COUNTS)
    whole = (terms[:, 20] == 1) & (terms[:, 21] == terms[:, 0]) & (terms[:, 22] == terms[:, 1])
    terms[whole, 20] = 0
    return terms


def meteor_of_sums(sums: np.ndarray) -> np.ndarray:
    """(R,) METEOR from 0 to 1 of (R, 23) sums of :func:`meteor_terms`; 0 where nothing matches."""
    words, function_words, chunks = sums[:, 0:2], sums[:, 2:4], sums[:, 20]
    matched = sums[:, 4:20].reshape(-1, 4, 2, 2)  # row, matcher, content or function, caption or reference
    weighted = np.einsum("m,rmkt,k->rt", MATCHERS, matched, [DELTA, 1 - DELTA])
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = (weighted / (DELTA * (words - function_words) + (1 - DELTA) * function_words)).T
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        penalty = GAMMA * (chunks / (sums[:, 21:23].mean(1))) ** BETA
    return np.nan_to_num(mean * (1 - penalty), nan=0.0)
