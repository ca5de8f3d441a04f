"""VAST (Chen et al., NeurIPS 2023): the paper's figure 2 in code.

Each modality is encoded once per step, whatever the number of groups and objectives. Its tokens, projected to the text width, become a
Memory; texts attend to it, all in one forward. Letters: B clips of this process, F frames, A audio slices, N, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.interface import MODELS, Model, ModelError, Reward, Rows, Tower, Unit
from omnivast.model.objectives.contrastive import CONTRASTS
from omnivast.model.objectives.generation import MaskTokens
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.bert import TextModel, TextSizes
from omnivast.model.text.generate import ANSWER_LENGTH_PENALTY, CAPTION_LENGTH_PENALTY, beam_search, best_texts, sample
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import shared_rows
from omnivast.model.text.pretrained import text_parts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.heads import ContrastiveHead, MatchingHead, condition_projection
from omnivast.model.vast.matching import match_pairs
from omnivast.model.vast.names import NAMES
from omnivast.model.vast.self_critical import learn_from_reward
from omnivast.model.vast.step import training_losses
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, send

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

_T = TypeVar("_T")
HEAD_GROUPS = ("va", "vs", "vas")
"""Groups of several modalities that have a contrastive head, as released."""



@MODELS.register("vast")
class VAST(Model):
    """Vision, audio and text towers, their heads, and the three objectives. Parameter names are the released checkpoint's."""

    names = NAMES
    can_match = True
    tokenizer: Tokenizer

    contra_temp: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: TextSizes) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.self_critical: SelfCritical | None = None
        width = sizes.hidden_size
        self.contrast = CONTRASTS.find(config.contrastive_loss)
        for name, first in self.contrast.learnt.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(first)))
        widths = {Modality.SUBTITLE: width}
        if config.vision_encoder_type:
            self.vision_encoder = build_vision(config)
            widths[Modality.VISION] = self.vision_encoder.width
            self.vision_frame_embedding = nn.Parameter(0.02 * torch.randn(1, config.max_vision_sample_num or 1, width))
            self.vision_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.hidden_trans_vision_multimodal = condition_projection(self.vision_encoder.width, width)
            for name, value in zip(("pixel_mean", "pixel_std"), self.vision_encoder.pixel_statistics()):
                self.register_buffer(name, value, persistent=False)
        if config.audio_encoder_type:
            self.audio_encoder = build_audio(config)
            self.audio_frontend = self.audio_encoder.frontend
            widths[Modality.AUDIO] = self.audio_encoder.width
            self.audio_frame_embedding = nn.Parameter(0.02 * torch.randn(1, config.max_audio_sample_num or 1, width))
            self.audio_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.hidden_trans_audio_multimodal = condition_projection(self.audio_encoder.width, width)
        self.multimodal_encoder = TextModel(sizes)
        self.subtitle_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.hidden_trans_subtitle_multimodal = condition_projection(width, width)
        self.contra_head_t = ContrastiveHead(width, config.contra_dim)
        for modality, modality_width in widths.items():
            self.add_module(f"contra_head_{modality.value}", ContrastiveHead(modality_width, config.contra_dim))
        for key in HEAD_GROUPS:
            if all(Modality(letter) in widths for letter in key):
                self.add_module(f"contra_head_{key}", nn.Linear(sum(widths[Modality(c)] for c in key), config.contra_dim))
        self.itm_head = MatchingHead(width)
        self._configure(config)

    @classmethod
    def build(cls, cfg: ModelConfig) -> VAST:
        """Raises ModelError, TokenizerError, EncoderError."""
        tokenizer, sizes = text_parts(cfg)
        model = cls(cfg, tokenizer, sizes)
        longest = max(cfg.max_omni_caption_len, cfg.max_subtitle_len, cfg.max_caption_len + cfg.max_answer_len)
        if longest > sizes.max_position_embeddings:
            raise ModelError(f"texts of {longest} tokens (max_*_len) exceed the text encoder's {sizes.max_position_embeddings} positions")
        return model

    def _configure(self, config: ModelConfig) -> None:
        for name, frozen in (("vision_encoder", config.frozen_vision), ("audio_encoder", config.frozen_audio)):
            tower = getattr(self, name, None)
            if tower is not None:
                tower.requires_grad_(not frozen)
        self.set_checkpointing(config.checkpointing)

    def set_checkpointing(self, on: bool) -> None:
        """Whether the backward pass computes the layers again, and their activations are not kept."""
        for name, frozen in (("vision_encoder", self.config.frozen_vision), ("audio_encoder", self.config.frozen_audio)):
            if hasattr(self, name):
                getattr(self, name).set_checkpointing(on and not frozen)
        self.multimodal_encoder.checkpointing = on

    def train(self, mode: bool = True) -> VAST:
        """Frozen towers stay in evaluation mode: no stochastic depth in features that are not trained."""
        super().train(mode)
        for name, frozen in (("vision_encoder", self.config.frozen_vision), ("audio_encoder", self.config.frozen_audio)):
            if frozen and hasattr(self, name):
                getattr(self, name).eval()
        return self

    def towers(self) -> dict[Tower, nn.Module]:
        names: dict[Tower, str] = {"vision": "vision_encoder", "audio": "audio_encoder", "text": "multimodal_encoder"}
        return {tower: getattr(self, name) for tower, name in names.items() if hasattr(self, name)}

    def units(self) -> Iterator[Unit]:
        """The units of the base class (the blocks of the vision and audio towers), and the blocks of the text tower, which run many
        passes in a step."""
        yield from super().units()
        if self.self_critical is not None:  # It also decodes, which runs parts of the blocks without their forward.
            return
        for block in self.multimodal_encoder.blocks:
            for part in block.crossattention.shared:
                yield Unit(part, gathered="step", compiles=False)
            yield Unit(block, gathered="step", compiles=False)

    def check_task(self, task: Task) -> None:
        """Raise ValueError when the task needs a tower or a head that this model has not."""
        if task.groups(Objective.MLM):
            raise ValueError(f"task '{task}': VAST is not trained by mlm; its objectives are ret, cap, qa")
        for group in task.all_groups:
            for modality, tower in ((Modality.VISION, "vision_encoder"), (Modality.AUDIO, "audio_encoder")):
                if modality in group and not hasattr(self, tower):
                    raise ValueError(f"task '{task}': group {group} needs {modality.word}, but model_cfg.{tower}_type is null")
        for group in task.groups(Objective.RETRIEVAL):
            if not self.can_compare(group):
                raise ValueError(f"task '{task}': {type(self).__name__} has no contrastive head for group {group}; "
                                 "retrieval groups are tv, ta, ts, tva, tvs, tvas")

    def can_compare(self, group: Group) -> bool:
        """Whether texts can be compared with clips of a group: it has a contrastive head."""
        return hasattr(self, f"contra_head_{group.key}")

    @property
    def width(self) -> int:
        """Width of the widest tower."""
        towers = (getattr(self, name).width for name in ("vision_encoder", "audio_encoder") if hasattr(self, name))
        return max(self.multimodal_encoder.sizes.hidden_size, *towers, 1)

    @property
    def mask_ids(self) -> MaskTokens:
        return MaskTokens(self.tokenizer.pad, self.tokenizer.cls, self.tokenizer.mask, self.multimodal_encoder.sizes.vocab_size)

    def mixed(self) -> AbstractContextManager:
        """Autocast to ``precision`` (torch.bfloat16 or float16); nothing when it is None."""
        return torch.autocast(self.device.type, dtype=self.precision or torch.bfloat16, enabled=self.precision is not None)

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """The losses of a task on a batch, float32 scalars: "loss" (their sum), "itc", "itm", "cap", "qa" (means over the groups),
        and detached ones per group, "itc.tvas" and so on (paper, equations 1 to 5)."""
        return training_losses(self, batch, task, draws)

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures:
        """Encode the modalities of a batch, each once."""
        encoders = {Modality.VISION: self._encode_vision, Modality.AUDIO: self._encode_audio, Modality.SUBTITLE: self._encode_subtitle}
        features = ClipFeatures({}, {}, {})
        with self.mixed():
            for modality in modalities:
                tokens, mask, pooled = encoders[modality](batch)
                present = on_host(batch.present[modality]) if modality in batch.present else None
                if self.config.missing_modality == "mask" and present is not None and not present.all():
                    seen = send(present, self.device)[:, None].bool()
                    mask = seen.expand(tokens.shape[:2]) if mask is None else mask & seen
                    pooled = pooled * seen
                features.condition[modality], features.condition_mask[modality], features.pooled[modality] = tokens, mask, pooled
        return features

    def vision_tokens(self, frames: Tensor) -> Tensor:
        """(B, F, 3, H, W) uint8, or float already normalised → (B, F, N, width)."""
        if not frames.is_floating_point():
            frames = (frames.float() - self.pixel_mean) / self.pixel_std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_vision):
            return self.vision_encoder.encode_frames(frames)

    def audio_tokens(self, spectrograms: Tensor) -> Tensor:
        """(B, A, T, mel) → (B, A, N, width)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_audio):
            return self.audio_encoder(spectrograms.flatten(0, 1)).unflatten(0, spectrograms.shape[:2])

    def _encode_vision(self, batch: Batch) -> tuple[Tensor, None, Tensor]:
        tokens = self.vision_tokens(_needed(batch.frames, "frames"))
        per_frame = tokens[:, :, 0] if self.vision_encoder.has_cls else tokens.mean(2)
        condition = self._condition(self.hidden_trans_vision_multimodal(tokens), self.vision_frame_embedding, self.vision_type_embeddings)
        return condition, None, per_frame.mean(1)

    def _encode_audio(self, batch: Batch) -> tuple[Tensor, None, Tensor]:
        tokens = self.audio_tokens(_needed(batch.spectrograms, "spectrograms"))
        condition = self._condition(self.hidden_trans_audio_multimodal(tokens), self.audio_frame_embedding, self.audio_type_embeddings)
        per_slice = tokens[:, :, 0] if self.audio_encoder.has_cls else tokens.mean(2)
        return condition, None, per_slice.mean(1)

    def _encode_subtitle(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        texts = _needed(batch.subtitles, "subtitles")
        ids, mask = on_host(texts.ids), on_host(texts.mask)
        if not self.config.mask_subtitle_padding:  # as released: padding up to the full length is computed and attended to
            spare = ((0, 0), (0, self.config.max_subtitle_len - ids.shape[1]))
            ids, mask = np.pad(ids, spare, constant_values=self.tokenizer.pad), np.pad(mask, spare)
        out = self.multimodal_encoder.encode(Layout.of(ids, mask, compute_padding=not self.config.mask_subtitle_padding))
        condition = self.hidden_trans_subtitle_multimodal(out.padded()) + self.subtitle_type_embeddings
        return condition, send(mask, self.device).bool() if self.config.mask_subtitle_padding else None, out.cls()

    def _condition(self, tokens: Tensor, frame_embedding: Tensor, type_embedding: Tensor) -> Tensor:
        """(B, F, N, D) → (B, F · N, D) with frame and type embeddings; nearest frame embedding when the number differs."""
        if self.config.frame_embedding_type == "adaptive":
            if frame_embedding.shape[1] != tokens.shape[1]:
                frame_embedding = F.interpolate(frame_embedding.float().transpose(1, 2), tokens.shape[1], mode="nearest").transpose(1, 2)
            tokens = tokens + frame_embedding[:, :, None]
        return tokens.flatten(1, 2) + type_embedding

    def embed_clips(self, features: ClipFeatures, group: Group) -> Tensor:
        """The clips in the contrastive space: (B, contra_dim) float32 of unit length."""
        pooled = torch.cat([features.pooled[m].float() for m in group], 1)
        return F.normalize(getattr(self, f"contra_head_{group.key}")(pooled), dim=-1)

    def embed_cls(self, cls: Tensor) -> Tensor:
        """[CLS] states of texts (N, D) → (N, contra_dim) float32 of unit length."""
        return F.normalize(self.contra_head_t(cls.float()), dim=-1)

    def embed_texts(self, texts: Texts) -> Tensor:
        """Texts in the contrastive space: (N, contra_dim) float32 of unit length."""
        with self.mixed():
            out = self.multimodal_encoder.sentences(Layout.of(texts.ids, texts.mask))
        return self.embed_cls(out.cls())

    def clip_vectors(self, features: ClipFeatures, group: Group) -> Tensor:
        """What the clips are compared with texts by, (B, any width) float32: the one vector of the group."""
        return self.embed_clips(features, group)

    def contrast_logits(self, texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of b local pairs against the global batch of B, clips by their ``clip_vectors``: text to clip and clip to text, each
        (b, B)."""
        return self.contrast.logits(texts, clips, all_texts, all_clips, *(getattr(self, name) for name in self.contrast.learnt))

    def memory(self, features: ClipFeatures) -> Memory:
        """What texts attend to; keys and values are projected at first use and kept."""
        return Memory(features.condition, features.condition_mask)

    def index_clips(self, features: ClipFeatures, group: Group) -> Rows:
        return Rows({"vector": self.clip_vectors(features, group).float()})

    def index_texts(self, texts: Texts) -> Rows:
        return Rows({"vector": self.embed_texts(texts).float()})

    def matching_features(self, features: ClipFeatures, modalities: Sequence[Modality]) -> ClipFeatures:
        """Texts attend to the condition features in ``precision``, so that keeping them in it changes nothing."""
        condition = {m: x.to(self.precision or x.dtype) for m, x in features.condition.items() if m in modalities}
        return ClipFeatures(condition, {m: x for m, x in features.condition_mask.items() if m in modalities}, features.pooled)

    def match(self, memory: Memory, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Matching margin of pairs: texts ids, mask (P, L) with memory rows (P,) → (P,) float32, whose sigmoid is their probability."""
        return match_pairs(self, memory, group, ids, mask, rows)

    def learn_from_reward(self, reward: Reward, *, candidates: int, search: Literal["sample", "beam"],
                          baseline: Literal["greedy", "mean"]) -> None:
        """See :func:`.self_critical.learn_from_reward`."""
        learn_from_reward(self, SelfCritical(reward, candidates, search, baseline))

    def answer_ids(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int,
                   length_penalty: float = ANSWER_LENGTH_PENALTY) -> list[list[int]]:
        """Ids of the answer to every question; ``questions.clip`` names its memory row."""
        used, grid, cell = shared_rows(on_host(questions.clip))
        texts = grid.T.flatten()
        prompts = on_host(questions.ids)[texts], on_host(questions.mask)[texts]
        with self.mixed():
            state = self.multimodal_encoder.start(memory.rows(used), group, prompts, self.config.max_caption_len)
            answers = beam_search(self.multimodal_encoder, state, self.tokenizer, beam_size, self.config.max_answer_len, length_penalty)
        return [answers[p % len(used) * len(grid) + p // len(used)] for p in cell.tolist()]

    def answer(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int,
               length_penalty: float = ANSWER_LENGTH_PENALTY) -> list[str]:
        """The answer to every question as text."""
        rows = self.answer_ids(memory, group, questions, beam_size=beam_size, length_penalty=length_penalty)
        return [self.tokenizer.decode(row) for row in rows]

    def best_captions(self, memory: Memory, group: Group, *, beam_size: int, max_length: int,
                      length_penalty: float = CAPTION_LENGTH_PENALTY) -> list[list[str]]:
        """The ``beam_size`` best captions of every memory row that beam search finds, the best first."""
        with self.mixed():
            state = self.multimodal_encoder.start(memory, group)
            rows = best_texts(self.multimodal_encoder, state, self.tokenizer, beam_size, max_length, length_penalty)
        return [[self.tokenizer.decode(ids) for ids in clip] for clip in rows]

    def sample_captions(self, memory: Memory, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[str]]:
        """Captions of every memory row by top-k sampling; ``draws`` (M, captions per row, tokens at most) uniform in [0, 1)."""
        with self.mixed():
            state = self.multimodal_encoder.start(memory, group)
            rows = sample(self.multimodal_encoder, state, self.tokenizer, draws, top_k)
        return [[self.tokenizer.decode(ids) for ids in clip] for clip in rows]


def _needed(value: _T | None, name: str) -> _T:
    if value is None:
        raise ValueError(f"the batch has no {name}, but the task needs them")
    return value
