"""VALOR (Chen et al., VALOR: Vision-Audio-Language Omni-Perception Pretraining Model and Dataset, arXiv:2304.08345), as released.

Letters: B clips of this process, F frames, A slices of sound, S tokens of one of them, V slots (frames or slices), N texts, L tokens,
D text width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Task
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.interface import MODELS, ModelError, Rows
from omnivast.model.text.bert import TextModel, TextSizes
from omnivast.model.text.generate import sample
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import shared_rows
from omnivast.model.text.pretrained import text_parts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.towers import TowerModel, needed
from omnivast.model.valor.cross import kind_of_cross_attention
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.generate import best_texts
from omnivast.model.valor.names import NAMES
from omnivast.model.valor.prompts import CAPTION, COMPARE, Prompts, layout_of
from omnivast.model.valor.scores import BOTH, Alignment
from omnivast.model.valor.step import training_losses
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, send

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

ROWS = 32
"""Frames, and slices of sound, that have an embedding."""
FIRST_TEMPERATURE = 0.07


@MODELS.register("valor")
class VALOR(TowerModel):
    """Vision, audio and text towers, their heads, alignment and generation. See names.py for the release's names."""

    names = NAMES
    length_penalty = 0.0
    answer_length_penalty = 0.0

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: TextSizes) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.alignment = Alignment(config.contra_type == "fine", config.late_fusion, config.fineweight_type != "none")
        self.prompts = Prompts(tokenizer, config.use_task_prompt)
        width, dim = sizes.hidden_size, config.contra_dim
        self.multimodal_encoder = TextModel(sizes, prompts=True, cross=kind_of_cross_attention(config.cross_attn_type))
        embeddings = self.multimodal_encoder.bert.embeddings
        embeddings.register_buffer("position_ids", cast(Tensor, embeddings.position_ids), persistent=False)  # the release has none
        self.contra_head_t = _Head(width, dim)
        if config.contra_type == "fine":
            self.text_fine_weight = _slot_logits(dim)
        self._add_vision(config, width)
        self._add_audio(config, width)
        if config.contra_type == "coarse" and not config.late_fusion and len(self._modalities()) == 2:
            self.va_fusion = nn.Linear(2 * dim, dim)
        self.contra_temp = nn.Parameter(torch.tensor(FIRST_TEMPERATURE))
        if _is_clip(config):
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.configure()

    def _add_vision(self, config: ModelConfig, width: int) -> None:
        if config.vision_encoder_type is None:
            return
        self.vision_encoder = build_vision(config)
        self.video_frame_embedding = nn.Parameter(0.02 * torch.randn(1, ROWS, width))
        self.video_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
        if self.vision_encoder.width != width:
            self.hidden_trans_video_multimodal = _projection(self.vision_encoder.width, width)
        self.contra_head_v = _Head(self.vision_encoder.width, config.contra_dim)
        if config.contra_type == "fine":
            self.video_fine_weight = _slot_logits(config.contra_dim)
        for name, value in zip(("pixel_mean", "pixel_std"), self.vision_encoder.pixel_statistics()):
            self.register_buffer(name, value, persistent=False)

    def _add_audio(self, config: ModelConfig, width: int) -> None:
        if config.audio_encoder_type is None:
            return
        self.audio_encoder = build_audio(config)
        self.audio_frontend = self.audio_encoder.frontend
        self.audio_frame_embedding = nn.Parameter(0.02 * torch.randn(1, ROWS, width))
        self.audio_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
        if self.audio_encoder.width != width:
            self.hidden_trans_audio_multimodal = _projection(self.audio_encoder.width, width)
        self.contra_head_a = _Head(self.audio_encoder.width, config.contra_dim)
        if config.contra_type == "fine":
            self.audio_fine_weight = _slot_logits(config.contra_dim)

    @classmethod
    def build(cls, cfg: ModelConfig) -> VALOR:
        """Raises ModelError, TokenizerError, EncoderError."""
        for key, only in (("missing_modality", "zeros"), ("frame_embedding_type", "adaptive"), ("contrastive_loss", "softmax")):
            if getattr(cfg, key) != only:
                raise ModelError(f"model_cfg.{key} '{getattr(cfg, key)}': VALOR has '{only}' alone")
        tokenizer, sizes = text_parts(cfg)
        if cfg.max_caption_len > sizes.max_position_embeddings:
            raise ModelError(f"max_caption_len {cfg.max_caption_len} exceeds the text encoder's {sizes.max_position_embeddings} positions")
        if cfg.max_generation_len + 1 > sizes.max_position_embeddings:
            raise ModelError(f"max_generation_len {cfg.max_generation_len} exceeds the text encoder's {sizes.max_position_embeddings} "
                             "positions, less one")
        return cls(cfg, tokenizer, sizes)

    # ------------------------------------------------------------------------------------------------------------ its parts

    def _modalities(self) -> list[Modality]:
        towers = {Modality.VISION: "vision_encoder", Modality.AUDIO: "audio_encoder"}
        return [m for m, name in towers.items() if hasattr(self, name)]

    def check_task(self, task: Task) -> None:
        """Raise ValueError when the task needs a modality or a tower that this model has not."""
        for group in task.all_groups:
            if Modality.SUBTITLE in group:
                raise ValueError(f"task '{task}': VALOR has no subtitles; its groups are tv, ta, tva, not {group}")
        super().check_task(task)

    @property
    def masks(self) -> bool:
        """Whether words are predicted at a [MASK] in their place, or each at the one before (caption_type lm)."""
        return self.config.caption_type == "unimlm"

    @property
    def temperature(self) -> Tensor:
        """What scores are divided by: with CLIP its own scale, learnt on, as released; ``contra_temp`` then has no use."""
        return (-self.logit_scale).exp() if _is_clip(self.config) else self.contra_temp

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """"loss", which is minimised, and what it is made of: "ret" (times contra_loss_ratio), "cap", "mlm", "qa", each the mean over its
        groups, and each group's own, such as "ret.tva"."""
        return training_losses(self, batch, task, draws)

    # ------------------------------------------------------------------------------------------------------------- encoding

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures:
        """Encode the modalities of a batch, each once."""
        features = ClipFeatures({}, {})
        with self.mixed():
            for modality in modalities:
                vision = modality is Modality.VISION
                tokens = (self.vision_tokens(needed(batch.frames, "frames")) if vision
                          else self.audio_tokens(needed(batch.spectrograms, "spectrograms")))
                has_cls = self.vision_encoder.has_cls if vision else self.audio_encoder.has_cls
                features.slots[modality] = tokens[:, :, 0] if has_cls else tokens.mean(2)
                features.condition[modality] = self._condition(tokens, "video" if vision else "audio")
        return features

    def _condition(self, tokens: Tensor, name: str) -> Tensor:
        """(B, V, S, width) → (B, V · S, D) with the embeddings of each frame or slice and of the modality."""
        if tokens.shape[1] > ROWS:
            what, key = ("frames", "vision_sample_num") if name == "video" else ("slices of sound", "audio_sample_num")
            raise ValueError(f"VALOR has embeddings for {ROWS} {what} of a clip, but the batch has {tokens.shape[1]}: {key} may be {ROWS} "
                             "at most")
        projection = getattr(self, f"hidden_trans_{name}_multimodal", None)
        tokens = tokens if projection is None else projection(tokens)
        tokens = tokens + getattr(self, f"{name}_frame_embedding")[:, :tokens.shape[1], None]
        return tokens.flatten(1, 2) + getattr(self, f"{name}_type_embeddings")

    def memory(self, features: ClipFeatures) -> Memory:
        return Memory(features.condition, dict.fromkeys(features.condition))

    # ------------------------------------------------------------------------------------------------------------ retrieval

    def embed_clips(self, features: ClipFeatures, groups: Sequence[Group]) -> Rows:
        """What the scores of some groups need of clips; see scores.py."""
        found: dict[str, Tensor] = {}
        for modality in dict.fromkeys(m for group in groups for m in group):
            head = self.contra_head_v if modality is Modality.VISION else self.contra_head_a
            slots = features.slots[modality].float()
            found[modality.word] = F.normalize(head(slots if self.alignment.fine else slots.mean(1)), dim=-1)
            if self.alignment.fine:
                logits = self.video_fine_weight if modality is Modality.VISION else self.audio_fine_weight
                found[f"{modality.word}_logits"] = logits(found[modality.word]).squeeze(-1)
        if BOTH in groups and hasattr(self, "va_fusion"):
            found["both"] = F.normalize(self.va_fusion(torch.cat([found[m.word] for m in BOTH], -1)), dim=-1)
        return Rows(found)

    def index_clips(self, features: ClipFeatures, group: Group) -> Rows:
        return self.embed_clips(features, [group])

    def index_texts(self, texts: Texts) -> Rows:
        """Fine: every token, filled to ``max_caption_len``, since a score depends on whether a text fills it (alignment.py)."""
        longest = self.config.max_caption_len
        if texts.ids.shape[1] > longest:
            raise ValueError(f"VALOR compares captions of max_caption_len {longest} tokens, but got {texts.ids.shape[1]}; where "
                             "corpora have several kinds of captions, set max_omni_caption_len to the same")
        with self.mixed():
            layout, start = layout_of(self.prompts.task(COMPARE, len(texts)), texts.ids, texts.mask)
            states = self.multimodal_encoder.encode(layout).padded()[:, start:]
        if not self.alignment.fine:
            return Rows({"text": F.normalize(self.contra_head_t(states[:, 0].float()), dim=-1)})
        vectors = F.normalize(self.contra_head_t(states.float()), dim=-1)
        spare = longest - vectors.shape[1]
        logits = self.text_fine_weight(vectors).squeeze(-1)
        mask = send(on_host(texts.mask), vectors.device).float()
        return Rows({"text": F.pad(vectors * mask[..., None], (0, 0, 0, spare)), "text_logits": F.pad(logits, (0, spare)),
                     "text_mask": F.pad(mask, (0, spare))})

    @property
    def pair_numbers(self) -> int:  # type: ignore[override]
        """Products of tokens with frames and slices, of the most there can be."""
        return self.config.max_caption_len * ROWS * len(self._modalities()) if self.alignment.fine else 1

    def similarity(self, group: Group, texts: Rows, clips: Rows, by_clip: bool = False) -> Tensor:
        """Scores before the temperature; those of late fusion, a sum of two, are halved, so that they stay below 1."""
        (scores,) = self.alignment.scores([group], texts, clips)
        scores = scores / len(self.alignment.terms(group))
        return scores.T if by_clip else scores

    # ----------------------------------------------------------------------------------------------------------- generation

    def best_captions(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float = 0.0,
                      ) -> list[list[str]]:
        """At most ``max_generation_len`` tokens. VALOR divides by no length: raises ValueError for another ``length_penalty`` than 0."""
        if length_penalty:
            raise ValueError(f"VALOR's beam search has no length penalty, but it was asked for one of {length_penalty:g}")
        with self.mixed():
            state = self.multimodal_encoder.start(memory, group, self.prompts.task(CAPTION, len(memory)))
            rows = best_texts(self.multimodal_encoder, state, self.tokenizer, beam_size, min(max_length, self.config.max_generation_len),
                              self.masks)
        return [[self.tokenizer.decode(ids) for ids in clip] for clip in rows]

    def sample_captions(self, memory: Memory, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[str]]:
        if not self.masks:
            return super().sample_captions(memory, group, draws=draws, top_k=top_k)
        with self.mixed():
            state = self.multimodal_encoder.start(memory, group, self.prompts.task(CAPTION, len(memory)))
            rows = sample(self.multimodal_encoder, state, self.tokenizer, draws, top_k)
        return [[self.tokenizer.decode(ids) for ids in clip] for clip in rows]

    def answer_ids(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int) -> list[list[int]]:
        """Ids of the answer to every question; ``questions.clip`` names its memory row."""
        used, grid, place = shared_rows(on_host(questions.clip))
        ids, mask = self.prompts.question(questions.ids, questions.mask)
        texts = grid.T.flatten()
        with self.mixed():
            state = self.multimodal_encoder.start(memory.rows(used), group, (ids[texts], mask[texts]))
            found = best_texts(self.multimodal_encoder, state, self.tokenizer, beam_size, self.config.max_generation_len, self.masks)
        return [found[p % len(used) * len(grid) + p // len(used)][0] for p in place.tolist()]

    def answer(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int) -> list[str]:
        return [self.tokenizer.decode(row) for row in self.answer_ids(memory, group, questions, beam_size=beam_size)]


class _Head(nn.Module):
    """A linear map without bias to the contrastive space."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, dim)."""
        return self.linear(x)


def _slot_logits(dim: int) -> nn.Sequential:
    """Unit vectors of slots → how much each weighs, before the softmax (…, 1)."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def _projection(width: int, text_width: int) -> nn.Sequential:
    """Tokens of a modality → condition features of the text width."""
    return nn.Sequential(nn.Linear(width, text_width), nn.LayerNorm(text_width, eps=1e-12))


def _is_clip(config: ModelConfig) -> bool:
    return (config.vision_encoder_type or "").startswith("clip")
