"""Loss spikes: steps whose loss stands out from the last ones of their corpus."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

WINDOW = 100
"""Losses of a corpus that a new one is compared with."""
ENOUGH = 20
"""Losses of a corpus that must be known before a new one is judged."""
DEVIATION_PER_MAD = 1.4826
"""The standard deviation of a normal distribution, in units of its median absolute deviation."""
LEAST_DEVIATION = 0.01
"""Lower bound of the deviation, as a share of the median: where losses hardly vary, small differences are no spikes."""


@dataclass(frozen=True)
class Spike:
    """A loss above the threshold, and what it was compared with."""

    loss: float
    median: float
    threshold: float


class LossSpikes:
    """Judges each loss by the median of the last ones of its corpus and their median absolute deviation, which a few spikes among
    them hardly move. A function of the losses alone, so that a resumed run finds the same."""

    def __init__(self, factor: float) -> None:
        """``factor``: deviations above the median from which a loss is a spike; 0: nothing is judged."""
        self.factor = factor
        self.windows: dict[str, deque[float]] = {}

    def judge(self, corpus: str, loss: float) -> Spike | None:
        """The spike that ``loss`` is, or None. A loss that is not finite is neither judged nor remembered."""
        if self.factor <= 0 or not math.isfinite(loss):
            return None
        window = self.windows.setdefault(corpus, deque(maxlen=WINDOW))
        known = list(window)
        window.append(loss)
        if len(known) < ENOUGH:
            return None
        median = statistics.median(known)
        deviation = DEVIATION_PER_MAD * statistics.median(abs(value - median) for value in known)
        threshold = median + self.factor * max(deviation, LEAST_DEVIATION * abs(median))
        return Spike(loss, median, threshold) if loss > threshold else None

    def state_dict(self) -> dict[str, list[float]]:
        return {corpus: list(window) for corpus, window in self.windows.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.windows = {corpus: deque(losses, maxlen=WINDOW) for corpus, losses in state.items()}
