"""Batches of frames → transitions. Every detector is fed by one pass over a video and holds a bounded number of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy import ndarray

from omnivast.corpus.boundaries.network import KINDS, SIGHT, BoundaryNetwork, load_network
from omnivast.corpus.boundaries.thumbnails import HEIGHT, WIDTH, Batch

CHUNK = 512
"""Frames that the network answers for at once, beside those around them that it looks at."""
THRESHOLD = 0.6
"""Probability of lying in a transition that some frame of it must reach."""
EDGE = 0.25
"""The same, of the frames around that one that belong to the transition."""
DOUBT = 0.05
"""The same, of what may be a transition: what a clip that is to hold none must not hold."""
GAP = 2
"""Frames below EDGE that do not end a transition that lasts."""


@dataclass(frozen=True)
class Transition:
    """The frames of a transition, numbered from 0. Of a cut ``first`` and ``last`` are both the first frame of the new shot."""

    first: int
    last: int
    kind: str
    score: float
    """From 0 to 1."""


class Detector(Protocol):
    """What is fed with a video's batches in order, and then asked once."""

    name: str
    frame_width: int
    """Width of the frames that it wants beside thumbnails, in pixels; 0: none."""

    def add(self, batch: Batch) -> None: ...

    def end(self) -> list[Transition]: ...


class Ours:
    """The network of this project."""

    name = "ours"
    frame_width = 0

    def __init__(self, network: BoundaryNetwork | None = None, threshold: float = THRESHOLD) -> None:
        self.network, self.threshold = network or load_network(), threshold
        self._frames = np.empty((0, HEIGHT, WIDTH, 3), np.uint8)
        self._before = 0
        self._found: list[ndarray] = []

    def add(self, batch: Batch) -> None:
        self._frames = np.concatenate([self._frames, batch.thumbnails])
        while len(self._frames) >= self._before + CHUNK + SIGHT:
            self._answer(CHUNK)

    def end(self) -> list[Transition]:
        while len(self._frames) > self._before:
            self._answer(min(CHUNK, len(self._frames) - self._before))
        return transitions_of(self._answers(), self.threshold)

    def doubts(self) -> list[Transition]:
        """What may be a transition, those that are told included. For after the end."""
        return transitions_of(self._answers(), DOUBT)

    def _answers(self) -> ndarray:
        return np.concatenate(self._found) if self._found else np.empty((0, 3 + len(KINDS)), np.float32)

    def _answer(self, count: int) -> None:
        """For the next ``count`` frames; those before are kept as far as the network looks back."""
        seen = self._frames[: self._before + count + SIGHT]
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(seen)[None])[0, self._before : self._before + count]
            answers = torch.cat([logits[:, :3].sigmoid(), logits[:, 3:].softmax(-1)], -1).numpy()
        self._found.append(self.reviewed(answers, seen, self._before).astype(np.float16))
        kept = max(0, self._before + count - SIGHT)
        self._before += count - kept
        self._frames = self._frames[kept:]

    def reviewed(self, answers: ndarray, seen: ndarray, before: int) -> ndarray:
        """``answers`` (N, 7) for the frames ``before`` to ``before`` + N of those ``seen``, as they are: others look again."""
        return answers


def transitions_of(answers: ndarray, threshold: float = THRESHOLD) -> list[Transition]:
    """(T, 7) probabilities of inside, first, last and of the kinds → the transitions, in order."""
    answers = answers.astype(np.float32)
    found = []
    for first, last in runs(answers[:, 0], threshold):
        own = answers[first : last + 1]
        kind = KINDS[int(own[:, 3:].mean(0).argmax())]
        if kind == "cut" or last == first:
            first = last = first + int((own[:, 0] + own[:, 1]).argmax())
            kind = "cut"
        found.append(Transition(first, last, kind, round(float(own[:, 0].max()), 3)))
    return found


def runs(inside: ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """(first, last) of the stretches of frames above EDGE, short gaps included, that reach the threshold."""
    above = np.flatnonzero(inside >= min(EDGE, threshold))
    for run in np.split(above, np.flatnonzero(np.diff(above) > GAP + 1) + 1):
        if len(run) and inside[run].max() >= threshold:
            yield int(run[0]), int(run[-1])
