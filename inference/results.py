"""What a model says of clips, in types that turn into JSON by :func:`as_json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from omnivast.model.interface import Rows


@dataclass(frozen=True)
class Embedding:
    """The vectors of a clip."""

    name: str
    vectors: dict[str, np.ndarray]
    """(D,) float32 by group: "v", "a", "va" …, those that the clip has all tracks of and the model a head for."""
    missing: tuple[str, ...] = ()
    """Tracks that the clip lacks, in words: "audio", "subtitle"."""
    rows: dict[str, Rows] = field(default_factory=dict, repr=False)
    """All that the model compares clips by, which of some models is more than a vector: a row of each group."""


@dataclass(frozen=True)
class Caption:
    """What a model says of a clip."""

    name: str
    text: str
    group: str
    """The tracks that it looked at: "vas"."""
    candidates: tuple[str, ...]
    """All captions that were asked for, the best first."""
    missing: tuple[str, ...] = ()
    scores: tuple[float | None, ...] = field(default=(), compare=False)
    """Of each candidate the log-probability; of a beam search over the length to the power of its penalty, which is what it orders by. None
    where the family does not say."""


@dataclass(frozen=True)
class Evidence:
    """A frame or a slice of sound, one of those without which the answer is another."""

    track: str
    """"seen" or "heard"."""
    number: int
    """Of the frames or slices that the model was shown, from 0."""
    drop: float
    """How much the answer's log-probability falls when it goes too, after those named before it."""
    without: str
    """The answer without it and those named before it."""
    start: float | None = None
    end: float | None = None
    """The part of the clip, in seconds, that it stands for; None for what has no times."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question about a clip."""

    name: str
    question: str
    text: str
    group: str
    missing: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] | None = None
    """Where it was asked for: what the answer depends on, what counts most first. Without all of it the answer is another."""
    score: float | None = field(default=None, compare=False)
    """The log-probability of the answer; None where the family does not say."""


def as_json(result: Any) -> dict[str, Any]:
    """A result as plain values."""
    return {key: _plain(value) for key, value in asdict(result).items() if key != "rows"}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [round(float(number), 7) for number in value]
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
