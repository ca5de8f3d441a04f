"""What the files of the step use of the model, which uses them: so that none imports the other in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality
from omnivast.model.objectives.contrastive import Contrast
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.bert import TextModel
from omnivast.model.text.memory import Memory
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.heads import MatchingHead

if TYPE_CHECKING:
    from omnivast.data.batch import Batch


class Parts(Protocol):
    """See VAST in model.py."""

    config: ModelConfig
    tokenizer: Tokenizer
    gather_with_grad: bool
    self_critical: SelfCritical | None
    multimodal_encoder: TextModel
    itm_head: MatchingHead
    contrast: Contrast

    @property
    def device(self) -> torch.device: ...

    @property
    def mask_ids(self) -> MaskTokens: ...

    def mixed(self) -> AbstractContextManager: ...

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures: ...

    def clip_vectors(self, features: ClipFeatures, group: Group) -> Tensor: ...

    def contrast_scores(self, texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]: ...

    def contrast_scalars(self, group: Group) -> list[Tensor]: ...

    def embed_cls(self, cls: Tensor) -> Tensor: ...

    def memory(self, features: ClipFeatures) -> Memory: ...
