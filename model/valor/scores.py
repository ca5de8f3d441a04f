"""The scores of texts and clips in each group, by either alignment: from vectors, or from slots (alignment.py).

Everything is a :class:`Rows`, as evaluation keeps it. Texts: fine ``text`` (N, L, D), ``text_logits`` and ``text_mask`` (N, L); coarse
``text`` (N, D). Clips: for each modality fine ``<word>`` (N, V, D) and ``<word>_logits`` (N, V); coarse ``<word>`` (N, D), or ``both``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnivast.config.tasks import Group, Modality
from omnivast.model.interface import Rows
from omnivast.model.valor.alignment import Slots, grouped_scores

BOTH = Group((Modality.VISION, Modality.AUDIO))


@dataclass(frozen=True)
class Alignment:
    """How texts and clips are compared: the settings contra_type, late_fusion, and whether tva has weights (fineweight_type)."""

    fine: bool
    late: bool
    weighted: bool

    def terms(self, group: Group) -> list[tuple[bool, tuple[Modality, ...]]]:
        """What a group's score is the sum of: whether slots have weights, and the modalities that are compared together."""
        if group == BOTH and self.late:
            return [(False, (modality,)) for modality in group]
        return [(group != BOTH or self.weighted, group.modalities)]

    def scores(self, groups: Sequence[Group], texts: Rows, clips: Rows) -> list[Tensor]:
        """(N, B) float32 of each group, before the temperature."""
        if self.fine:
            return self._fine(groups, texts, clips)
        vectors = texts["text"].float()
        return [sum_of([vectors @ clips[_name(part)].float().T for _, part in self.terms(group)]) for group in groups]

    def pairs(self, group: Group, clips: Rows, other_texts: Rows | None, other_clips: Rows) -> Tensor:
        """(N, B) float32 of v-a, v-ta or a-tv, by the same formula: the slots of the modality that stands alone, of ``clips`` (N), against
        those of the other one, of ``other_clips`` (B), or of ``other_texts`` and it."""
        (alone,), (other,) = group.alone, [m for m in group if m not in group.alone]
        second = [_clip_slots(other_clips, other)]
        if group.with_text and other_texts is not None:
            second.insert(0, _text_slots(other_texts))
        return grouped_scores(_clip_slots(clips, alone), second, [tuple(range(len(second)))])[0]

    def _fine(self, groups: Sequence[Group], texts: Rows, clips: Rows) -> list[Tensor]:
        present = [m for m in BOTH if m.word in clips.tensors]
        found: dict[tuple[bool, tuple[Modality, ...]], Tensor] = {}
        for weighted in (True, False):
            parts = list(dict.fromkeys(part for group in groups for own, part in self.terms(group) if own is weighted))
            if parts:
                own = _text_slots(texts, weighted)
                tracks = [_clip_slots(clips, m, weighted) for m in present]
                scores = grouped_scores(own, tracks, [[present.index(m) for m in part] for part in parts])
                found |= {(weighted, part): score for part, score in zip(parts, scores)}
        return [sum_of([found[term] for term in self.terms(group)]) for group in groups]


def _text_slots(texts: Rows, weighted: bool = True) -> Slots:
    return Slots(texts["text"], texts["text_logits"] if weighted else None, texts["text_mask"] > 0)


def _clip_slots(clips: Rows, modality: Modality, weighted: bool = True) -> Slots:
    return Slots(clips[modality.word], clips[f"{modality.word}_logits"] if weighted else None)


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _name(modalities: tuple[Modality, ...]) -> str:
    return "both" if len(modalities) > 1 else modalities[0].word
