"""Decoded clips kept on disk, so that later epochs decode nothing: all frames at the model's resolution, and the whole
log-mel spectrogram. ``python -m omnivast check`` opens every clip and so fills it with all cores before a training starts.

One safetensors file per clip and track, shared by all corpora that read the clip in the same way; a reader takes from it only the
frames or mel slices that it needs. The name is a hash of the media file's path, size and time and of how it was read, so a changed
file or setting is read anew. Files are complete or absent, whoever else writes at the same time. More than ``MAX_FRAMES`` frames or
``MAX_MEL`` mel frames are not kept: they would fill the disk, and are decoded each time.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnivast.data.audio import Frontend, take_slices
from omnivast.data.media.parts import Source, identity
from omnivast.data.spec import DataError
from omnivast.utils.files import make_writable

MAX_FRAMES = 64
MAX_MEL = 16_384

Plan = Callable[[int], list[int]]

logger = logging.getLogger("omnivast")


class ClipCache:
    """A folder of decoded clips."""

    def __init__(self, folder: str | Path) -> None:
        """Raises DataError where the folder cannot be written."""
        self.folder = Path(folder)
        self._warned = False
        try:
            make_writable(self.folder)
        except OSError as error:
            raise DataError(f"cache_dir '{folder}' cannot be written: {error.strerror or error}") from None

    def entry(self, file: Source, track: str, *settings: object) -> Path:
        """Where a ``track`` ("frames" or "mel") read from ``file`` with ``settings`` is kept."""
        read_as = (track, settings, *identity(file))
        name = hashlib.blake2b(repr(read_as).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def frames(self, entry: Path, choose: Plan) -> Tensor | None:
        """(F, 3, R, R) uint8: the frames that ``choose`` picks of their number. None when they are not kept, or their file is damaged."""
        try:
            with safe_open(entry, framework="pt") as file:
                kept = file.get_slice("frames")
                return torch.stack([kept[index] for index in choose(kept.get_shape()[0])])
        except (OSError, SafetensorError):
            return None

    def slices(self, entry: Path, plan: Plan, length: int, frontend: Frontend) -> Tensor | Literal["silent"] | None:
        """(A, length, mel) float32: the slices that ``plan`` picks of the number of mel frames; "silent" for a clip without sound.
        None when it is not kept, or its file is damaged."""
        try:
            with safe_open(entry, framework="pt") as file:
                if "mel" not in file.keys():  # noqa: SIM118 - not a dict
                    return "silent"
                mel = file.get_slice("mel")
                count, bins = mel.get_shape()
                return take_slices(mel, count, bins, plan(count), length, frontend)
        except (OSError, SafetensorError):
            return None

    def write_frames(self, entry: Path, frames: Tensor) -> None:
        """Keep all frames of a clip, unless they are too many."""
        if len(frames) <= MAX_FRAMES:
            self._write(entry, {"frames": frames})

    def write_mel(self, entry: Path, mel: Tensor | None) -> None:
        """Keep the mel frames of a clip, unless they are too many; None: it has no sound."""
        if mel is None:
            self._write(entry, {"silent": torch.zeros(1)})
        elif len(mel) <= MAX_MEL:
            self._write(entry, {"mel": mel})

    def _write(self, entry: Path, tensors: dict[str, Tensor]) -> None:
        """A full disk is reported once and otherwise ignored: the clip is at hand."""
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
        try:
            entry.parent.mkdir(exist_ok=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
            os.replace(temporary, entry)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            if not self._warned:
                logger.warning("cache_dir '%s': a clip could not be kept (%s) and will be decoded each time", self.folder, error)
            self._warned = True
