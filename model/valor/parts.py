"""What the files of the step use of the model, which uses them: so that none imports the other in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.text.self_critical import Captioner
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.prompts import Prompts
from omnivast.model.valor.scores import Alignment

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts


class Parts(Captioner, Protocol):
    """Beside what a Captioner has; see VALOR in model.py."""

    config: ModelConfig
    gather_with_grad: bool
    alignment: Alignment
    prompts: Prompts

    @property
    def temperature(self) -> Tensor: ...

    @property
    def mask_ids(self) -> MaskTokens: ...

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures: ...

    def embed_clips(self, features: ClipFeatures, groups: Sequence[Group]) -> Rows: ...

    def index_texts(self, texts: Texts) -> Rows: ...
