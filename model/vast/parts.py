"""What the files of the step use of the model, which uses them: so that none imports the other in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality
from omnivast.model.objectives.contrastive import Contrast
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.text.self_critical import Captioner
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.heads import MatchingHead

if TYPE_CHECKING:
    from omnivast.data.batch import Batch


class Parts(Captioner, Protocol):
    """Beside what a Captioner has; see VAST in model.py."""

    config: ModelConfig
    gather_with_grad: bool
    itm_head: MatchingHead
    contrast: Contrast

    @property
    def mask_ids(self) -> MaskTokens: ...

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures: ...

    def clip_vectors(self, features: ClipFeatures, group: Group) -> Tensor: ...

    def contrast_scores(self, texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]: ...

    def contrast_scalars(self, group: Group) -> list[Tensor]: ...

    def embed_cls(self, cls: Tensor) -> Tensor: ...
