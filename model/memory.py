"""What texts attend to: clips' condition features, with their keys and values projected once.

Letters: M memory rows (clips), R texts per memory row, N rows of texts, H heads, d width of a head, D text width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from config.tasks import Group, Modality

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(M, tokens, D) condition features → keys and values of a layer, each (M, H, tokens, d)."""


class Memory:
    """What texts attend to: condition features of M clips, whose keys and values are projected once per layer and modality,
    and used by every group and every text of that clip.

    condition: per modality (M, tokens, D). mask: per modality (M, tokens) bool, or None where every token is attended to.
    """

    def __init__(self, condition: dict[Modality, Tensor], mask: dict[Modality, Tensor | None]) -> None:
        self.condition, self.mask = condition, mask
        self._projected: dict[tuple[int, Modality], tuple[Tensor, Tensor]] = {}
        self._joined: dict[tuple[int, Group], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return next(iter(self.condition.values())).shape[0]

    def rows(self, index: Tensor) -> Memory:
        """The memory of some clips, with what was projected already."""
        picked = Memory({m: c[index] for m, c in self.condition.items()}, {m: x if x is None else x[index] for m, x in self.mask.items()})
        picked._projected = {k: (keys[index], values[index]) for k, (keys, values) in self._projected.items()}
        return picked

    def keys_values(self, layer: int, group: Group, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a group at a layer, each (M, H, tokens, d), in the order v, a, s."""
        if (layer, group) not in self._joined:
            parts = [self._project(layer, modality, project) for modality in group]
            joined = parts[0] if len(parts) == 1 else (torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2))
            self._joined[layer, group] = joined
        return self._joined[layer, group]

    def group_mask(self, group: Group) -> Tensor | None:
        """(M, 1, 1, tokens) bool of a group, or None when every token may be seen. A clip with nothing to see sees all."""
        if all(self.mask.get(m) is None for m in group):
            return None
        parts = []
        for modality in group:
            own, tokens = self.mask.get(modality), self.condition[modality]
            parts.append(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if own is None else own)
        mask = torch.cat(parts, 1)
        return (mask | ~mask.any(1, keepdim=True))[:, None, None]

    def _project(self, layer: int, modality: Modality, project: Projection) -> tuple[Tensor, Tensor]:
        if (layer, modality) not in self._projected:
            if modality not in self.condition:
                raise ValueError(f"the memory holds no {modality.word} features; encode that modality first")
            self._projected[layer, modality] = project(self.condition[modality])
        return self._projected[layer, modality]


@dataclass
class CrossPass:
    """Rows [start, stop) of a layout and what they attend to.

    With ``index`` None the rows are R blocks of len(memory): row start + r · M + m attends to memory row m, and the R texts
    of a memory row are one long query. With ``index`` (stop - start,) each row names its memory row.
    """

    start: int
    stop: int
    memory: Memory
    group: Group
    index: Tensor | None = None
    length: int = 0
    """Tokens of the longest of these rows; 0: the layout's."""
