"""Parts of a long video as clips of their own, named in a clip's id: ``talk.mp4#frames=120-286&t=4.004-9.5428``.

Frames are numbered from 0, both named ones belong to the clip; ``t`` are the seconds at which it begins and ends, for its sound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_EXCERPT = re.compile(r"(.+)#frames=(\d+)-(\d+)&t=(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Excerpt:
    """Frames ``first`` to ``last`` of the video ``file``, and what is heard from ``start`` to ``end`` seconds."""

    file: str
    first: int
    last: int
    start: float
    end: float

    @property
    def name(self) -> str:
        """The id of the clip."""
        return f"{self.file}#frames={self.first}-{self.last}&t={_plain(self.start)}-{_plain(self.end)}"

    @property
    def frames(self) -> int:
        return self.last - self.first + 1

    def of_whole(self, indices: list[int], count: int) -> list[int]:
        """Indices within the excerpt → within the video, which has ``count`` frames."""
        return [min(self.first + index, count - 1) for index in indices]


def _plain(seconds: float) -> str:
    return f"{max(0.0, seconds):.6f}".rstrip("0").rstrip(".")


def excerpt_of(clip_id: str) -> tuple[str, Excerpt | None]:
    """(the id of the video, the part of it); (the id as it is, None) for one that names no part."""
    found = _EXCERPT.fullmatch(clip_id)
    if found is None or int(found[2]) > int(found[3]):
        return clip_id, None
    return found[1], Excerpt(found[1], int(found[2]), int(found[3]), float(found[4]), float(found[5]))
