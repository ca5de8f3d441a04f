"""VAST (Chen et al., NeurIPS 2023): the paper's figure 2 in code.

Each modality is encoded once per step, whatever the number of groups and objectives. Its tokens, projected to the text width, become a
Memory; texts attend to it, all in one forward. Letters: B clips of this process, F frames, A audio slices, N, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.heads import ContrastiveHead, condition_projection
from omnivast.model.interface import MODELS, ModelError, Rows
from omnivast.model.objectives.contrastive import CONTRASTS, cosines, prefix
from omnivast.model.text.bert import DecoderState, TextModel, TextSizes
from omnivast.model.text.beside import BesideMemory
from omnivast.model.text.generate import ANSWER_LENGTH_PENALTY, CAPTION_LENGTH_PENALTY, beam_search, best_texts
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.padded import padded_states
from omnivast.model.text.pretrained import text_parts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.towers import Ids, TowerModel, needed, question_rows
from omnivast.model.vast.contrast import check_added
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.heads import MatchingHead
from omnivast.model.vast.matching import match_pairs
from omnivast.model.vast.names import NAMES
from omnivast.model.vast.step import training_losses
from omnivast.model.vast.text_branch import TextBranch
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, send

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

HEAD_GROUPS = ("va", "vs", "vas")
"""Groups of several modalities that have a contrastive head, as released."""
SCALAR_GROUPS = ("v", "a", "s", "va", "vs", "as", "vas")
"""The groups, in the order in which ``temperature_per_group`` keeps their scalars."""


@MODELS.register("vast")
class VAST(TowerModel):
    """Vision, audio and text towers, their heads, and the three objectives. Parameter names are the released checkpoint's."""

    names = NAMES
    can_match = True
    learns_negatives = True

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: TextSizes) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        width = sizes.hidden_size
        self.contrast = CONTRASTS.find(config.contrastive_loss)
        check_added(config)
        for name, first in self.contrast.learnt.items():
            values = torch.full((len(SCALAR_GROUPS),), first) if config.temperature_per_group else torch.tensor(first)
            self.register_parameter(name, nn.Parameter(values))
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
        self.text_branch = TextBranch(config.text_branch, config.text_branch_layers, sizes) if config.text_branch else None
        self.configure()

    @classmethod
    def build(cls, cfg: ModelConfig) -> VAST:
        """Raises ModelError, TokenizerError, EncoderError."""
        tokenizer, sizes = text_parts(cfg, cls.clean_text)
        model = cls(cfg, tokenizer, sizes)
        longest = max(cfg.max_omni_caption_len, cfg.max_subtitle_len, cfg.max_caption_len + cfg.max_answer_len,
                      cfg.max_text_branch_len if cfg.text_branch else 0)
        if longest > sizes.max_position_embeddings:
            raise ModelError(f"texts of {longest} tokens (max_*_len) exceed the text encoder's {sizes.max_position_embeddings} positions")
        return model

    def check_task(self, task: Task) -> None:
        """Raise ValueError when the task needs a tower or a head that this model has not."""
        if pair := next((group for group in task.all_groups if group.alone), None):
            raise ValueError(f"task '{task}': group {pair} is one of VALOR's; {type(self).__name__} compares texts with clips")
        super().check_task(task)
        for group in task.groups(Objective.RETRIEVAL):
            if not self.can_compare(group):
                raise ValueError(f"task '{task}': {type(self).__name__} has no contrastive head for group {group}; "
                                 "retrieval groups are tv, ta, ts, tva, tvs, tvas")

    def can_compare(self, group: Group) -> bool:
        """Whether texts can be compared with clips of a group: it has a contrastive head."""
        return hasattr(self, f"contra_head_{group.key}")

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
            if self.text_branch is not None and batch.told is not None:
                features.beside, features.beside_seen = self._told(self.text_branch, batch.told, features.condition.get(Modality.VISION))
        return features

    def _told(self, branch: TextBranch, texts: Texts, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The text branch's tokens (B, K, D), and for which clips there is a text (B, K) bool."""
        out = self.multimodal_encoder.encode(Layout.of(texts.ids, texts.mask))
        tokens = branch(out.padded(), send(on_host(texts.mask), self.device).bool(), None if seen is None else seen.mean(1))
        given = send(on_host(texts.mask).sum(1) > 2, self.device).bool()  # more than [CLS] and [SEP]
        return tokens, given[:, None].expand(tokens.shape[:2])

    def _encode_vision(self, batch: Batch) -> tuple[Tensor, None, Tensor]:
        tokens = self.vision_tokens(needed(batch.frames, "frames"))
        per_frame = tokens[:, :, 0] if self.vision_encoder.has_cls else tokens.mean(2)
        condition = self._condition(self.hidden_trans_vision_multimodal(tokens), self.vision_frame_embedding, self.vision_type_embeddings)
        return condition, None, per_frame.mean(1)

    def _encode_audio(self, batch: Batch) -> tuple[Tensor, None, Tensor]:
        tokens = self.audio_tokens(needed(batch.spectrograms, "spectrograms"))
        condition = self._condition(self.hidden_trans_audio_multimodal(tokens), self.audio_frame_embedding, self.audio_type_embeddings)
        per_slice = tokens[:, :, 0] if self.audio_encoder.has_cls else tokens.mean(2)
        return condition, None, per_slice.mean(1)

    def _encode_subtitle(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        texts = needed(batch.subtitles, "subtitles")
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

    def contrast_scores(self, texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of b local pairs with the global batch of B, clips by their ``clip_vectors``: text to clip and clip to text, each
        (b, B)."""
        return cosines(texts, clips, all_texts, all_clips)

    def contrast_scalars(self, group: Group) -> list[Tensor]:
        """What the contrastive loss has learnt by which a group's scores become logits, such as the temperature."""
        learnt = [getattr(self, name) for name in self.contrast.learnt]
        return [x[SCALAR_GROUPS.index(group.key)] for x in learnt] if self.config.temperature_per_group else learnt

    def memory(self, features: ClipFeatures) -> Memory:
        """What texts attend to; keys and values are projected at first use and kept."""
        own = Memory(features.condition, features.condition_mask)
        if features.beside is None or features.beside_seen is None:
            return own
        return BesideMemory(own, features.beside, features.beside_seen)

    def index_clips(self, features: ClipFeatures, group: Group) -> Rows:
        return Rows({"vector": self._indexed(self.clip_vectors(features, group))})

    def index_texts(self, texts: Texts) -> Rows:
        return Rows({"vector": self._indexed(self.embed_texts(texts))})

    def _indexed(self, vectors: Tensor) -> Tensor:
        return (prefix(vectors, self.config.index_dim) if self.config.index_dim else vectors).float()

    def text_vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.embed_cls(padded_states(self.multimodal_encoder, ids, mask)[:, 0])

    def matching_features(self, features: ClipFeatures, modalities: Sequence[Modality]) -> ClipFeatures:
        """Texts attend to the condition features in ``precision``, so that keeping them in it changes nothing."""
        condition = {m: x.to(self.precision or x.dtype) for m, x in features.condition.items() if m in modalities}
        return ClipFeatures(condition, {m: x for m, x in features.condition_mask.items() if m in modalities}, features.pooled)

    def match(self, memory: Memory, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Matching margin of pairs: texts ids, mask (P, L) with memory rows (P,) → (P,) float32, whose sigmoid is their probability."""
        return match_pairs(self, memory, group, ids, mask, rows)

    def answer_ids(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int,
                   length_penalty: float = ANSWER_LENGTH_PENALTY) -> list[list[int]]:
        """Ids of the answer to every question; ``questions.clip`` names its memory row."""
        used, texts, rows = question_rows(questions)
        with self.mixed():
            state = self.begun_answers(memory.rows(used), group, questions, texts)
            answers = beam_search(self.multimodal_encoder, state, self.tokenizer, beam_size, self.answer_words, length_penalty)
        return [answers[row] for row in rows]

    @property
    def answer_words(self) -> int:
        """The most tokens of an answer."""
        return self.config.max_answer_len

    def begun_answers(self, memory: Memory, group: Group, questions: Texts, texts: np.ndarray) -> DecoderState:
        """See TowerModel."""
        prompts = on_host(questions.ids)[texts], on_host(questions.mask)[texts]
        return self.multimodal_encoder.start(memory.alone, group, prompts, self.config.max_caption_len)

    def answer(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int,
               length_penalty: float = ANSWER_LENGTH_PENALTY) -> list[str]:
        """The answer to every question as text."""
        rows = self.answer_ids(memory, group, questions, beam_size=beam_size, length_penalty=length_penalty)
        return [self.tokenizer.decode(row) for row in rows]

    @property
    def caption_words(self) -> int:
        """The most tokens of a caption that is learnt from a reward."""
        return self.config.max_caption_len

    def searched(self, state: DecoderState, beams: int) -> list[list[list[int]]]:
        """See text/self_critical.py."""
        return best_texts(self.multimodal_encoder, state, self.tokenizer, beams, self.caption_words, CAPTION_LENGTH_PENALTY)

    def caption_ids(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float) -> list[list[Ids]]:
        """See TowerModel."""
        state = self.begun_captions(memory, group)
        return best_texts(self.multimodal_encoder, state, self.tokenizer, beam_size, max_length, length_penalty)
