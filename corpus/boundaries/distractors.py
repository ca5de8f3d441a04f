"""What looks like a transition and is none: changes inside one shot, (T, H, W, 3) uint8 → the same shape.

Each changes the frames ``at`` to the end, or some of them, and returns (frames, index behind the last frame of what it does).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

Rng = np.random.Generator
Changed = tuple[ndarray, int]


def lit(frames: ndarray, gain: ndarray, lift: ndarray | float = 0.0) -> ndarray:
    """Brighter or darker by a factor per frame, (T,), and by so many levels."""
    lift = np.broadcast_to(np.asarray(lift, np.float32), gain.shape)
    return np.clip(frames * gain[:, None, None, None].astype(np.float32) + lift[:, None, None, None], 0, 255).astype(np.uint8)


def flash(frames: ndarray, at: int, rng: Rng) -> Changed:
    """One to three bright frames, at times with an afterglow."""
    n = int(rng.integers(1, 4))
    strength = np.zeros(len(frames), np.float32)
    strength[at : at + n] = rng.uniform(60, 220)
    glow = int(rng.integers(0, 5))
    strength[at + n : at + n + glow] = strength[at] * 0.5 ** np.arange(1, glow + 1)[: max(0, len(frames) - at - n)]
    return lit(frames, 1 + strength / 200, strength), at + n + glow


def exposure(frames: ndarray, at: int, rng: Rng) -> Changed:
    """Light that is switched, or a camera that adapts."""
    n = int(rng.choice((1, 1, 3, 8, 20)))
    factor = float(rng.choice((rng.uniform(0.45, 0.8), rng.uniform(1.25, 1.9))))
    ramp = np.clip((np.arange(len(frames)) - at + 1) / n, 0, 1)
    return lit(frames, factor**ramp), at + n


def strobe(frames: ndarray, at: int, rng: Rng) -> Changed:
    n, period = int(rng.integers(10, 40)), int(rng.integers(2, 6))
    phase = np.arange(len(frames)) - at
    on = (phase >= 0) & (phase < n) & (phase % period < max(1, period // 2))
    return lit(frames, np.where(on, rng.uniform(1.3, 2.0), 1.0), np.where(on, rng.uniform(0, 80), 0)), at + n


def moved(frames: ndarray, dx: ndarray, dy: ndarray, zoom: ndarray) -> ndarray:
    """Seen by a camera that is shifted by shares of the frame, (T,), and that magnifies; what lies outside is mirrored."""
    count, height, width = frames.shape[:3]
    result = np.empty_like(frames)
    for n in range(count):
        columns = (np.arange(width) - width / 2) / zoom[n] + width / 2 + dx[n] * width
        rows = (np.arange(height) - height / 2) / zoom[n] + height / 2 + dy[n] * height
        result[n] = frames[n][_mirrored(rows, height)][:, _mirrored(columns, width)]
    return result


def _mirrored(places: ndarray, size: int) -> ndarray:
    index = np.floor(places).astype(int) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def pan(frames: ndarray, at: int, rng: Rng) -> Changed:
    """A fast pan or zoom within 6 to 25 frames."""
    n = int(rng.integers(6, 25))
    t = np.clip((np.arange(len(frames)) - at) / n, 0, 1)
    t = t * t * (3 - 2 * t)
    flat = np.zeros(len(frames))
    if rng.random() < 0.35:
        return moved(frames, flat, flat, rng.uniform(1.3, 2.2) ** (t if rng.random() < 0.5 else 1 - t)), at + n
    angle = rng.uniform(0, 2 * np.pi)
    far = rng.uniform(0.3, 1.2)
    return moved(frames, far * np.cos(angle) * t, far * np.sin(angle) * t * 0.6, flat + 1), at + n


def shake(frames: ndarray, at: int, rng: Rng) -> Changed:
    n = int(rng.integers(8, 40))
    on = np.where((np.arange(len(frames)) >= at) & (np.arange(len(frames)) < at + n), rng.uniform(0.02, 0.08), 0.0)
    dx, dy = rng.normal(size=(2, len(frames))) * on
    return moved(frames, dx, dy, np.ones(len(frames))), at + n


def overlay(frames: ndarray, at: int, rng: Rng) -> Changed:
    """Words or a bar that appear at once or fade in, and may disappear again."""
    count, height, width = frames.shape[:3]
    result = frames.copy()
    n = int(rng.integers(10, 60))
    top, left = int(height * rng.uniform(0, 0.75)), int(width * rng.uniform(0, 0.5))
    bottom, right = min(height, top + max(2, int(height * rng.uniform(0.08, 0.3)))), min(width, left + int(width * rng.uniform(0.2, 0.9)))
    colour = rng.integers(0, 256, 3)
    cover = np.ones((bottom - top, right - left))
    if rng.random() < 0.6:  # letters
        cover = np.where(rng.random(cover.shape) < 0.5, 1.0, 0.0)
    over = int(rng.choice((1, 1, 6, 12)))
    strength = np.where(np.arange(count) < at + n, np.clip((np.arange(count) - at + 1) / over, 0, 1), 0.0)
    mask = (strength[:, None, None] * cover)[..., None] * rng.uniform(0.7, 1)
    area = result[:, top:bottom, left:right]
    result[:, top:bottom, left:right] = np.clip(area + (colour - area.astype(np.float32)) * mask, 0, 255).astype(np.uint8)
    return result, at + n


def inset(frames: ndarray, at: int, rng: Rng) -> Changed:
    """A picture in the picture: the shot itself, small, from another moment."""
    count, height, width = frames.shape[:3]
    n, part = int(rng.integers(15, 60)), rng.uniform(0.2, 0.4)
    rows, columns = (np.linspace(0, size - 1, max(3, int(size * part))).astype(int) for size in (height, width))
    small = frames[::-1][:, rows][:, :, columns][:, :, ::-1]
    top, left = int(rng.integers(0, height - len(rows) + 1)), int(rng.integers(0, width - len(columns) + 1))
    result = frames.copy()
    result[at : at + n, top : top + len(rows), left : left + len(columns)] = small[at : at + n]
    return result, at + n


def passing(frames: ndarray, at: int, rng: Rng) -> Changed:
    """Something near the camera that goes across the frame and hides much of it."""
    count, height, width = frames.shape[:3]
    n, size = int(rng.integers(8, 40)), rng.uniform(0.25, 0.7)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    colour, middle, direction = rng.uniform(10, 200, 3), rng.uniform(0.3, 0.7), rng.choice((-1, 1))
    texture = rng.normal(0, 12, (height, width, 1))
    result = frames.copy()
    for step in range(min(n, count - at)):
        centre = (step + 1) / (n + 1) * (1 + 2 * size) - size
        centre = centre if direction > 0 else 1 - centre
        inside = (((x - centre) / size) ** 2 + ((y - middle) / max(size * 1.4, 0.5)) ** 2 < 0.5)[..., None]
        result[at + step] = np.where(inside, np.clip(colour + texture, 0, 255), result[at + step]).astype(np.uint8)
    return result, at + n


def stutter(frames: ndarray, at: int, rng: Rng) -> Changed:
    """Frames that are doubled, and then some that are dropped."""
    n = int(rng.integers(2, 7))
    result = frames.copy()
    result[at : at + n] = frames[at]
    return result, at + n


DISTRACTORS: dict[str, Callable[[ndarray, int, Rng], Changed]] = {
    "flash": flash, "exposure": exposure, "pan": pan, "shake": shake, "overlay": overlay, "inset": inset, "strobe": strobe,
    "passing": passing, "stutter": stutter,
}
