"""Confidence intervals and paired comparisons by resampling clips (Efron's percentile bootstrap; Koehn, "Statistical significance
tests for machine translation evaluation", EMNLP 2004). All texts or questions of a clip are drawn with it.

A measure turns weights (how often each clip was drawn) into values of a metric; every metric sees the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SEED = 0
RESAMPLES = 1000
LEVEL = 0.95
NUMBERS_AT_ONCE = 1 << 22
WORDS = f"{100 * LEVEL:.0f} %, percentile bootstrap over clips, {RESAMPLES} resamples, seed {SEED}"


class Measure(Protocol):
    """A metric of C clips that can be computed for any draw of them."""

    @property
    def texts(self) -> int:
        """Numbers per draw that :meth:`of` needs at once."""

    def of(self, weights: np.ndarray) -> np.ndarray:
        """(R,) values for (R, C) weights; NaN where a draw holds nothing to measure."""


@dataclass(frozen=True)
class OfSums:
    """A metric that depends on sums over clips alone: ``function`` maps (R, K) sums of the (C, K) ``terms`` to (R,) values."""

    terms: np.ndarray
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def texts(self) -> int:
        return len(self.terms)

    def of(self, weights: np.ndarray) -> np.ndarray:
        return self.function(weights @ self.terms)


@dataclass(frozen=True)
class Median:
    """The median of (T,) ``values``, of which value t belongs to clip ``clip[t]``."""

    values: np.ndarray
    clip: np.ndarray

    @property
    def texts(self) -> int:
        return len(self.values)

    def of(self, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(self.values, kind="stable")
        ranked = np.asarray(self.values, dtype=np.float64)[order]
        below = np.cumsum(weights[:, self.clip[order]], axis=1)
        drawn = below[:, -1:]
        middle = [np.minimum((below <= np.floor(middle_rank)).sum(1), len(ranked) - 1) for middle_rank in ((drawn - 1) / 2, drawn / 2)]
        return np.where(drawn[:, 0] > 0, (ranked[middle[0]] + ranked[middle[1]]) / 2, np.nan)


def mean(values: Sequence[float] | np.ndarray, clip: np.ndarray, clips: int, scale: float = 1.0) -> OfSums:
    """The mean of (T,) ``values`` times ``scale``; value t belongs to clip ``clip[t]`` of ``clips``."""
    terms = np.stack([np.bincount(clip, values, clips) * scale, np.bincount(clip, minlength=clips)], axis=1)
    return OfSums(terms, _ratio)


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1]


def value(measure: Measure, clips: int) -> float:
    """The metric itself: every clip drawn once."""
    return float(measure.of(np.ones((1, clips)))[0])


def draws(clips: int, resamples: int = RESAMPLES, seed: int = SEED, numbers: int | None = None) -> Iterator[np.ndarray]:
    """(R, C) float64 weights in parts that add up to ``resamples`` rows; a part needs about ``numbers`` (C if None) per row."""
    rng = np.random.default_rng(seed)
    rows = max(1, NUMBERS_AT_ONCE // max(clips, numbers or 0, 1))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, clips, (count, clips)) + clips * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * clips).reshape(count, clips).astype(np.float64)


def replicates(measures: Mapping[str, Measure], clips: int, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """(resamples,) values of every measure, all on the same draws."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for weights in draws(clips, resamples, seed, max((measure.texts for measure in measures.values()), default=0)):
        for name, measure in measures.items():
            values[name].append(measure.of(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def intervals(measures: Mapping[str, Measure], clips: int, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, list[float]]:
    """``{name: [low, high]}``: between them lie 95 % of the resampled values. Draws without anything to measure do not count."""
    return {name: interval(values) for name, values in replicates(measures, clips, resamples, seed).items()}


def interval(values: np.ndarray) -> list[float]:
    """[low, high] of the middle 95 % of (R,) values; NaN is left out."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if not np.isnan(values).all() else (np.nan, np.nan)
    return [float(low), float(high)]


def p_value(differences: np.ndarray) -> float:
    """The two-sided p: twice the smaller share of the (R,) resampled differences on either side of zero, where zeros count on both sides.
    It is never below 1 / R, because R draws cannot show more."""
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return float("nan")
    sides = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (sides + 1) / (len(differences) + 1))
