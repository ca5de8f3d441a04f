"""One source → its transitions, the times of its frames, what its frames look like at an interval, how its light moves and how its sound
goes: all from one pass that decodes each packet once."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from omnivast.corpus.boundaries.detector import Ours, Transition
from omnivast.corpus.boundaries.others import DETECTORS
from omnivast.corpus.boundaries.thumbnails import Batch, Thumbnails, probe
from omnivast.corpus.clips import tower
from omnivast.corpus.clips.looks import look_of
from omnivast.corpus.clips.movement import PARTS, Movement
from omnivast.corpus.sound import Listener, Sound
from omnivast.data.media.errors import MediaError

LOOK_SECONDS = 0.5
"""Between two frames of which it is kept what they look like."""


@dataclass(frozen=True)
class Times:
    """The time of every frame, exactly, in little room: differences that repeat are stored once."""

    base: Fraction
    """Seconds of one unit."""
    first: int
    steps: list[list[int]]
    """[difference to the frame before, how often in a row]"""

    @staticmethod
    def of(pts: ndarray, base: Fraction) -> Times:
        steps: list[list[int]] = []
        for step in np.diff(pts).tolist():
            if steps and steps[-1][0] == step:
                steps[-1][1] += 1
            else:
                steps.append([step, 1])
        return Times(base, int(pts[0]) if len(pts) else 0, steps)

    def pts(self) -> ndarray:
        """(T + 1,) int64: of every frame, and where the last one ends, taken to last as long as the one before it."""
        table = np.array(self.steps, np.int64).reshape(-1, 2)
        differences = np.repeat(table[:, 0], table[:, 1])
        last = int(differences[-1]) if len(differences) else max(1, round(0.04 / self.base))
        return np.concatenate([[self.first], differences, [last]]).astype(np.int64).cumsum()

    def to_json(self) -> dict[str, Any]:
        return {"base": str(self.base), "first": self.first, "steps": self.steps}

    @staticmethod
    def from_json(row: dict[str, Any]) -> Times:
        return Times(Fraction(row["base"]), row["first"], row["steps"])


@dataclass(frozen=True)
class Split:
    """What is known of a source after its pass."""

    fps: float
    frames: int
    times: Times
    boundaries: list[Transition]
    doubts: list[Transition]
    """What may be a transition, as far as the detector says so."""
    look_frames: list[int]
    """Frames of which ``looks`` tells."""
    looks: ndarray
    """(N, width) float16, rows of norm 1."""
    moved: ndarray = field(default_factory=lambda: np.empty((0, PARTS), np.uint8))
    """(M, PARTS) uint8, see :mod:`omnivast.corpus.clips.movement` …"""
    moved_from: int = 0
    """… and the moment of the first row."""
    sound: Sound | None = None
    """None where nothing is heard that can be decoded."""

    def to_json(self) -> dict[str, Any]:
        return {"fps": self.fps, "frames": self.frames, "times": self.times.to_json(),
                "boundaries": [vars(one) for one in self.boundaries], "doubts": [vars(one) for one in self.doubts],
                "look_frames": self.look_frames, "looks": base64.b64encode(self.looks.astype("<f2").tobytes()).decode(),
                "moved": base64.b64encode(self.moved.tobytes()).decode(), "moved_from": self.moved_from,
                "sound": self.sound and self.sound.to_json()}

    @staticmethod
    def from_json(row: dict[str, Any]) -> Split:
        looks = np.frombuffer(base64.b64decode(row["looks"]), "<f2").reshape(len(row["look_frames"]), -1)
        moved = np.frombuffer(base64.b64decode(row["moved"]), np.uint8).reshape(-1, PARTS)
        boundaries, doubts = ([Transition(**one) for one in row[key]] for key in ("boundaries", "doubts"))
        return Split(row["fps"], row["frames"], Times.from_json(row["times"]), boundaries, doubts, row["look_frames"],
                     looks, moved, row["moved_from"], row["sound"] and Sound.from_json(row["sound"]))


class _Looks:
    """What frames look like, every so many seconds: by their thumbnails, or to a tower."""

    def __init__(self, seen_by: tower.Tower | None) -> None:
        self._see = seen_by.see if seen_by else look_of
        self.frames: list[int] = []
        self._rows: list[ndarray] = []

    def add(self, batch: Batch) -> None:
        if batch.keys:
            self._rows.append(self._see(np.stack([picture for _, picture in batch.keys])))
            self.frames += [number for number, _ in batch.keys]

    def rows(self) -> ndarray:
        return np.concatenate(self._rows)


def split(path: Path, detector: str = "ours", seen_by: str | None = None) -> Split:
    """``seen_by``: the tower by which frames are told alike, None: their thumbnails. Raises MediaError, TowerError, or ImportError for a
    detector whose package is missing."""
    torch.set_num_threads(1)
    source = probe(path)
    finder = DETECTORS[detector]()
    eye = tower.load(seen_by) if seen_by else None
    looks, movement, listener = _Looks(eye), Movement(source.time_base), Listener()
    pts: list[ndarray] = []
    for batch in Thumbnails(path, LOOK_SECONDS, eye.side if eye else 0, finder.frame_width, listener):
        finder.add(batch)
        looks.add(batch)
        movement.add(batch.thumbnails, batch.pts)
        pts.append(batch.pts)
    whole = np.concatenate(pts)
    times = Times.of(whole, source.time_base)
    ends = times.pts()
    fps = len(whole) / float((ends[-1] - ends[0]) * source.time_base)
    boundaries = finder.end()
    doubts = finder.doubts() if isinstance(finder, Ours) else []
    return Split(round(fps, 3), len(whole), times, boundaries, doubts, looks.frames, looks.rows(), movement.rows(), movement.first,
                 listener.end())


def probe_item(item: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The stage ``probe``: what the container says, without decoding."""
    path = Path(settings["root"], item["path"])
    try:
        source = probe(path)
    except MediaError as error:
        return failed(item, error)
    return {"id": item["id"], "width": source.width, "height": source.height, "fps": round(source.fps, 3), "codec": source.codec,
            "sound": source.sound, "seconds": None if source.seconds is None else round(source.seconds, 3)}


def split_item(item: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The stage ``split``. A source that cannot be read is a result, not an error."""
    try:
        return {"id": item["id"], **split(Path(settings["root"], item["path"]), settings["detector"], settings.get("tower")).to_json()}
    except MediaError as error:
        return failed(item, error)


def failed(item: dict[str, Any], error: MediaError) -> dict[str, Any]:
    """The reason without names, sizes and numbers, so that equal reasons can be counted."""
    return {"id": item["id"], "failed": error.reason}


def spans(transitions: Sequence[Transition], frames: int) -> list[tuple[int, int]]:
    """(first frame, frame behind the last) of each shot: what lies between transitions, without a frame of them."""
    found, start = [], 0
    for one in sorted(transitions, key=lambda one: (one.first, one.last)):
        if one.first > start:
            found.append((start, one.first))
        start = max(start, one.first if one.kind == "cut" and one.first == one.last else one.last + 1)
    return [*found, (start, frames)] if frames > start else found
