"""Regions of pictures, named in a clip's id as VALOR's Visual Genome does: ``2316353%width120%height80%x14%y30``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from omnivast.data.media.errors import MediaError
from omnivast.data.media.parts import Source

_REGION = re.compile(r"(.+)%width(\d+)%height(\d+)%x(\d+)%y(\d+)")


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, picture: Tensor, path: Source) -> Tensor:
        """(C, H, W) → the part of the rectangle that lies in the picture. Raises MediaError, which names ``path``, where none does."""
        part = picture[..., self.y : self.y + self.height, self.x : self.x + self.width]
        if not part.numel():
            raise MediaError(path, f"its region of {self.width}x{self.height} pixels from ({self.x}, {self.y}) lies outside the picture of "
                                   f"{picture.shape[-1]}x{picture.shape[-2]}")
        return part


def region_of(clip_id: str) -> tuple[str, Region | None]:
    """(the id of the picture, its region); (the id as it is, None) for one that names none."""
    found = _REGION.fullmatch(clip_id)
    if found is None:
        return clip_id, None
    width, height, x, y = map(int, found.groups()[1:])
    return found[1], Region(x, y, width, height)
