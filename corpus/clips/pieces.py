"""One source's shots → its clips, by a recipe; and what was dropped, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from omnivast.corpus.clips.copies import Seen
from omnivast.corpus.clips.looks import shapes_of
from omnivast.corpus.clips.movement import RATE
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, Recipe
from omnivast.corpus.split import Split, spans


@dataclass
class Clip:
    """Frames ``first`` to ``end`` - 1 of a source."""

    first: int
    end: int
    looks: tuple[ndarray, ndarray]
    """Of its first and its last frame."""
    mean: ndarray
    """Of its pieces, by which clips of one source are told alike."""
    pieces: int = 1


class Source:
    """A split source, asked by the steps of a recipe."""

    def __init__(self, split: Split, join: float = IMAGEBIND_JOIN) -> None:
        """``join``: the distance that stands for ImageBind's 0.6."""
        self.split, self.scale = split, join / IMAGEBIND_JOIN
        self._pts = split.times.pts()
        self._looks = split.looks.astype(np.float32)
        self._at = np.array(split.look_frames)

    def seconds(self, first: int, end: int) -> float:
        return float((self._pts[end] - self._pts[first]) * self.split.times.base)

    def frame_at(self, first: int, seconds: float) -> int:
        """The frame that is shown so many seconds behind ``first``."""
        wanted = self._pts[first] + seconds / float(self.split.times.base)
        return int(np.searchsorted(self._pts[:-1], wanted - 1e-6))

    def seconds_at(self, frame: int) -> float:
        """When a frame is shown, exactly; of the frame behind the last, when that ends."""
        return float(self._pts[frame] * self.split.times.base)

    def seen(self, first: int, end: int) -> Seen:
        """By which copies of frames ``first`` to ``end`` - 1 are found."""
        inside = np.flatnonzero((self._at >= first) & (self._at < end))
        looks = self._looks[inside] if len(inside) else self.look(first, first, end)[None]
        start, stop = (max(0, int(self.seconds_at(frame) * RATE) - self.split.moved_from) for frame in (first, end))
        shape, look = (_unit(vectors.mean(0)) for vectors in (shapes_of(looks), looks))
        return Seen(shape.astype(np.float16), look.astype(np.float16), self.split.moved[start : max(stop, start + 1)])

    def is_heard(self, first: int, end: int) -> bool:
        """Whether there is sound that is no silence."""
        sound = self.split.sound
        return sound is not None and sound.is_heard(self.seconds_at(first), self.seconds_at(end))

    def heard(self, first: int, end: int) -> dict[str, float | None]:
        """How loud it is, in dBFS, and the share of it that may be speech."""
        start, stop, sound = self.seconds_at(first), self.seconds_at(end), self.split.sound
        return {"loudness": sound.level(start, stop) if sound else None, "maybe_speech": sound.speech_share(start, stop) if sound else None}

    def look(self, frame: int, first: int, end: int) -> ndarray:
        """Of the nearest frame that was kept, in the same piece where it has one."""
        distance = np.abs(self._at - frame)
        inside = (self._at >= first) & (self._at < end)
        return self._looks[int(np.where(inside | ~inside.any(), distance, len(self._looks) + self.split.frames).argmin())]

    def is_near(self, one: ndarray, other: ndarray, distance: float) -> bool:
        return float(np.linalg.norm(one - other)) <= distance * self.scale


def _unit(vector: ndarray) -> ndarray:
    return vector / (np.linalg.norm(vector) + 1e-6)


def clips_of(source: Source, recipe: Recipe) -> tuple[list[Clip], Counter[str]]:
    """In the order of the released code: drop changes, join, drop short, drop still, drop redundant, cut to the longest, trim."""
    dropped: Counter[str] = Counter()
    split = source.split
    shots = spans([*split.boundaries, *(split.doubts if recipe.cautious else [])] if recipe.by_shots else [], split.frames)
    pieces = [piece for first, end in shots for piece in _takes(source, recipe, first, end)]
    clips: list[Clip] = []
    for first, end in pieces:
        looks = _ends(source, recipe, first, end)
        if recipe.apart and not source.is_near(*looks, recipe.apart):
            dropped["changes within"] += 1
            continue
        mean = (looks[0] + looks[1]) / 2
        piece = Clip(first, end, looks, mean)
        if clips and _belong_together(source, recipe, clips[-1], piece):
            last = clips.pop()
            mean = (last.mean * last.pieces + mean) / (last.pieces + 1)
            piece = Clip(last.first, end, (last.looks[0], looks[1]), mean, last.pieces + 1)
        clips.append(piece)
    return [_shortened(source, recipe, clip) for clip in _kept(source, recipe, clips, dropped)], dropped


def _belong_together(source: Source, recipe: Recipe, last: Clip, piece: Clip) -> bool:
    """They follow each other, look alike where they meet, and are not too long together, unless what is too long is cut off later."""
    if not recipe.join or last.end != piece.first or not source.is_near(last.looks[1], piece.looks[0], recipe.join):
        return False
    return recipe.cut_to_most or source.seconds(last.first, piece.end) <= recipe.most


def _takes(source: Source, recipe: Recipe, first: int, end: int) -> list[tuple[int, int]]:
    """A shot, cut into pieces where it is long."""
    seconds = source.seconds(first, end)
    if not recipe.take or seconds <= recipe.take + recipe.slack:
        return [(first, end)]
    if recipe.even:
        count = int(np.ceil(seconds / recipe.take))
        edges = [first + round((end - first) * n / count) for n in range(count + 1)]
    else:
        step = max(1, int(recipe.take * source.split.fps))
        edges = [*range(first, end, step), end]
        if recipe.slack and source.seconds(edges[-2], end) < recipe.slack and len(edges) > 2:
            del edges[-2]  # what is left over stays with the last piece
    return list(zip(edges, edges[1:]))


def _ends(source: Source, recipe: Recipe, first: int, end: int) -> tuple[ndarray, ndarray]:
    before, behind = (source.look(first + int(share * (end - 1 - first)), first, end) for share in recipe.at)
    return before, behind


def _kept(source: Source, recipe: Recipe, clips: Sequence[Clip], dropped: Counter[str]) -> list[Clip]:
    kept: list[Clip] = []
    for clip in clips:
        seconds = source.seconds(clip.first, clip.end)
        if seconds < recipe.least:
            dropped["short"] += 1
        elif seconds > recipe.most and not recipe.cut_to_most:
            dropped["long"] += 1
        elif recipe.still and source.is_near(*clip.looks, recipe.still):
            dropped["still"] += 1
        elif recipe.redundant and any(source.is_near(clip.mean, other.mean, recipe.redundant) for other in kept):
            dropped["redundant"] += 1
        else:
            kept.append(clip)
    return kept


def _shortened(source: Source, recipe: Recipe, clip: Clip) -> Clip:
    if source.seconds(clip.first, clip.end) > recipe.most:
        clip.end = min(clip.end, source.frame_at(clip.first, recipe.most))
    if recipe.trim:
        cut = int(recipe.trim * (clip.end - clip.first))
        clip.first, clip.end = clip.first + cut, clip.end - cut
    return clip
