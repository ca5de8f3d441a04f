"""What frozen towers find in clips, kept on disk: training in several stages, and epochs, and tests, then decode and encode nothing.

One safetensors file per clip and track, in float16. Its name is a hash of the media file's path, size and time, of how it was read, and of
the tower: another tower, frame number or file is kept beside it. As many processes as like may write at the same time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnivast.config.tasks import Modality
from omnivast.data.spec import DataError
from omnivast.utils.files import make_writable

Found = dict[str, Tensor]
"""The tensors that a tower makes of one clip, by name; none: the clip has no such track."""
LARGEST = torch.finfo(torch.float16).max


class FeatureStore:
    """A folder of features. Data workers have a copy."""

    def __init__(self, folder: str | Path) -> None:
        """Raises DataError where the folder cannot be written."""
        self.folder = Path(folder)
        self.keys: Mapping[Modality, str] = {}
        """What tells the towers from others; set when their weights are known."""
        try:
            make_writable(self.folder)
        except OSError as error:
            raise DataError(f"features_dir '{folder}' cannot be written: {error.strerror or error}") from None

    def path(self, modality: Modality, read_as: tuple[object, ...]) -> Path:
        """Where the features of a clip are; ``read_as``: its file, and how it is read."""
        name = hashlib.blake2b(repr((self.keys[modality], read_as)).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, modality: Modality, read_as: tuple[object, ...]) -> Found | None:
        """None where they are not kept, or their file is damaged."""
        try:
            found = load_file(self.path(modality, read_as))
        except (OSError, SafetensorError):
            return None
        return {} if "silent" in found else found

    def write(self, modality: Modality, read_as: tuple[object, ...], found: Found) -> None:
        """Raises DataError where the disk refuses."""
        path = self.path(modality, read_as)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        kept = {name: x.clamp(-LARGEST, LARGEST).to("cpu", torch.float16).contiguous() for name, x in found.items()}
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(kept or {"silent": torch.zeros(1)}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise DataError(f"features_dir '{self.folder}': features could not be written ({error}); free the disk and start again: "
                            "what is there is used") from None
