"""Cross-attention to vision and sound by layers of their own, as VALOR's ablations have it.

    va_parallel     text ─┬─ v ─┬─ + ─▶         video_audio     text ── v ── a ─▶         audio_video     text ── a ── v ─▶
                          └─ a ─┘

Where a group has one modality, the other one's layers are passed by.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.bert import CrossAttention, CrossKind, Reading, TextSizes
from omnivast.model.text.memory import Memory
from omnivast.model.text.packing import Packing

ORDERS = {"va_parallel": (Modality.VISION, Modality.AUDIO), "video_audio": (Modality.VISION, Modality.AUDIO),
          "audio_video": (Modality.AUDIO, Modality.VISION)}


class SplitCrossAttention(nn.Module):
    """The parts are named by their modality, ``v`` and ``a``; otherwise as :class:`CrossAttention`."""

    def __init__(self, sizes: TextSizes, order: Sequence[Modality], parallel: bool) -> None:
        super().__init__()
        self.order, self.parallel = order, parallel
        for modality in (Modality.VISION, Modality.AUDIO):
            self.add_module(modality.value, CrossAttention(sizes))

    def _part(self, modality: Modality) -> CrossAttention:
        return self.get_submodule(modality.value)  # type: ignore[return-value]

    def _parts(self, group: Group) -> list[tuple[Modality, CrossAttention]]:
        return [(modality, self._part(modality)) for modality in self.order if modality in group]

    @property
    def shared(self) -> list[nn.Module]:
        """See CrossAttention."""
        return [module for modality in self.order for module in self._part(modality).shared]

    def reading(self, memory: Memory, layer: int, group: Group, queries: Packing, mask: Tensor | None, rows: Tensor | None,
                ) -> list[tuple[Modality, Reading]]:
        """Of each modality of the group; ``mask``, of all of them together, is not of use."""
        return [(m, part.reading(memory, layer, Group((m,)), queries, memory.group_mask(Group((m,))), rows))
                for m, part in self._parts(group)]

    def forward(self, x: Tensor, passes: Sequence[list[tuple[Modality, Reading]]]) -> Tensor:
        """x (T, D) → (T, D); the passes have the T tokens one after another."""
        own = x.split([readings[0][1].queries.tokens for readings in passes])
        return torch.cat([self._one(tokens, readings) for tokens, readings in zip(own, passes)])

    def _one(self, x: Tensor, readings: list[tuple[Modality, Reading]]) -> Tensor:
        if self.parallel:
            return torch.stack([self._part(m)(x, [reading]) for m, reading in readings]).sum(0)
        for modality, reading in readings:
            x = self._part(modality)(x, [reading])
        return x

    def step(self, x: Tensor, memory: Memory, layer: int, group: Group, mask: Tensor | None) -> Tensor:
        """See CrossAttention."""
        found = []
        for modality, part in self._parts(group):
            found.append(part.step(x, memory, layer, Group((modality,)), memory.group_mask(Group((modality,)))))
            x = x if self.parallel else found[-1]
        return torch.stack(found).sum(0) if self.parallel else x


def kind_of_cross_attention(name: str) -> CrossKind:
    """What makes the cross-attention of a block for ``model_cfg.cross_attn_type``."""
    if name == "va_concate":
        return CrossAttention
    return lambda sizes: SplitCrossAttention(sizes, ORDERS[name], name == "va_parallel")
