"""Single shots → a video with known transitions: what detectors are trained on and measured with.

A shot is an array (T, H, W, 3) uint8 without any transition in it. Every choice is drawn from the generator that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from omnivast.corpus.boundaries.distractors import DISTRACTORS
from omnivast.corpus.boundaries.transitions import drawn

JOINS = ("cut", "dissolve", "fade", "wipe")
"""How two shots follow each other; a wipe is also a push, a slide or an iris. Beside them "jump": frames are taken out of one shot."""
SEEN = 6
"""Levels of 255 by which a jump, or any other transition, must change the frame on average: between frames that are the same there is
nothing to be seen."""
TRIES = 8
"""To find a shot that can be told from the one before."""
MARGIN = 5
"""Untouched frames that a shot keeps on each side of a transition or of a distractor."""
Vary = Callable[[ndarray, np.random.Generator], ndarray]


@dataclass(frozen=True)
class Happening:
    """Frames ``first`` to ``last`` of a transition, or of a distractor. Of a cut both are the first frame of the new shot."""

    first: int
    last: int
    kind: str


@dataclass(frozen=True)
class Style:
    """How often what happens, and how long it takes."""

    joins: tuple[float, ...] = (0.46, 0.28, 0.13, 0.13)
    """Shares of ``JOINS``."""
    jumps: float = 0.08
    """Share of shots with a jump in them."""
    frames: tuple[int, int] = (8, 48)
    """Of a dissolve; fades and wipes take the same."""
    eases: tuple[str, ...] = ("linear", "linear", "smooth")
    distractors: float = 0.4
    """Share of shots with one."""
    alike: float = 0.75
    """Share of neighbours that look alike."""
    bursts: float = 0.25
    """Share of videos with a run of five to nine shots of 5 to 24 frames."""


@dataclass
class Composed:
    """A video whose transitions are known."""

    frames: ndarray
    """(T, H, W, 3) uint8."""
    transitions: list[Happening] = field(default_factory=list)
    distractors: list[Happening] = field(default_factory=list)


def compose(shots: Sequence[ndarray], count: int, rng: np.random.Generator, style: Style = Style(), vary: Vary | None = None) -> Composed:
    """A video of ``count`` shots, and some more in a burst, drawn from ``shots``, which should be 20 frames long or longer. ``vary``
    changes a shot before it is used."""
    looks = np.stack([look(shot) for shot in shots])
    burst = int(rng.integers(1, count)) if count > 2 and rng.random() < style.bursts else count
    short = range(burst, burst + (int(rng.integers(5, 10)) if burst < count else 0))
    result, length, last = Composed(shots[0][:0]), 0, int(rng.integers(len(shots)))
    pieces: list[ndarray] = []
    for number in range(count + len(short)):
        last, piece = _next(shots, looks, last, pieces, (5, 24) if number in short else (40, 10**6), rng, style, vary)
        piece, own = (piece, []) if number in short else _eventful(piece, rng, style)
        if number:
            # What another transition has taken is left alone.
            before = length - (result.transitions[-1].last + 1 if result.transitions else 0)
            behind = min([len(piece), *(one.first for one in own if one.kind == "jump")])
            kind = "cut" if number in short or number == short.stop else str(rng.choice(JOINS, p=style.joins))
            n = _frames_of_join(kind, before, behind, rng, style)
            if n:
                pieces[-1], tail = pieces[-1][:-n], pieces[-1][-n:]
                length -= n
                result.transitions.append(Happening(length, length + n - 1, kind))
                piece = np.concatenate([drawn(kind, tail, piece[:n], rng, style.eases), piece[n:]])
                own = [one for one in own if one.first >= n + 2]
                result.distractors = [one for one in result.distractors if one.last < length]
            else:
                result.transitions.append(Happening(length, length, "cut"))
        for one in own:
            found = result.transitions if one.kind == "jump" else result.distractors
            found.append(Happening(length + one.first, length + one.last, one.kind))
        pieces.append(piece)
        length += len(piece)
    result.frames = np.concatenate(pieces)
    return result


def look(shot: ndarray) -> ndarray:
    """(48,) what a shot looks like on average, by which shots that look alike are found."""
    mean = shot[:: max(1, len(shot) // 8)].mean(0, dtype=np.float32)
    height, width = mean.shape[0] // 4 * 4, mean.shape[1] // 4 * 4
    return mean[:height, :width].reshape(4, height // 4, 4, width // 4, 3).mean((1, 3)).reshape(-1)


def next_shot(looks: ndarray, last: int, alike: float, rng: np.random.Generator) -> int:
    """One of the five that look most like the last, or any; never the last itself where there are others."""
    distances = np.abs(looks - looks[last]).sum(1)
    ranked = [int(index) for index in np.argsort(distances, kind="stable") if index != last]
    if not ranked:
        return last
    return ranked[int(rng.integers(min(5, len(ranked)) if rng.random() < alike else len(ranked)))]


def _next(shots: Sequence[ndarray], looks: ndarray, last: int, pieces: Sequence[ndarray], frames: tuple[int, int],
          rng: np.random.Generator, style: Style, vary: Vary | None) -> tuple[int, ndarray]:
    """(number, part) of a shot that can be told from the end of the last of ``pieces``: of the last that was tried where none can."""
    for _ in range(TRIES):
        number = next_shot(looks, last, style.alike, rng) if pieces else last
        piece = _part(shots[number], frames, rng)
        piece = vary(piece, rng) if vary else piece
        if not pieces or np.abs(piece[0].astype(np.float32) - pieces[-1][-1]).mean() >= SEEN:
            break
    return number, piece


def _part(shot: ndarray, frames: tuple[int, int], rng: np.random.Generator) -> ndarray:
    least, most = (min(n, len(shot)) for n in frames)
    length = int(rng.integers(least, most + 1))
    start = int(rng.integers(len(shot) - length + 1))
    return shot[start : start + length]


def _eventful(piece: ndarray, rng: np.random.Generator, style: Style) -> tuple[ndarray, list[Happening]]:
    """The same, at times with a distractor or with a jump in it."""
    if rng.random() < style.jumps:
        return _jumped(piece, rng)
    if rng.random() >= style.distractors or len(piece) < 40:
        return piece, []
    kind = str(rng.choice(list(DISTRACTORS)))
    at = int(rng.integers(MARGIN + 3, len(piece) - 3 * MARGIN))
    changed, end = DISTRACTORS[kind](piece, at, rng)
    return changed, [Happening(at, min(end, len(piece)) - 1, kind)]


def _jumped(piece: ndarray, rng: np.random.Generator) -> tuple[ndarray, list[Happening]]:
    """With 10 to 60 frames taken out, unless too few would be left or the two sides would look the same."""
    gap = int(rng.integers(10, 61))
    if len(piece) < gap + 30:
        return piece, []
    at = int(rng.integers(12, len(piece) - gap - 12))
    if np.abs(piece[at + gap].astype(np.float32) - piece[at - 1]).mean() < SEEN:
        return piece, []
    return np.concatenate([piece[:at], piece[at + gap :]]), [Happening(at, at, "jump")]


def _frames_of_join(kind: str, before: int, behind: int, rng: np.random.Generator, style: Style) -> int:
    """How many frames the transition takes; 0, a cut, also where the shots are too short for another."""
    if kind == "cut":
        return 0
    n = min(int(rng.integers(style.frames[0], style.frames[1] + 1)), min(before, behind) - 2 * MARGIN)
    return n if n >= style.frames[0] else 0
