"""One pass over a video: every frame as a thumbnail with its exact time, larger frames at an interval, in batches of bounded size, and its
sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy import ndarray

from omnivast.data.media.decode import every_frame, opened_video
from omnivast.data.media.pixels import one_thread

HEIGHT, WIDTH = 27, 48
"""Of a thumbnail, whatever the shape of the video."""
BATCH = 256
"""Frames that are handed over together."""


@dataclass(frozen=True)
class Batch:
    """Frames that follow each other."""

    thumbnails: ndarray
    """(N, 27, 48, 3) uint8 RGB."""
    pts: ndarray
    """(N,) int64, in units of the stream's time base."""
    keys: list[tuple[int, ndarray]]
    """(index of the frame in the video, (side, side, 3) uint8) of the key frames, which are larger."""
    frames: ndarray | None = None
    """(N, H, W, 3) uint8 RGB: the same frames as wide as was asked for."""


@dataclass(frozen=True)
class Source:
    """What the container says of a video."""

    width: int
    height: int
    fps: float
    """Frames a second on average; 0 where the container does not say."""
    time_base: Fraction
    """Seconds of one unit of pts."""
    codec: str
    sound: bool
    seconds: float | None


def probe(path: Path) -> Source:
    """Raises MediaError: no video, or it cannot be read."""
    with opened_video(path) as (container, video):
        whole = container.duration / av.time_base if container.duration else None
        seconds = float(video.duration * video.time_base) if video.duration else whole
        return Source(video.codec_context.width, video.codec_context.height, float(video.average_rate or 0), video.time_base,
                      video.codec_context.name, bool(container.streams.audio), seconds)


class Thumbnails:
    """A pass over the frames of a video, made by iterating; ``count`` is right at the end."""

    def __init__(self, path: Path, key_seconds: float = 0.0, key_side: int = 224, frame_width: int = 0,
                 hear: Callable[[av.AudioFrame], None] | None = None) -> None:
        """``key_seconds``: a key frame, squeezed to ``key_side`` pixels square (0: as its thumbnail), is handed over each time so much has
        gone by; 0: none. ``frame_width``: every frame is handed over at this width too, or at its own where that is less; 0: none.
        ``hear``: is given the sound, decoded in the same pass."""
        self.path, self.key_seconds, self.key_side, self.frame_width, self.hear = path, key_seconds, key_side, frame_width, hear
        self.count = self._last = 0
        self._step = 1
        self._scale = VideoReformatter()

    def __iter__(self) -> Iterator[Batch]:
        """Raises MediaError."""
        small: list[ndarray] = []
        wide: list[ndarray] = []
        pts: list[int] = []
        keys: list[tuple[int, ndarray]] = []
        next_key = float("-inf")
        self.count = self._last = 0
        for frame in every_frame(self.path, self.hear):
            pts.append(self._pts(frame))
            small.append(self._scaled(frame, WIDTH, HEIGHT))
            if self.frame_width:
                width = min(self.frame_width, frame.width)
                wide.append(self._scaled(frame, width, max(1, round(frame.height * width / frame.width))))
            time = float(pts[-1] * frame.time_base)
            if self.key_seconds and time >= next_key:
                next_key = max(next_key, time) + self.key_seconds
                side = self.key_side
                keys.append((self.count, self._scaled(frame, side, side) if side else small[-1]))
            self.count += 1
            if len(pts) == BATCH:
                yield Batch(np.stack(small), np.array(pts, np.int64), keys, np.stack(wide) if wide else None)
                small, wide, pts, keys = [], [], [], []
        if pts:
            yield Batch(np.stack(small), np.array(pts, np.int64), keys, np.stack(wide) if wide else None)

    def _pts(self, frame: Any) -> int:
        """Its time, or, where the container has none, the one that follows the last."""
        if frame.pts is None:
            frame.pts = self._last + self._step
        self._step = max(1, frame.pts - self._last) if self.count else max(1, frame.duration or 1)
        self._last = int(frame.pts)
        return self._last

    def _scaled(self, frame: Any, width: int, height: int) -> ndarray:
        """(height, width, 3) uint8, upright."""
        turns = round(frame.rotation / 90) % 4
        if turns % 2 and (width, height) == (WIDTH, HEIGHT):
            width, height = height, width
        rgb = self._scale.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA, **one_thread())
        return np.rot90(rgb.to_ndarray(), turns)
