"""What families with a vision and an audio tower have in common, and those with a text tower beside them: VAST, VALOR, and what derives
from them.

Letters: B clips, F frames, A slices of sound, N tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Task
from omnivast.model.encoders.base import AudioEncoder, Encoder, VisionEncoder
from omnivast.model.encoders.build import build_audio
from omnivast.model.interface import Model, Reward, Scored, Tower, Unit
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.bert import DecoderState, TextModel
from omnivast.model.text.generate import log_likelihoods, sample
from omnivast.model.text.layout import Grid
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import shared_rows
from omnivast.model.text.self_critical import Captioner, Ids, learn_from_reward
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.utils.transfer import on_host

if TYPE_CHECKING:
    from omnivast.data.batch import Texts

MODULES: dict[Tower, str] = {"vision": "vision_encoder", "audio": "audio_encoder", "text": "multimodal_encoder"}
"""The name under which a model holds each of its towers."""
Given = TypeVar("Given")
This = TypeVar("This", bound="MediaModel")


class MediaModel(Model):
    """A model whose vision and audio towers, where it has them, are ``vision_encoder`` and ``audio_encoder``. A family makes them,
    ``pixel_mean`` and ``pixel_std`` in its ``__init__``, and then calls ``configure``."""

    config: ModelConfig
    frontends: Mapping[str, str] = {}
    """Front ends that audio towers state → those, in data/audio.py, by which the family takes sound with these towers; where they
    differ."""
    pixel_mean: Tensor
    pixel_std: Tensor

    def configure(self) -> None:
        """Freeze the towers that the config says are frozen, and set checkpointing and the front end of sound."""
        if hasattr(self, "audio_encoder"):
            self.audio_frontend = self._frontend(cast(AudioEncoder, self.audio_encoder))
        for tower, frozen in self._media_towers():
            tower.requires_grad_(not frozen)
        self.set_checkpointing(self.config.checkpointing)

    @classmethod
    def frontend_of(cls, cfg: ModelConfig) -> str:
        """See Model. The audio tower is made without memory."""
        if cfg.audio_encoder_type is None:
            return cls.audio_frontend
        with torch.device("meta"):
            return cls._frontend(build_audio(cfg))

    @classmethod
    def _frontend(cls, tower: AudioEncoder) -> str:
        return cls.frontends.get(tower.frontend, tower.frontend)

    def _media_towers(self) -> list[tuple[Encoder, bool]]:
        """The vision and audio towers that it has, and whether they are frozen."""
        frozen = {"vision_encoder": self.config.frozen_vision, "audio_encoder": self.config.frozen_audio}
        return [(getattr(self, name), is_frozen) for name, is_frozen in frozen.items() if hasattr(self, name)]

    def set_checkpointing(self, on: bool) -> None:
        """Whether the backward pass computes the layers again, and their activations are not kept."""
        for tower, frozen in self._media_towers():
            tower.set_checkpointing(on and not frozen)

    def train(self: This, mode: bool = True) -> This:
        """Frozen towers stay in evaluation mode: no stochastic depth in features that are not trained."""
        super().train(mode)
        for tower, frozen in self._media_towers():
            if frozen:
                tower.eval()
        return self

    def towers(self) -> dict[Tower, nn.Module]:
        return {tower: getattr(self, name) for tower, name in MODULES.items() if hasattr(self, name)}

    def check_task(self, task: Task) -> None:
        """Raise ValueError when the task needs a tower that this model has not."""
        for group in task.all_groups:
            for modality in (Modality.VISION, Modality.AUDIO):
                name = f"{modality.word}_encoder"
                if modality in group and not hasattr(self, name):
                    raise ValueError(f"task '{task}': group {group} needs {modality.word}, but model_cfg.{name}_type is null")

    def mixed(self) -> AbstractContextManager:
        """Autocast to ``precision`` (torch.bfloat16 or float16); nothing when it is None."""
        kind = "cpu" if self.device.type == "meta" else self.device.type  # shapes alone
        return torch.autocast(kind, dtype=self.precision or torch.bfloat16, enabled=self.precision is not None)

    def vision_tokens(self, frames: Tensor) -> Tensor:
        """(B, F, 3, H, W) uint8, or float already normalised → (B, F, N, width)."""
        if not frames.is_floating_point():
            frames = (frames.float() - self.pixel_mean) / self.pixel_std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_vision):
            return cast(VisionEncoder, self.vision_encoder).encode_frames(frames)

    def audio_tokens(self, spectrograms: Tensor) -> Tensor:
        """(B, A, T, mel) → (B, A, N, width)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_audio):
            return cast(AudioEncoder, self.audio_encoder)(spectrograms.flatten(0, 1)).unflatten(0, spectrograms.shape[:2])


class TowerModel(MediaModel):
    """A MediaModel whose text tower is ``multimodal_encoder``."""

    tokenizer: Tokenizer
    multimodal_encoder: TextModel
    self_critical: SelfCritical | None = None
    """Captions are learnt from a reward, see text/self_critical.py."""

    def set_checkpointing(self, on: bool) -> None:
        super().set_checkpointing(on)
        self.multimodal_encoder.checkpointing = on

    def units(self) -> Iterator[Unit]:
        """The units of the base class (the blocks of the vision and audio towers), and the blocks of the text tower, which run many
        passes in a step; but not where parts of them run without their forward, as in self-critical training, which also decodes."""
        yield from super().units()
        if self.self_critical is not None or not self.multimodal_encoder.runs_whole_blocks:
            return
        for block in self.multimodal_encoder.blocks:
            for part in block.crossattention.shared:
                yield Unit(part, gathered="step", compiles=False)
            yield Unit(block, gathered="step", compiles=False)

    @property
    def width(self) -> int:
        """Width of the widest tower."""
        return max(self.multimodal_encoder.sizes.hidden_size, *(tower.width for tower, _ in self._media_towers()), 1)

    @property
    def masks(self) -> bool:
        """Whether words are predicted at a [MASK]; else each at the one before."""
        return True

    def learn_from_reward(self, reward: Reward, *, candidates: int, search: Literal["sample", "beam"],
                          baseline: Literal["greedy", "mean"]) -> None:
        """See :func:`omnivast.model.text.self_critical.learn_from_reward`."""
        learn_from_reward(cast(Captioner, self), SelfCritical(reward, candidates, search, baseline))

    # ----------------------------------------------------------------------------------------------------------- generation

    def caption_ids(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float) -> list[list[Ids]]:
        """Ids of the ``beam_size`` best captions of every memory row that the family's search finds, the best first."""
        raise NotImplementedError

    def begun_answers(self, memory: Memory, group: Group, questions: Texts, texts: np.ndarray) -> DecoderState:
        """What answers are written from: the questions ``texts`` (M · R,), which stand side by side for each memory row."""
        raise NotImplementedError

    @property
    def answer_words(self) -> int:
        """The most tokens of an answer."""
        raise NotImplementedError

    def caption_prompt(self, rows: int) -> tuple[Grid, Grid] | None:
        """Ids and mask (rows, P) of what stands before captions."""
        return None

    def most_caption_words(self, asked: int) -> int:
        """The most tokens of a generated caption where ``asked`` were asked for."""
        return asked

    def begun_captions(self, memory: Memory, group: Group) -> DecoderState:
        """What captions are written from."""
        return self.multimodal_encoder.start(memory, group, self.caption_prompt(len(memory)))

    def best_captions(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float | None = None,
                      ) -> list[list[str]]:
        """The ``beam_size`` best captions of every memory row that the family's search finds, the best first."""
        return self._decoded(self._best_ids(memory, group, beam_size, max_length, length_penalty))

    def sample_captions(self, memory: Memory, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[str]]:
        """Captions of every memory row by top-k sampling; ``draws`` (M, captions per row, tokens at most) uniform in [0, 1)."""
        return self._decoded(self._sampled_ids(memory, group, draws, top_k))

    def scored_captions(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float | None = None,
                        ) -> list[list[Scored]]:
        """See Model; the lengths that are divided by count [CLS], as in the search."""
        penalty = self.length_penalty if length_penalty is None else length_penalty
        return self._scored(memory, group, self._best_ids(memory, group, beam_size, max_length, penalty), max_length, penalty)

    def scored_samples(self, memory: Memory, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[Scored]]:
        """See Model."""
        return self._scored(memory, group, self._sampled_ids(memory, group, draws, top_k), draws.shape[-1], 0.0)

    def answer_scores(self, memory: Memory, group: Group, questions: Texts, answers: Sequence[str]) -> list[float]:
        """See Model. Of an answer as many tokens count as the model writes."""
        used, texts, rows = question_rows(questions)
        ids = [row[1:-1] for row in self.tokenizer.encode(list(answers), self.answer_words + 2)]
        with self.mixed():
            state = self.begun_answers(memory.rows(used), group, questions, texts)
            found = log_likelihoods(self.multimodal_encoder, state, self.tokenizer, [[ids[text]] for text in texts], self.answer_words,
                                    self.masks)
        return [found[row][0] for row in rows]

    def _best_ids(self, memory: Memory, group: Group, beams: int, longest: int, penalty: float | None) -> list[list[Ids]]:
        with self.mixed():
            return self.caption_ids(memory, group, beam_size=beams, max_length=self.most_caption_words(longest),
                                    length_penalty=self.length_penalty if penalty is None else penalty)

    def _sampled_ids(self, memory: Memory, group: Group, draws: Tensor, top_k: int) -> list[list[Ids]]:
        draws = draws[..., : self.most_caption_words(draws.shape[-1])]
        with self.mixed():
            return sample(self.multimodal_encoder, self.begun_captions(memory, group), self.tokenizer, draws, top_k, self.masks)

    def _scored(self, memory: Memory, group: Group, ids: list[list[Ids]], longest: int, penalty: float) -> list[list[Scored]]:
        with self.mixed():
            found = log_likelihoods(self.multimodal_encoder, self.begun_captions(memory, group), self.tokenizer, ids,
                                    self.most_caption_words(longest), self.masks)
        return [[(text, total / (1 + len(own)) ** penalty) for text, total, own in zip(*rows)]
                for rows in zip(self._decoded(ids), found, ids)]

    def _decoded(self, ids: list[list[Ids]]) -> list[list[str]]:
        return [[self.tokenizer.decode(own) for own in clip] for clip in ids]

    @property
    def mask_ids(self) -> MaskTokens:
        return MaskTokens(self.tokenizer.pad, self.tokenizer.cls, self.tokenizer.mask, self.multimodal_encoder.sizes.vocab_size)


def tower_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tensors tell of the ``model_cfg`` of a TowerModel with a contrastive head of texts; see Names.settings."""
    found: dict[str, Any] = {}
    if (head := state.get("contra_head_t.linear.weight")) is not None:
        found |= {"contra_dim": head.shape[0], "text_encoder_cfg.hidden_size": head.shape[1]}
    if (words := state.get("multimodal_encoder.bert.embeddings.word_embeddings.weight")) is not None:
        found["vocabulary of text_encoder_type"] = words.shape[0]
    for tower in ("vision_encoder", "audio_encoder"):
        found[f"{tower}_type"] = "set" if any(name.startswith(f"{tower}.") for name in state) else "null"
    return found


def question_rows(questions: Texts) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(the memory rows that questions ask about, the questions by their numbers as a decoder has them: those of a memory row side by side,
    as many for each; the decoder's row of every question)."""
    used, grid, cell = shared_rows(on_host(questions.clip))
    return used, grid.T.flatten(), [p % len(used) * len(grid) + p // len(used) for p in cell.tolist()]


def needed(value: Given | None, name: str) -> Given:
    """A part of a batch. Raises ValueError where the batch has none."""
    if value is None:
        raise ValueError(f"the batch has no {name}, but the task needs them")
    return value
