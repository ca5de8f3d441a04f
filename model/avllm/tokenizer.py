"""The tokenizer of a language model, as the data workers have it: plain texts, and conversations by its chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnivast.model.avllm.template import MEDIA, ChatTemplate, Encoded, TemplateError

if TYPE_CHECKING:
    from omnivast.config.conversation import Conversation


@dataclass(frozen=True)
class MediaTokens:
    """How many tokens media take."""

    patches: int
    """Of a frame."""
    of_slice: int
    boundaries: int
    """Around each part."""

    def count(self, frames: int, slices: int) -> int:
        """Tokens of so many frames (one each, and one for each patch) and slices of sound; 0: the track is not given."""
        seen = frames + self.patches + 2 * self.boundaries if frames else 0
        return seen + (slices * self.of_slice + self.boundaries if slices else 0)


class ConversationTokenizer:
    """Can be pickled: each data worker has a copy.

    Args:
        context: tokens of a conversation at most, media included.
        cut: whether longer ones are cut at their end; else they are an error.
    """

    def __init__(self, template: ChatTemplate, context: int, cut: bool, media: MediaTokens) -> None:
        self.template, self.context, self.cut, self.media = template, context, cut, media
        self._words: Any = template.tokenizer
        self.pad = self.cls = self.sep = self.mask = template.end

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of plain texts, cut to ``max_length``."""
        return [self._words(text, add_special_tokens=False).input_ids[:max_length] for text in texts]

    def decode(self, ids: list[int]) -> str:
        """The text of generated ids, special tokens and blanks at the ends left out."""
        return self._words.decode(ids, skip_special_tokens=True).strip()

    def converse(self, conversation: Conversation, subtitle: str | None, frames: int, slices: int, where: str) -> Encoded:
        """See data/spec.py. Raises TemplateError."""
        written = self.template.encode(conversation, subtitle, where)
        media = self.media.count(frames, slices)
        length = len(written.ids) - written.ids.count(MEDIA) + media
        if length <= self.context:
            return written
        if not self.cut:
            counted = f", {media:,} of them of its media" if media else ""
            raise TemplateError(f"{where}: the conversation has {length:,} tokens{counted}, but the language model reads "
                                f"{self.context:,} (model_cfg.llm_context); shorten it, or cut such rows at their end with "
                                "\"llm_cut_long_rows\": true")
        kept = Encoded(written.ids[: self.context - length], written.supervised[: self.context - length])
        if not any(kept.supervised) or written.ids.count(MEDIA) != kept.ids.count(MEDIA):
            raise TemplateError(f"{where}: cut to the {self.context:,} tokens that the language model reads (model_cfg.llm_context), the "
                                "conversation has no answer left to learn")
        return kept
