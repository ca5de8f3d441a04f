"""A decoded video frame → pixels."""

from __future__ import annotations

import functools

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from omnivast.data.vision import FrameTransform


class ToPixels:
    """Frames of one video → (3, H, W) uint8 RGB, turned upright, then ``transform``."""

    def __init__(self, transform: FrameTransform | None) -> None:
        self._transform, self._reformatter = transform, VideoReformatter()

    def __call__(self, frame: av.VideoFrame, size: tuple[int, int]) -> Tensor:
        """``size``: width and height of the video, to which a frame of another size is brought."""
        rgb = self._reformatter.reformat(frame, *size, "rgb24", **one_thread())
        image = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)
        if frame.rotation % 360:
            image = torch.rot90(image, round(frame.rotation / 90), dims=(1, 2))
        return (self._transform(image) if self._transform else image).contiguous()


@functools.cache
def one_thread() -> dict[str, int]:
    """The argument that keeps colour conversion on one thread, where this PyAV has it (starting threads costs more than it saves)."""
    try:
        VideoReformatter().reformat(av.VideoFrame(16, 16, "yuv420p"), 16, 16, "rgb24", threads=1)
    except TypeError:
        return {}
    return {"threads": 1}
