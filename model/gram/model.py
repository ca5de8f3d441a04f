"""GRAM (Cicchetti et al., ICLR 2025): VAST whose texts and clips are compared by the volume that their vectors span.

Towers, heads, memory, matching and generation are VAST's, of which the released GRAM is a fork, and so are the names of its parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Objective, Task
from omnivast.model.gram.volume import volumes
from omnivast.model.interface import MODELS, ModelError, Rows
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.model import VAST
from omnivast.model.vast.names import NAMES
from omnivast.utils.random import StepRandom

if TYPE_CHECKING:
    from omnivast.data.batch import Batch

DEPTH_HEAD = "contra_head_d."
"""What released checkpoints have besides VAST's: a head for depth maps, a modality that is not read here."""
WITHOUT = {"matryoshka_dims": "GRAM's clips are several vectors each, which are not cut",
           "index_dim": "GRAM's clips are several vectors each, which are not cut",
           "clip_pairs": "GRAM's volume compares the tracks of a clip with each other already"}
"""Settings of VAST that have no meaning here, and why."""


@MODELS.register("gram")
class GRAM(VAST):
    """A score is −volume, or between that and the cosine of VAST's vector of the group, as ``gram_cosine`` says."""

    names = dataclasses.replace(NAMES, unused=(*NAMES.unused, DEPTH_HEAD), own=(DEPTH_HEAD,))
    pair_numbers = 8  # three products, the determinant, the cosine, and what they are computed by

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: TextSizes) -> None:
        for key in ("matryoshka_dims", "index_dim", "clip_pairs"):
            if getattr(config, key):
                raise ModelError(f"model_cfg.{key}: {WITHOUT[key]}; leave it out, or take model_type vast")
        super().__init__(config, tokenizer, sizes)
        if "contra_bias" in self.contrast.learnt:
            # At the start the logit of the best score, a volume of 0 and a cosine of 1, is 0, as of VAST.
            nn.init.constant_(self.get_parameter("contra_bias"), self.contrast.learnt["contra_bias"] * config.gram_cosine)

    def can_compare(self, group: Group) -> bool:
        """Any modalities span a volume; only the cosine needs a head of the group."""
        return not self.config.gram_cosine or super().can_compare(group)

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        whole = joined(task) if self.config.gram_volume == "task" else task
        for group in whole.groups(Objective.RETRIEVAL):
            if group.caption_kind not in batch.captions:
                raise ValueError(f"corpus '{batch.corpus}': gram_volume task compares {group} with {group.caption_kind.value} captions, "
                                 f"which are not read for its task '{task}'; write its groups as ret%{group}")
        return super().forward(batch, whole, draws)

    def clip_vectors(self, features: ClipFeatures, group: Group) -> Tensor:
        """One after the other the vector of each modality, and that of the group if its cosine counts: (B, (k or k + 1) · contra_dim)."""
        own = [self.embed_clips(features, Group((modality,))) for modality in group]
        if self.config.gram_cosine:
            own.append(self.embed_clips(features, group))
        return torch.cat(own, 1)

    def contrast_scores(self, texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]:
        return self._scores(texts, all_clips), self._scores(all_texts, clips).T

    def similarity(self, group: Group, texts: Rows, clips: Rows, by_clip: bool = False) -> Tensor:
        # Rows that were kept as float16 are no longer of length 1 exactly, which would move small volumes.
        own = normalize(texts["vector"], dim=1)
        scores = self._scores(own, normalize(clips["vector"].unflatten(1, (-1, own.shape[1])), dim=2).flatten(1))
        return scores.T if by_clip else scores

    def _scores(self, texts: Tensor, clips: Tensor) -> Tensor:
        """(T, C), from −1 to 1, of texts (T, D) and clips as of ``clip_vectors``."""
        vectors = clips.unflatten(1, (-1, texts.shape[1]))
        share = self.config.gram_cosine
        if not share:
            return -volumes(texts, vectors)
        return share * (texts @ vectors[:, -1].T) - (1 - share) * volumes(texts, vectors[:, :-1])


def joined(task: Task) -> Task:
    """The task with one retrieval group, of all modalities of those that it has: as the release trains, whatever its configs name."""
    groups: Sequence[Group] = task.groups(Objective.RETRIEVAL)
    if not groups:
        return task
    whole = Group.parse("".join({modality.value for group in groups for modality in group}))
    return Task(tuple((objective, (whole,) if objective is Objective.RETRIEVAL else own) for objective, own in task.parts))
