"""What the training loop knows of a step, and sums over the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from omnivast.training.logs.spikes import Spike


@dataclass
class Counters:
    """Sums over the run so far; saved with each checkpoint."""

    clips: dict[str, int] = field(default_factory=dict)
    """Clips trained on, by corpus, over all processes."""
    unreadable: int = 0
    nonfinite: int = 0
    """Steps left out because a loss or gradient was not finite."""
    overflows: int = 0
    """fp16 steps in a row that overflowed and were left out, up to the last one."""
    seconds: float = 0.0
    """Time spent training, evaluations and saving not counted."""


@dataclass
class StepResult:
    """One optimiser step, the same on every rank but for ``unreadable``, ``clip_ids`` and ``waited``."""

    corpus: str
    """The corpus of the step; names of several, in an interleaved mixture, are joined by a plus."""
    losses: dict[str, float]
    lr: dict[str, float]
    grad_norm: float
    skipped: bool
    clips: dict[str, int]
    """By corpus, over all processes."""
    unreadable_total: int
    unreadable: list[tuple[str, str, str]]
    """(corpus, clip id, reason)."""
    clip_ids: list[list[str]]
    """Ids of this process's clips, a list per batch."""
    spike: Spike | None
    stop: bool
    save: bool
    """save_minutes have passed."""
    save_failed: bool
    tell: bool
    """The processes are to tell how fast they are."""
    waited: float
