"""Decoded clips kept on disk, so that later epochs decode nothing: all frames at the model's resolution, and the whole
log-mel spectrogram.

One safetensors file per clip, of which a reader takes only the frames and mel slices that it needs. The name is a hash of the
media files' paths, sizes and times and of how they were read, so a changed file or setting is read anew. Files are
complete or absent, whoever else writes at the same time. Clips of more than ``MAX_FRAMES`` frames or ``MAX_MEL`` mel frames
are not kept: they would fill the disk, and are decoded each time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data.audio import Frontend, take_slices
from data.spec import DataError

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
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise DataError(f"cache_dir '{folder}' cannot be written: {error.strerror or error}") from None

    def entry(self, files: list[str], settings: tuple[object, ...]) -> Path:
        """Where a clip read from ``files`` with ``settings`` is kept."""
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for file in files:
            status = os.stat(file)
            digest.update(f"\0{os.path.abspath(file)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, entry: Path, choose: Plan | None, plan: Plan | None, length: int,
             frontend: Frontend) -> tuple[Tensor | None, Tensor | None] | None:
        """(frames that ``choose`` picks of their number or None, (A, length, mel) slices that ``plan`` picks or None).

        The slices of a silent clip are None too. None instead of both when the clip is not kept, or its file is damaged.
        """
        try:
            with safe_open(entry, framework="pt") as file:
                frames = slices = None
                if choose is not None:
                    kept = file.get_slice("frames")
                    frames = torch.stack([kept[index] for index in choose(kept.get_shape()[0])])
                if plan is not None and "mel" in file.keys():  # noqa: SIM118 - not a dict
                    mel = file.get_slice("mel")
                    count, bins = mel.get_shape()
                    slices = take_slices(mel, count, bins, plan(count), length, frontend)
                return frames, slices
        except (OSError, SafetensorError):
            return None

    def write(self, entry: Path, frames: Tensor | None, mel: Tensor | None) -> None:
        """Keep a clip. A full disk is reported once and otherwise ignored: the clip is at hand."""
        tensors = {name: value.contiguous() for name, value in (("frames", frames), ("mel", mel)) if value is not None}
        if not tensors:
            tensors = {"silent": torch.zeros(1)}
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
        try:
            entry.parent.mkdir(exist_ok=True)
            save_file(tensors, temporary)
            os.replace(temporary, entry)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            if not self._warned:
                logger.warning("cache_dir '%s': a clip could not be kept (%s) and will be decoded each time", self.folder, error)
            self._warned = True
