"""What settings add to the contrastive loss of the groups, each nothing unless it is asked for: losses of prefixes (``matryoshka_dims``),
single tracks that learn from their fusion (``fused_teaches``), tracks that are contrasted with each other (``clip_pairs``).

Letters: b pairs of this process, B of the global batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig, label_smoothing
from omnivast.config.tasks import CaptionKind, Group
from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.model.objectives.contrastive import prefix, teaching_loss
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.parts import Parts
from omnivast.utils.transfer import to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch

ADDED = ("prefixes", "taught", "pairs")
"""The losses of this file, as they are logged."""
PAIRS = ("va", "vs", "as")


@dataclass
class Vectors:
    """Texts by caption kind, and clips by group, as vectors."""

    texts: dict[CaptionKind, Tensor]
    clips: dict[Group, Tensor]


@dataclass
class Contrasted:
    """What the contrastive loss knows of a step."""

    own: Vectors
    """(b, …) of this process."""
    everyone: Vectors
    """(B, …) of the global batch."""
    targets: Tensor
    """(b,) the global row of each local pair."""
    logits: dict[Group, tuple[Tensor, Tensor]]
    """Text to clip and clip to text, each (b, B), of every group that is trained."""

    def vectors(self, group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Own texts and clips, all texts and clips."""
        kind = group.caption_kind
        return self.own.texts[kind], self.own.clips[group], self.everyone.texts[kind], self.everyone.clips[group]


def contrast_logits(model: Parts, group: Group, *vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of own texts and clips, all texts and clips (``Contrasted.vectors``): text to clip and clip to text, each (b, B)."""
    learnt = model.contrast_scalars(group)
    to_clip, to_text = model.contrast_scores(*vectors)
    return model.contrast.logits(to_clip, *learnt), model.contrast.logits(to_text, *learnt)


def added_losses(model: Parts, batch: Batch, features: ClipFeatures, found: Contrasted) -> dict[str, Tensor]:
    """The losses that settings ask for, by the names in ``ADDED``, and each pair's own behind "pairs."."""
    losses: dict[str, Tensor] = {}
    if model.config.matryoshka_dims:
        losses["prefixes"] = prefix_loss(model, found)
    if model.config.fused_teaches and (taught := fused_teach(found)):
        losses["taught"] = torch.stack(taught).mean()
    if pairs := pairs_of(model.config, features):
        losses |= {f"pairs.{pair.key}": pair_loss(model, batch, found, pair) for pair in pairs}
        losses["pairs"] = torch.stack([weight * losses[f"pairs.{pair.key}"] for pair, weight in pairs.items()]).sum()
    return losses


def prefix_loss(model: Parts, found: Contrasted) -> Tensor:
    """The contrastive loss by each of ``matryoshka_dims`` in place of whole vectors: their sum, mean over the groups."""
    losses = []
    for group in found.logits:
        for dimensions in model.config.matryoshka_dims:
            logits = contrast_logits(model, group, *(prefix(x, dimensions) for x in found.vectors(group)))
            losses.append(model.contrast.loss(*logits, found.targets, label_smoothing(model.config)))
    return torch.stack(losses).sum() / len(found.logits)


def fused_teach(found: Contrasted) -> list[Tensor]:
    """For each single track what it has still to learn from the largest of the groups with that track, mean over both directions."""
    losses = []
    for student, logits in found.logits.items():
        teacher = max((group for group in found.logits if set(student) <= set(group)), key=lambda group: len(group.modalities))
        if len(student.modalities) == 1 and teacher != student:
            losses.append(torch.stack([teaching_loss(own, better) for own, better in zip(logits, found.logits[teacher])]).mean())
    return losses


def pairs_of(config: ModelConfig, features: ClipFeatures) -> dict[Group, float]:
    """The ``clip_pairs`` of which this batch has both tracks, with their weights."""
    pairs = {Group.parse(pair): weight for pair, weight in config.clip_pairs.items()}
    return {pair: weight for pair, weight in pairs.items() if all(modality in features.pooled for modality in pair)}


def tracks_of_pairs(config: ModelConfig, features: ClipFeatures) -> list[Group]:
    """The single tracks whose vectors the pairs need."""
    return [Group((modality,)) for pair in pairs_of(config, features) for modality in pair]


def pair_loss(model: Parts, batch: Batch, found: Contrasted, pair: Group) -> Tensor:
    """The contrastive loss of two tracks of the same clips, one in the place of the text. A clip that lacks one of them looks for nothing:
    its rows are filled, so that they cost the same whatever the model does; for the other clips it is a wrong one."""
    tracks = [Group((modality,)) for modality in pair]
    logits = contrast_logits(model, pair, *(found.own.clips[track] for track in tracks), *(found.everyone.clips[track] for track in tracks))
    if absent := [~batch.present[modality] for modality in pair if modality in batch.present]:
        silent = to_device(torch.stack(absent).any(0), model.device)[:, None]
        logits = logits[0].masked_fill(silent, 0.0), logits[1].masked_fill(silent, 0.0)
    return model.contrast.loss(*logits, found.targets, label_smoothing(model.config))


def check_added(config: ModelConfig) -> None:
    """Raises ModelError, naming the setting, for values of this file's settings that mean nothing."""
    for key, sizes in (("matryoshka_dims", config.matryoshka_dims), ("index_dim", [config.index_dim or config.contra_dim])):
        if wrong := [size for size in sizes if not 1 <= size <= config.contra_dim]:
            raise ModelError(f"model_cfg.{key}: vectors have {config.contra_dim} numbers (contra_dim); the first {wrong[0]} of them "
                             "cannot be taken")
    for pair, weight in config.clip_pairs.items():
        if pair not in PAIRS:
            raise ModelError(f"model_cfg.clip_pairs: '{pair}' is no pair of tracks; valid are {', '.join(PAIRS)}."
                             f"{did_you_mean(pair, PAIRS)}")
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            raise ModelError(f"model_cfg.clip_pairs: the weight of {pair} is a number above 0, got {weight!r}")
