"""Self-critical sequence training (Rennie et al., CVPR 2017, equation 8): texts better than a baseline become likelier, worse ones less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from omnivast.config.tasks import CaptionKind

Reward = Callable[[str, CaptionKind, Sequence[str], Sequence[Sequence[str]]], list[list[float]]]
"""(corpus, caption kind, clip ids (B), captions of each clip) → the reward of each caption."""


@dataclass(frozen=True)
class SelfCritical:
    """What captions are tried, and what they are compared with."""

    reward: Reward
    candidates: int = 5
    search: Literal["sample", "beam"] = "sample"
    baseline: Literal["greedy", "mean"] = "greedy"


def advantages(rewards: Tensor, baseline: Tensor | None = None) -> Tensor:
    """The advantage (B, n) of each text: its reward minus the baseline (B,) or, without one, minus the mean reward of the other n − 1
    texts of its clip."""
    if baseline is not None:
        return rewards - baseline[:, None]
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def self_critical_loss(log_probs: Tensor, advantage: Tensor) -> Tensor:
    """Mean of −advantage · log p over the texts tried, each (B, n). Its gradient is that of the expected reward, negated."""
    return -(advantage.detach() * log_probs).mean()
