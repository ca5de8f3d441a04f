"""What the data must know of the model: sizes, lengths and a tokenizer. run.py hands them over: neither room imports the other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from omnivast.config.conversation import Conversation
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Modality
from omnivast.data.vision import RESIZES, Resize, find_resize

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class DataError(ValueError):
    """A dataset that cannot be used as configured; the message names the dataset, the key or file, and what was expected."""


def kind_of_fault(reason: str) -> str:
    """The reason why a clip cannot be read, without what differs from clip to clip: its path and numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", reason.rsplit(": ", 1)[-1])


class UnreadableError(RuntimeError):
    """Clips that could not be read where they must not be replaced. ``str()`` lists them with their reasons."""

    @classmethod
    def of(cls, name: str, unreadable: list[tuple[str, str]], hint: str) -> UnreadableError:
        """An error listing ``(clip id, reason)`` of dataset ``name``, at most 20 of them in full."""
        shown = [f"  {clip_id}: {reason}" for clip_id, reason in unreadable[:20]]
        if len(unreadable) > len(shown):
            shown.append(f"  … and {len(unreadable) - len(shown)} more")
        return cls("\n".join([f"dataset '{name}': {len(unreadable)} unreadable clip(s); {hint}", *shown]))


class KeptFeatures(Protocol):
    """What frozen towers found in clips: a FeatureStore of data/features.py."""

    folder: Path

    def read(self, modality: Modality, read_as: tuple[object, ...]) -> dict[str, Tensor] | None:
        ...


class Tokenizer(Protocol):
    """Text → ids. Must be picklable, for worker processes."""

    pad: int
    cls: int
    sep: int
    mask: int

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of each text, [CLS] first and [SEP] last, truncated to ``max_length`` of them; not padded."""
        ...


class ChatTokenizer(Tokenizer, Protocol):
    """The tokenizer of a model that learns conversations."""

    def converse(self, conversation: Conversation, subtitle: str | None, frames: int, slices: int, where: str) -> Any:
        """The conversation as the model reads it: ``ids``, a list of int with one for all its media, and ``supervised``, a list of bool:
        what of them is learnt. ``frames``, ``slices``: how many of each are given with it. Raises ValueError, which names ``where``, for
        one that cannot be learnt, such as one that is too long."""
        ...


@dataclass(frozen=True)
class TextLengths:
    """Most tokens of each kind of text in one corpus, [CLS] and [SEP] included."""

    caption: dict[CaptionKind, int]
    question: int
    answer: int
    subtitle: int
    told: int = 0
    """Of what a text branch reads."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Sizes of the model's inputs."""

    resolution: int
    mel_bins: int
    target_length: int
    audio_frontend: str = "beats"
    """A name in data/audio.py: how sound becomes spectrograms."""
    resize: Resize = RESIZES["bicubic"]
    """How frames are brought to ``resolution``."""
    max_caption_len: int
    max_omni_caption_len: int
    max_subtitle_len: int
    max_answer_len: int
    one_caption_length: bool = False
    """Omni captions have max_caption_len tokens at most, as all others."""
    captioner_mode: bool = False
    """Clips are to be labelled: evaluation needs no captions."""
    conversations: bool = False
    """Captions, questions and answers are learnt as conversations."""
    features: KeptFeatures | None = None
    """Where features of frozen towers are kept: they are read in place of the clips, whose frames and slices are those of a test."""
    negatives: bool = False
    """The model learns from rejected captions."""
    told_len: int = 0
    """Tokens of title, description and subtitle for a text branch; 0: the model has none."""
    told_dropped: float = 0.5
    """Share of training samples without title and description, and of those without subtitle, there."""

    @classmethod
    def of(cls, model_cfg: ModelConfig, audio_frontend: str = "beats", captioner_mode: bool = False,
           frame_resize: str = "bicubic", one_caption_length: bool = False, conversations: bool = False,
           features: KeptFeatures | None = None, negatives: bool = False) -> InputSpec:
        """The sizes that a model of this config takes; what follows it as the model states them."""
        return cls(
            resolution=model_cfg.vision_resolution,
            mel_bins=model_cfg.audio_melbins,
            target_length=model_cfg.audio_target_length,
            audio_frontend=audio_frontend,
            resize=find_resize(frame_resize, model_cfg.vision_antialias),
            max_caption_len=model_cfg.max_caption_len,
            max_omni_caption_len=model_cfg.max_omni_caption_len,
            max_subtitle_len=model_cfg.max_subtitle_len,
            max_answer_len=model_cfg.max_answer_len,
            one_caption_length=one_caption_length,
            captioner_mode=captioner_mode,
            conversations=conversations,
            features=features,
            negatives=negatives,
            told_len=model_cfg.max_text_branch_len if model_cfg.text_branch else 0,
            told_dropped=model_cfg.text_branch_dropped,
        )

    def lengths(self, several_kinds: bool) -> TextLengths:
        """Text limits of a corpus. Only beside vision or audio captions is the omni caption the long one of VAST-27M."""
        omni = self.max_omni_caption_len if several_kinds and not self.one_caption_length else self.max_caption_len
        return TextLengths(
            caption={CaptionKind.OMNI: omni, CaptionKind.VISION: self.max_caption_len, CaptionKind.AUDIO: self.max_caption_len},
            question=self.max_caption_len,
            answer=self.max_answer_len,
            subtitle=self.max_subtitle_len,
            told=self.told_len,
        )
