"""What is known of clips after their modalities were encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivast.config.tasks import Modality


@dataclass
class ClipFeatures:
    """The encoded modalities of B clips.

    condition: per modality (B, tokens, D), what texts attend to. condition_mask: per modality (B, tokens) bool, or None where every token
    is attended to. pooled: per modality (B, width), the global features.
    """

    condition: dict[Modality, Tensor]
    condition_mask: dict[Modality, Tensor | None]
    pooled: dict[Modality, Tensor]
    beside: Tensor | None = None
    """(B, K, D) of the text branch, what captions attend to beside ``condition``; None without one, or without texts."""
    beside_seen: Tensor | None = None
    """(B, K) bool: False for clips without such texts."""

    def __len__(self) -> int:
        return next(iter(self.pooled.values())).shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the condition features; the pooled ones are negligible beside them."""
        return sum(x.nbytes for x in self.condition.values())

    @property
    def tokens(self) -> int:
        return sum(x.shape[1] for x in self.condition.values())

    def _map(self, apply: Callable[[Tensor], Tensor]) -> ClipFeatures:
        return ClipFeatures({m: apply(x) for m, x in self.condition.items()},
                            {m: x if x is None else apply(x) for m, x in self.condition_mask.items()},
                            {m: apply(x) for m, x in self.pooled.items()},
                            *(x if x is None else apply(x) for x in (self.beside, self.beside_seen)))

    def to(self, device: torch.device | str) -> ClipFeatures:
        return self._map(lambda x: x.to(device))

    def rows(self, index: Tensor) -> ClipFeatures:
        """The features of some clips, in the order of ``index`` (k,)."""
        return self._map(lambda x: x[index])

    @staticmethod
    def cat(parts: Sequence[ClipFeatures]) -> ClipFeatures:
        """The clips of several parts; tokens that vary in number (subtitles) are padded and masked."""
        condition: dict[Modality, Tensor] = {}
        masks: dict[Modality, Tensor | None] = {}
        for m in parts[0].condition:
            tensors = [p.condition[m] for p in parts]
            longest = max(t.shape[1] for t in tensors)
            condition[m] = torch.cat([F.pad(t, (0, 0, 0, longest - t.shape[1])) for t in tensors])
            seen = [p.condition_mask[m] for p in parts]
            if all(s is None for s in seen) and all(t.shape[1] == longest for t in tensors):
                masks[m] = None
                continue
            full = [torch.ones(t.shape[:2], dtype=torch.bool, device=t.device) if s is None else s for s, t in zip(seen, tensors)]
            masks[m] = torch.cat([F.pad(s, (0, longest - s.shape[1])) for s in full])
        beside = [[x for x in own if x is not None] for own in ([p.beside for p in parts], [p.beside_seen for p in parts])]
        return ClipFeatures(condition, masks, {m: torch.cat([p.pooled[m] for p in parts]) for m in parts[0].pooled},
                            *(torch.cat(own) if len(own) == len(parts) else None for own in beside))
