"""The contrastive loss of the groups, and what settings add to it, each nothing unless it is asked for: losses of prefixes
(``matryoshka_dims``), single tracks that learn from their fusion (``fused_teaches``), tracks that are contrasted with each other
(``clip_pairs``). Large tables are made block by block (objectives/blocks.py).

Letters: b pairs of this process, B of the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig, label_smoothing
from omnivast.config.tasks import CaptionKind, Group
from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.model.objectives.blocks import mean_over_blocks, rows_of
from omnivast.model.objectives.contrastive import hard_negatives, prefix, teaching_loss
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.negatives import Negatives
from omnivast.model.vast.parts import Parts
from omnivast.model.vast.rejected import Rejected
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
    groups: tuple[Group, ...]
    """Those that are trained."""
    kept: dict[Group, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Logits of these groups, each (b, B), where a table is one block."""

    @property
    def size(self) -> tuple[int, int]:
        """(b, B)."""
        return len(self.targets), len(next(iter(self.everyone.texts.values())))

    def vectors(self, group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Own texts and clips, all texts and clips."""
        kind = group.caption_kind
        return self.own.texts[kind], self.own.clips[group], self.everyone.texts[kind], self.everyone.clips[group]

    def logits(self, model: Parts, group: Group, rows: slice) -> tuple[Tensor, Tensor]:
        """Text to clip and clip to text of some rows of a group."""
        if group in self.kept:
            return self.kept[group]
        logits = contrast_logits(model, group, rows, *self.vectors(group))
        if rows == slice(0, len(self.targets)):
            self.kept[group] = logits
        return logits


def contrast_logits(model: Parts, group: Group, rows: slice, *vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of some rows of own texts and clips with all texts and clips (``Contrasted.vectors``): text to clip and clip to text."""
    texts, clips, *everyone = vectors
    learnt = model.contrast_scalars(group)
    to_clip, to_text = model.contrast_scores(rows_of(texts, rows), rows_of(clips, rows), *everyone)
    return model.contrast.logits(to_clip, *learnt), model.contrast.logits(to_text, *learnt)


def group_loss(model: Parts, found: Contrasted, group: Group, draw: Tensor | None, rejected: Rejected | None = None,
               ) -> tuple[Tensor, Negatives | None]:
    """OM-VCC of a group and, with ``draw`` (b, 2) uniform in [0, 1), hard negatives from the same logits. ``rejected``: further captions
    that clips are compared with."""
    texts, clips, *_ = found.vectors(group)

    def of_rows(rows: slice) -> tuple[Tensor, ...]:
        (to_clip, to_text), targets = found.logits(model, group, rows), rows_of(found.targets, rows)
        weights = None
        if rejected is not None:
            to_text = rejected.with_rejected(model, group, rows_of(texts, rows), rows_of(clips, rows), to_text)
            weights = rows_of(rejected.weights, rows)
        loss = model.contrast.loss(to_clip, to_text, targets, label_smoothing(model.config), weights)
        if draw is None:
            return (loss,)
        drawn = rows_of(draw, rows)
        return loss, hard_negatives(to_clip, targets, drawn[:, 0]), _hard_caption(to_text, targets, drawn[:, 1], weights)

    loss, *drawn = mean_over_blocks(of_rows, *found.size)
    return loss, Negatives(*drawn) if drawn else None


def _hard_caption(logits: Tensor, targets: Tensor, draws: Tensor, weights: Tensor | None) -> Tensor:
    """A wrong caption for each clip, (b,) columns of its logits, drawn by how much each counts."""
    if weights is None:
        return hard_negatives(logits, targets, draws)
    return hard_negatives(logits + weights.log(), targets, draws, weights > 0)


def added_losses(model: Parts, batch: Batch, features: ClipFeatures, found: Contrasted) -> dict[str, Tensor]:
    """The losses that settings ask for, by the names in ``ADDED``, and each pair's own behind "pairs."."""
    losses: dict[str, Tensor] = {}
    if model.config.matryoshka_dims:
        losses["prefixes"] = prefix_loss(model, found)
    if model.config.fused_teaches and (taught := fused_teach(model, found)):
        losses["taught"] = torch.stack(taught).mean()
    if pairs := pairs_of(model.config, features):
        losses |= {f"pairs.{pair.key}": pair_loss(model, batch, found, pair) for pair in pairs}
        losses["pairs"] = torch.stack([weight * losses[f"pairs.{pair.key}"] for pair, weight in pairs.items()]).sum()
    return losses


def prefix_loss(model: Parts, found: Contrasted) -> Tensor:
    """The contrastive loss by each of ``matryoshka_dims`` in place of whole vectors: their sum, mean over the groups."""
    losses = []
    for group in found.groups:
        for dimensions in model.config.matryoshka_dims:
            losses.append(vectors_loss(model, found, group, [prefix(x, dimensions) for x in found.vectors(group)]))
    return torch.stack(losses).sum() / len(found.groups)


def vectors_loss(model: Parts, found: Contrasted, group: Group, vectors: Sequence[Tensor], silent: Tensor | None = None) -> Tensor:
    """The contrastive loss of other vectors in the place of a group's; the logits of rows that are ``silent`` (b,) are all 0."""
    def of_rows(rows: slice) -> tuple[Tensor, ...]:
        logits = contrast_logits(model, group, rows, *vectors)
        if silent is not None:
            mask = rows_of(silent, rows)[:, None]
            logits = logits[0].masked_fill(mask, 0.0), logits[1].masked_fill(mask, 0.0)
        return (model.contrast.loss(*logits, rows_of(found.targets, rows), label_smoothing(model.config)),)

    return mean_over_blocks(of_rows, *found.size)[0]


def fused_teach(model: Parts, found: Contrasted) -> list[Tensor]:
    """For each single track what it has still to learn from the largest of the groups with that track, mean over both directions."""
    losses = []
    for student in found.groups:
        teacher = max((group for group in found.groups if set(student) <= set(group)), key=lambda group: len(group.modalities))
        if len(student.modalities) == 1 and teacher != student:
            losses.append(_taught(model, found, student, teacher))
    return losses


def _taught(model: Parts, found: Contrasted, student: Group, teacher: Group) -> Tensor:
    def of_rows(rows: slice) -> tuple[Tensor, ...]:
        both = zip(found.logits(model, student, rows), found.logits(model, teacher, rows))
        return (torch.stack([teaching_loss(own, better) for own, better in both]).mean(),)

    return mean_over_blocks(of_rows, *found.size)[0]


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
    vectors = [of_whom.clips[track] for of_whom in (found.own, found.everyone) for track in tracks]
    absent = [~batch.present[modality] for modality in pair if modality in batch.present]
    silent = to_device(torch.stack(absent).any(0), model.device) if absent else None
    return vectors_loss(model, found, pair, vectors, silent)


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
