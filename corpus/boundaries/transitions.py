"""Two shots → the frames of a transition from one to the other.

All functions take ``tail`` and ``head``, (n, H, W, 3) uint8: the last n frames of the old shot and the first n of the new one, which both
go on while one turns into the other; they return (n, H, W, 3) uint8. No frame returned is wholly the old or the new shot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

EASES: dict[str, Callable[[ndarray], ndarray]] = {
    "linear": lambda t: t,
    "smooth": lambda t: t * t * (3 - 2 * t),
    "in": lambda t: t**1.6,
    "out": lambda t: 1 - (1 - t) ** 1.6,
}
"""How far a transition is after a share of its time."""


def shares(n: int, ease: str) -> ndarray:
    """(n,) from just above 0 to just below 1."""
    return EASES[ease](np.arange(1, n + 1) / (n + 1))


def blended(a: ndarray, b: ndarray, share: ndarray) -> ndarray:
    """``a`` (1 - share) + ``b`` share, in uint8."""
    return np.clip(a + (b.astype(np.float32) - a) * share + 0.5, 0, 255).astype(np.uint8)


def dissolve(tail: ndarray, head: ndarray, ease: str) -> ndarray:
    return blended(tail, head, shares(len(tail), ease)[:, None, None, None])


def fade(tail: ndarray, head: ndarray, ease: str, colour: float, out: int, hold: int) -> ndarray:
    """Through a plain colour (0 black, 255 white): ``out`` frames into it, ``hold`` frames of it, the rest out of it."""
    n = len(tail)
    back = n - out - hold
    plain = np.full_like(tail, colour)
    return np.concatenate([blended(tail[:out], plain[:out], shares(out, ease)[:, None, None, None]), plain[out : out + hold],
                           blended(plain[n - back :], head[n - back :], shares(back, ease)[:, None, None, None])])


def wipe(tail: ndarray, head: ndarray, ease: str, angle: float, soft: float, iris: bool = False) -> ndarray:
    """An edge, ``soft`` of the frame wide, goes over the frame in the direction ``angle`` (radians), or a circle opens."""
    height, width = tail.shape[1:3]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    place = np.hypot(x, y) if iris else x * np.cos(angle) + y * np.sin(angle)
    place = (place - place.min()) / np.ptp(place)
    soft = max(soft, 1e-3)
    share = np.clip((shares(len(tail), ease)[:, None, None] * (1 + soft) - place) / soft, 0, 1)
    return blended(tail, head, share[..., None].astype(np.float32))


def push(tail: ndarray, head: ndarray, ease: str, across: bool, backwards: bool, over: bool) -> ndarray:
    """The new shot slides in and pushes the old one out, or (``over``) slides over it."""
    axis = 1 if across else 0
    result = tail.copy()
    size = tail.shape[1 + axis]
    for n, share in enumerate(shares(len(tail), ease)):
        shift = min(max(round(share * size), 1), size - 1)
        old, new = (np.moveaxis(part[n], axis, 0) for part in (tail, head))
        if backwards:
            kept = old[:-shift] if not over else old[shift:]
            frame = np.concatenate([new[size - shift :], kept])
        else:
            kept = old[shift:] if not over else old[: size - shift]
            frame = np.concatenate([kept, new[:shift]])
        result[n] = np.moveaxis(frame, 0, axis)
    return result


def drawn(kind: str, tail: ndarray, head: ndarray, rng: np.random.Generator, eases: tuple[str, ...]) -> ndarray:
    """A transition of ``kind`` ("dissolve", "fade", "wipe") with everything else of it drawn."""
    n, ease = len(tail), str(rng.choice(eases))
    if kind == "dissolve":
        return dissolve(tail, head, ease)
    if kind == "fade":
        hold = int(rng.integers(1, max(2, n // 3)))
        out = max(1, int((n - hold) * rng.uniform(0.35, 0.65)))
        return fade(tail, head, ease, float(rng.choice((0, 0, 0, 16, 255, 240))), min(out, n - hold - 1), hold)
    if rng.random() < 0.5:
        return wipe(tail, head, ease, float(rng.integers(8)) * np.pi / 4 if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi),
                    float(rng.choice((0, 0, 0.1, 0.4))), iris=rng.random() < 0.2)
    return push(tail, head, ease, bool(rng.random() < 0.7), bool(rng.random() < 0.5), bool(rng.random() < 0.4))
