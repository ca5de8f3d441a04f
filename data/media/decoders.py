"""Other libraries that decode videos, for the frames alone. PyAV is built in (decode.py) and needs nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from omnivast.config.extras import import_extra


class Decoder(Protocol):
    """Reads chosen frames of a video."""

    def frames(self, path: str, choose: Callable[[int], list[int]]) -> tuple[list[Tensor], int]:
        """The frames (3, H, W) uint8 RGB that ``choose`` picks, and how many the video has."""
        ...


class Decord:
    """https://pypi.org/project/decord"""

    def frames(self, path: str, choose: Callable[[int], list[int]]) -> tuple[list[Tensor], int]:
        import decord

        reader = decord.VideoReader(path, num_threads=1)
        indices = choose(len(reader))
        return list(torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)), len(reader)


class TorchCodec:
    """https://pypi.org/project/torchcodec"""

    def frames(self, path: str, choose: Callable[[int], list[int]]) -> tuple[list[Tensor], int]:
        from torchcodec.decoders import VideoDecoder

        reader = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact")
        indices = choose(len(reader))
        return list(reader.get_frames_at(indices=indices).data), len(reader)


DECODERS: dict[str, type[Decoder]] = {"decord": Decord, "torchcodec": TorchCodec}


def load_decoder(name: str) -> Decoder | None:
    """The decoder of a ``video_decoder`` setting; None for "av". Raises ValueError naming the package to install."""
    if name == "av":
        return None
    if name not in DECODERS:
        raise ValueError(f"unknown video_decoder '{name}'; valid are av, {', '.join(DECODERS)}")
    try:
        import_extra(name)
    except ImportError as error:
        raise ValueError(f"video_decoder '{name}': {error}. \"video_decoder\": \"av\" needs no package") from error
    return DECODERS[name]()
