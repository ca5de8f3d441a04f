"""What the towers found in clips, pooled as the projectors take it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnivast.config.tasks import Modality


@dataclass(frozen=True)
class ClipFeatures:
    """The features of B clips."""

    parts: dict[str, Tensor]
    """Part → (B, tokens, W); zeros for clips without the track. A part that no clip has is absent."""
    present: dict[Modality, Tensor]
    """(B,) bool, on the host: which clips have the track."""
    subtitles: tuple[str, ...]
    """(B) what is said in the clips; empty where the task does not ask."""
    clip_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def has(self, modality: Modality, clip: int) -> bool:
        """Whether a clip has a track."""
        return modality in self.present and bool(self.present[modality][clip])

    def to(self, device: torch.device | str) -> ClipFeatures:
        return replace(self, parts={part: x.to(device) for part, x in self.parts.items()})

    def rows(self, index: Tensor) -> ClipFeatures:
        """The same of some clips, in the order of ``index`` (k,)."""
        numbers = index.tolist()
        return ClipFeatures({part: x[index.to(x.device)] for part, x in self.parts.items()},
                            {m: x[index.cpu()] for m, x in self.present.items()},
                            tuple(self.subtitles[n] for n in numbers) if self.subtitles else (), tuple(self.clip_ids[n] for n in numbers))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.parts.values())

    @property
    def tokens(self) -> int:
        return sum(x.shape[1] for x in self.parts.values()) or 1
