"""The learning rate over the training, as a factor of its peak."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(step: float, total: float, warmup_ratio: float, kind: Literal["warmup_linear", "warmup_cosine"]) -> float:
    """Factor in [0, 1] at ``step`` of ``total``: from 0 to 1 over the first ``warmup_ratio`` of the steps, then down to 0 at ``total``.

    The descent is a straight line (``warmup_linear``) or half a cosine wave (``warmup_cosine``). Raises ValueError for another kind.
    """
    progress = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
    if progress < warmup_ratio:
        return progress / warmup_ratio
    rest = (progress - warmup_ratio) / (1.0 - warmup_ratio) if warmup_ratio < 1.0 else 0.0
    if kind == "warmup_linear":
        return 1.0 - rest
    if kind == "warmup_cosine":
        return 0.5 * (1.0 + math.cos(math.pi * rest))
    raise ValueError(f"unknown scheduler '{kind}'; valid are warmup_linear, warmup_cosine")
