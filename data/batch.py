"""What travels from the data to the model: one Sample per clip, one Batch per step. Every field's shape is stated here.

Letters: B clips, F frames, A audio slices, T mel frames of a slice, L text tokens, N texts. N = B in training; in
evaluation a clip may have several texts, and ``Texts.clip`` says which clip each belongs to.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from config.tasks import CaptionKind, Modality


@dataclass
class Sample:
    """One clip as read from disk, before collation. A list of texts has one entry in training, any number in evaluation."""

    clip_id: str
    index: int
    """Row of the clip in its annotation file."""
    frames: Tensor | None = None
    """(F, 3, H, W) uint8 RGB; None when the task needs no vision."""
    spectrogram: Tensor | None = None
    """(A, T, mel) float32, normalised; None when the task needs no audio."""
    subtitle: str | None = None
    """None when the task needs no subtitle; "" when the clip has none."""
    captions: dict[CaptionKind, list[str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    present: dict[Modality, bool] = field(default_factory=dict)
    """Whether the clip really has the modality (a silent video: audio False, its spectrogram zeros)."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(clip id, reason) of clips that this one replaced, in training."""


@dataclass
class Texts:
    """Token ids of texts, padded to the longest of them (never beyond), [CLS] first and [SEP] last."""

    ids: Tensor
    """(N, L) int64, padding 0."""
    mask: Tensor
    """(N, L) bool, True at tokens."""
    clip: Tensor
    """(N,) int64: the row of the batch that each text belongs to."""
    raw: list[str]
    """(N) the texts as written, for metrics and logs."""

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass
class Batch:
    """The clips of one step on one process, from one corpus."""

    corpus: str
    clip_ids: list[str]
    index: Tensor
    """(B,) int64: rows in the annotation file."""
    frames: Tensor | None = None
    """(B, F, 3, H, W) uint8; normalisation happens on the device."""
    spectrograms: Tensor | None = None
    """(B, A, T, mel) float32."""
    subtitles: Texts | None = None
    """N = B; a clip without words has [CLS] [SEP]."""
    captions: dict[CaptionKind, Texts] = field(default_factory=dict)
    questions: Texts | None = None
    answers: Texts | None = None
    """Aligned with ``questions``: answer n answers question n."""
    present: dict[Modality, Tensor] = field(default_factory=dict)
    """(B,) bool per modality that the task needs."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(clip id, reason) of unreadable clips that were replaced while this batch was read."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch with every tensor on ``device``."""
        return _map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch with every tensor in page-locked memory (called by the DataLoader)."""
        return _map_tensors(self, lambda t: t.pin_memory())


def _map_tensors(value: Any, apply: Any) -> Any:
    if isinstance(value, Tensor):
        return apply(value)
    if isinstance(value, dict):
        return {k: _map_tensors(v, apply) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _map_tensors(getattr(value, f.name), apply) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value
