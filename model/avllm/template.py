"""Conversations → token ids and the mask of what is learnt. To be completed; the signatures stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from omnivast.model.interface import ModelError

if TYPE_CHECKING:
    from omnivast.data.conversation import Conversation

MEDIA = -200
Style = Literal["auto", "vicuna_v1", "plain"]


class TemplateError(ModelError):
    """A chat template, or a conversation, that cannot be written with it."""


@dataclass
class Encoded:
    ids: list[int]
    supervised: list[bool]


class ChatTemplate:
    def __init__(self, tokenizer: Any, style: Style = "auto") -> None:
        raise NotImplementedError

    def encode(self, conversation: Conversation, subtitle: str | None = None, where: str = "") -> Encoded:
        raise NotImplementedError

    def prompt(self, conversation: Conversation, subtitle: str | None = None, where: str = "") -> list[int]:
        raise NotImplementedError
