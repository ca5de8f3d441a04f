"""What is known of clips, and of texts, once they are encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omnivast.config.tasks import Modality


@dataclass
class ClipFeatures:
    """What is known of B clips after their modalities were encoded.

    condition: per modality (B, tokens, D), what texts attend to; slots: per modality (B, V, width), one vector of the tower for each
    frame or slice of sound.
    """

    condition: dict[Modality, Tensor]
    slots: dict[Modality, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.slots.values())))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.condition.values(), *self.slots.values()))

    @property
    def tokens(self) -> int:
        return sum(x.shape[1] for x in self.condition.values())

    def _map(self, apply: Callable[[Tensor], Tensor]) -> ClipFeatures:
        return ClipFeatures({m: apply(x) for m, x in self.condition.items()}, {m: apply(x) for m, x in self.slots.items()})

    def to(self, device: torch.device | str) -> ClipFeatures:
        return self._map(lambda x: x.to(device))

    def rows(self, index: Tensor) -> ClipFeatures:
        """The features of some clips, in the order of ``index`` (k,)."""
        return self._map(lambda x: x[index])
