"""What the files of the step use of the model, which uses them: so that none imports the other in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.bert import DecoderState, TextModel
from omnivast.model.text.memory import Memory
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.prompts import Pair, Prompts
from omnivast.model.valor.scores import Alignment

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts


class Parts(Protocol):
    """See VALOR in model.py."""

    config: ModelConfig
    tokenizer: Tokenizer
    gather_with_grad: bool
    self_critical: SelfCritical | None
    multimodal_encoder: TextModel
    alignment: Alignment
    prompts: Prompts

    @property
    def device(self) -> torch.device: ...

    @property
    def masks(self) -> bool: ...

    @property
    def temperature(self) -> Tensor: ...

    @property
    def mask_ids(self) -> MaskTokens: ...

    @property
    def caption_words(self) -> int: ...

    def caption_prompt(self, rows: int) -> Pair | None: ...

    def searched(self, state: DecoderState, beams: int) -> list[list[list[int]]]: ...

    def mixed(self) -> AbstractContextManager: ...

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures: ...

    def embed_clips(self, features: ClipFeatures, groups: Sequence[Group]) -> Rows: ...

    def index_texts(self, texts: Texts) -> Rows: ...

    def memory(self, features: ClipFeatures) -> Memory: ...


