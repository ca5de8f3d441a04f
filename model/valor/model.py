"""VALOR (Chen et al., VALOR: Vision-Audio-Language Omni-Perception Pretraining Model and Dataset, arXiv:2304.08345), as released.

Letters: B clips of this process, F frames, A slices of sound, S tokens of one of them, V slots (frames or slices), N texts, L tokens,
D text width.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.config.words import did_you_mean
from omnivast.model.encoders.base import sizes as changed_sizes
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.encoders.clip_text import TEXT_TOWERS, ClipParts
from omnivast.model.heads import ContrastiveHead, condition_projection
from omnivast.model.interface import MODELS, ModelError, Role, Rows, Tower
from omnivast.model.text.bert import DecoderState, TextModel, TextSizes
from omnivast.model.text.clip_tokenizer import ClipTokenizer, load_clip_tokenizer
from omnivast.model.text.memory import Memory
from omnivast.model.text.pretrained import text_parts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.towers import Ids, TowerModel, needed, question_rows
from omnivast.model.valor.alignment import slot_logits
from omnivast.model.valor.cross import kind_of_cross_attention
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.generate import best_texts
from omnivast.model.valor.merged import MergedText, NoCrossAttention
from omnivast.model.valor.names import NAMES
from omnivast.model.valor.prompts import CAPTION, COMPARE, Pair, Prompts, layout_of
from omnivast.model.valor.scores import BOTH, Alignment
from omnivast.model.valor.step import training_losses
from omnivast.model.weights import TowerFile, clip_parts_file, text_file
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, send, to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

MOST_SAMPLES = 32
"""How many frames, and slices of sound, have an embedding."""
FIRST_TEMPERATURE = 0.07
DELETED = str.maketrans("", "", string.punctuation)


@MODELS.register("valor")
class VALOR(TowerModel):
    """Vision, audio and text towers, their heads, alignment and generation. See names.py for the release's names."""

    names = NAMES
    objectives = (Objective.RETRIEVAL, Objective.CAPTION, Objective.QA, Objective.MLM)
    most_samples = MOST_SAMPLES
    one_caption_length = True
    frontends = {"ast": "valor_ast"}
    frame_resize = "bilinear"
    length_penalty = 0.0
    answer_length_penalty = 0.0

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: TextSizes, clip_tokenizer: ClipTokenizer | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.clip_tokenizer = config, tokenizer, clip_tokenizer
        self.alignment = Alignment(config.contra_type == "fine", config.late_fusion, config.fineweight_type != "none")
        self.prompts = Prompts(tokenizer, config.use_task_prompt)
        width = sizes.hidden_size
        if config.multimodal_use_cross_attn:
            self.multimodal_encoder = TextModel(sizes, prompts=True, cross=kind_of_cross_attention(config.cross_attn_type))
        else:
            self.multimodal_encoder = MergedText(sizes, prompts=True)
        if not config.share_txt_and_multimodal and not _reads_by_clip(config):
            self.txt_encoder = TextModel(sizes, prompts=True, cross=NoCrossAttention, predicts=False)
        if not config.share_txt_and_multimodal or _reads_by_clip(config):
            self.names = dataclasses.replace(NAMES, copies={})
        for encoder in self._text_encoders():
            embeddings = encoder.bert.embeddings
            embeddings.register_buffer("position_ids", cast(Tensor, embeddings.position_ids), persistent=False)  # the release has none
        clip_text = _clip_sizes(config) if _reads_by_clip(config) else None
        self.clip_heads = clip_text is not None and config.init_clip_head
        dim = self.contra_dim = clip_text["embed_dim"] if clip_text and self.clip_heads else config.contra_dim
        if not self.clip_heads:
            self.contra_head_t = ContrastiveHead(clip_text["width"] if clip_text else width, dim)
        if config.contra_type == "fine":
            self.text_fine_weight = slot_logits(dim)
        self._add_vision(config, width)
        self._add_audio(config, width)
        if config.contra_type == "coarse" and not config.late_fusion and len(self._modalities()) == 2:
            self.va_fusion = nn.Linear(2 * dim, dim)
        self.contra_temp = nn.Parameter(torch.tensor(FIRST_TEMPERATURE))
        if _is_clip(config):
            self.clip = ClipParts(FIRST_TEMPERATURE, clip_text, config.init_clip_head, self.vision_encoder.width)
        self.configure()

    def _add_vision(self, config: ModelConfig, width: int) -> None:
        if config.vision_encoder_type is None:
            return
        self.vision_encoder = build_vision(config)
        self.video_frame_embedding = nn.Parameter(0.02 * torch.randn(1, MOST_SAMPLES, width))
        self.video_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
        if self.vision_encoder.width != width:
            self.hidden_trans_video_multimodal = condition_projection(self.vision_encoder.width, width)
        if not self.clip_heads:
            self.contra_head_v = ContrastiveHead(self.vision_encoder.width, self.contra_dim)
        if config.contra_type == "fine":
            self.video_fine_weight = slot_logits(self.contra_dim)
        for name, value in zip(("pixel_mean", "pixel_std"), self.vision_encoder.pixel_statistics()):
            self.register_buffer(name, value, persistent=False)

    def _add_audio(self, config: ModelConfig, width: int) -> None:
        if config.audio_encoder_type is None:
            return
        self.audio_encoder = build_audio(config)
        self.audio_frame_embedding = nn.Parameter(0.02 * torch.randn(1, MOST_SAMPLES, width))
        self.audio_type_embeddings = nn.Parameter(0.02 * torch.randn(1, 1, width))
        if self.audio_encoder.width != width:
            self.hidden_trans_audio_multimodal = condition_projection(self.audio_encoder.width, width)
        self.contra_head_a = ContrastiveHead(self.audio_encoder.width, self.contra_dim)
        if config.contra_type == "fine":
            self.audio_fine_weight = slot_logits(self.contra_dim)

    @classmethod
    def build(cls, cfg: ModelConfig) -> VALOR:
        """Raises ModelError, TokenizerError, EncoderError."""
        for key, only in (("missing_modality", "zeros"), ("frame_embedding_type", "adaptive"), ("contrastive_loss", "softmax"),
                          ("temperature_per_group", False), ("fused_teaches", 0.0), ("matryoshka_dims", []), ("index_dim", None),
                          ("clip_pairs", {})):
            if getattr(cfg, key) != only:
                raise ModelError(f"model_cfg.{key} '{getattr(cfg, key)}': VALOR has '{only}' alone")
        tokenizer, sizes = text_parts(cfg, cls.clean_text)
        if cfg.max_caption_len > sizes.max_position_embeddings:
            raise ModelError(f"max_caption_len {cfg.max_caption_len} exceeds the text encoder's {sizes.max_position_embeddings} positions")
        if cfg.max_generation_len + 1 > sizes.max_position_embeddings:
            raise ModelError(f"max_generation_len {cfg.max_generation_len} exceeds the text encoder's {sizes.max_position_embeddings} "
                             "positions, less one")
        if not _reads_by_clip(cfg):
            return cls(cfg, tokenizer, sizes)
        clip_tokenizer, clip_text = load_clip_tokenizer(cfg.clip_tokenizer), _clip_sizes(cfg)
        if clip_tokenizer.vocab_size > clip_text["vocab_size"]:
            raise ModelError(f"CLIP's vocabulary has {clip_tokenizer.vocab_size:,} tokens, but its text tower only "
                             f"{clip_text['vocab_size']:,} (model_cfg.clip_text_cfg)")
        if cfg.max_caption_len > clip_text["context_length"]:
            raise ModelError(f"max_caption_len {cfg.max_caption_len} exceeds the {clip_text['context_length']} positions of CLIP's text "
                             "tower")
        return cls(cfg, tokenizer, sizes, clip_tokenizer)

    @classmethod
    def more_parts(cls, cfg: ModelConfig) -> list[tuple[Tower, str, TowerFile]]:
        found: list[tuple[Tower, str, TowerFile]] = []
        if _is_clip(cfg) and (file := clip_parts_file(cfg.vision_encoder_type or "")) is not None:
            found.append(("clip", cfg.vision_encoder_type or "", file))
        if not cfg.share_txt_and_multimodal and not _reads_by_clip(cfg) and cfg.text_encoder_type != "bert":
            file = text_file(cfg.text_encoder_type)
            found.append(("txt", cfg.text_encoder_type, dataclasses.replace(file, dropped=(*file.dropped, "cls."))))
        return found

    @staticmethod
    def clean_text(text: str) -> str:
        """As released: runs of spaces are one, lower case, and all punctuation is deleted, so that near-the is nearthe and it's its."""
        return re.sub(" +", " ", text).lower().translate(DELETED)

    # ------------------------------------------------------------------------------------------------------------ its parts

    def _modalities(self) -> list[Modality]:
        towers = {Modality.VISION: "vision_encoder", Modality.AUDIO: "audio_encoder"}
        return [m for m, name in towers.items() if hasattr(self, name)]

    def _text_encoders(self) -> list[TextModel]:
        """The BERTs: the one that encodes and decodes, or the decoder and what encodes texts."""
        return [self.multimodal_encoder, *([self.txt_encoder] if hasattr(self, "txt_encoder") else [])]

    def towers(self) -> dict[Tower, nn.Module]:
        own: dict[Tower, str] = {"clip": "clip", "txt": "txt_encoder"}
        return {**super().towers(), **{tower: getattr(self, name) for tower, name in own.items() if hasattr(self, name)}}

    def parameter_roles(self) -> Iterator[tuple[str, nn.Parameter, Role]]:
        """As released: of the vision towers CLIP alone has a learning rate of its own, with it its projection of frames; the rest of CLIP
        has another."""
        for name, parameter, role in super().parameter_roles():
            if role == "vision" and not _is_clip(self.config):
                role = "head"
            yield name, parameter, "vision" if name == "clip.visual_proj" else role

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """As released: weights of every norm but BERT's decay too, and so do positions and temperatures."""
        return not any(part in self.names.released(name) for part in ("bias", "LayerNorm"))

    def set_checkpointing(self, on: bool) -> None:
        super().set_checkpointing(on)
        for encoder in self._text_encoders():
            encoder.checkpointing = on

    def check_task(self, task: Task) -> None:
        """Raise ValueError when the task needs a modality or a tower that this model has not."""
        for group in task.all_groups:
            if Modality.SUBTITLE in group:
                raise ValueError(f"task '{task}': VALOR has no subtitles; its groups are tv, ta, tva, not {group}")
            if group.alone and not self.alignment.fine:
                raise ValueError(f"task '{task}': group {group} is compared slot by slot; it needs model_cfg.contra_type fine, not coarse")
        super().check_task(task)

    @property
    def masks(self) -> bool:
        """Whether words are predicted at a [MASK] in their place, or each at the one before (caption_type lm)."""
        return self.config.caption_type == "unimlm"

    @property
    def temperature(self) -> Tensor:
        """What scores are divided by: with CLIP its own scale, learnt on, as released; ``contra_temp`` then has no use."""
        return (-self.clip.logit_scale).exp() if _is_clip(self.config) else self.contra_temp

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """"loss", which is minimised, and what it is made of: "ret" (times contra_loss_ratio), "cap", "mlm", "qa", each the mean over its
        groups, and each group's own, such as "ret.tva"."""
        return training_losses(self, batch, task, draws)

    def was_trained_with(self, counts: Mapping[str, int]) -> None:
        """Frames and slices beyond those trained get the embedding of the last one, as in the release."""
        for word, name in (("vision", "video_frame_embedding"), ("audio", "audio_frame_embedding")):
            rows, trained = getattr(self, name, None), counts.get(word, MOST_SAMPLES)
            if rows is not None and trained < MOST_SAMPLES:
                rows.data[:, trained:] = rows.data[:, trained - 1 : trained]

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
        if tokens.shape[1] > MOST_SAMPLES:
            what, key = ("frames", "vision_sample_num") if name == "video" else ("slices of sound", "audio_sample_num")
            raise ValueError(f"VALOR has embeddings for {MOST_SAMPLES} {what} of a clip, but the batch has {tokens.shape[1]}: {key} may be "
                             f"{MOST_SAMPLES} at most")
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
            slots = features.slots[modality].float()
            slots = slots if self.alignment.fine else slots.mean(1)
            if modality is Modality.AUDIO:
                found[modality.word] = self._unit(self.contra_head_a(slots))
            else:
                found[modality.word] = self._unit(slots @ self.clip.visual_proj if self.clip_heads else self.contra_head_v(slots))
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
            raise ValueError(f"VALOR compares captions of max_caption_len {longest} tokens, but got {texts.ids.shape[1]}")
        states, mask = self.text_states(texts)
        if not self.alignment.fine:
            last = mask.sum(1) - 1 if _reads_by_clip(self.config) else torch.zeros_like(mask.sum(1))  # what has seen the whole text
            return Rows({"text": self._text_head(states[torch.arange(len(states), device=last.device), last])})
        vectors = self._text_head(states)
        spare = longest - vectors.shape[1]
        logits = self.text_fine_weight(vectors).squeeze(-1)
        mask = mask.float()
        return Rows({"text": F.pad(vectors * mask[..., None], (0, 0, 0, spare)), "text_logits": F.pad(logits, (0, spare)),
                     "text_mask": F.pad(mask, (0, spare))})

    def text_states(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(N, L, width) and the mask (N, L) of texts encoded for retrieval; CLIP's text tower has tokens, and so an L, of its own."""
        with self.mixed():
            return self._clip_states(texts) if _reads_by_clip(self.config) else self._bert_states(texts)

    def _bert_states(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(N, L, width) and the mask (N, L), by the encoder of texts."""
        layout, start = layout_of(self.prompts.task(COMPARE, len(texts)), texts.ids, texts.mask)
        return self._text_encoders()[-1].encode(layout).padded()[:, start:], send(on_host(texts.mask), self.device).bool()

    def _clip_states(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """The same by CLIP's text tower, which has words of its own."""
        rows = cast(ClipTokenizer, self.clip_tokenizer).encode(texts.raw, self.config.max_caption_len)
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return self.clip.text(to_device(ids, self.device)), to_device(mask, self.device)

    def _text_head(self, states: Tensor) -> Tensor:
        """(…, width) → unit vectors (…, dim)."""
        states = states.float()
        return self._unit(states @ self.clip.text_projection if self.clip_heads else self.contra_head_t(states))

    def _unit(self, vectors: Tensor) -> Tensor:
        """Of length 1. As released, with run_cfg.gather_gradient released, what is before them gets 1/processes of the contrastive loss's
        gradient: there each process takes the gradient of the whole loss to its own rows, and the mean over processes follows."""
        vectors = F.normalize(vectors, dim=-1)
        if self.gather_gradient == "released" and distributed.world_size() > 1 and vectors.requires_grad:
            share = vectors / distributed.world_size()
            return share + (vectors - share).detach()
        return vectors

    @property
    def pair_numbers(self) -> int:  # type: ignore[override]
        """Products of tokens with frames and slices, of the most there can be."""
        return self.config.max_caption_len * MOST_SAMPLES * len(self._modalities()) if self.alignment.fine else 1

    def similarity(self, group: Group, texts: Rows, clips: Rows, by_clip: bool = False) -> Tensor:
        """Scores before the temperature; those of late fusion, a sum of two, are halved, so that they stay below 1."""
        (scores,) = self.alignment.scores([group], texts, clips)
        scores = scores / len(self.alignment.terms(group))
        return scores.T if by_clip else scores

    def dual_temperature(self, group: Group) -> float:
        """The model's own, as released, for scores that are halved where ``similarity`` halves them."""
        return float(self.temperature.detach()) / len(self.alignment.terms(group))

    # ----------------------------------------------------------------------------------------------------------- generation

    def caption_ids(self, memory: Memory, group: Group, *, beam_size: int, max_length: int, length_penalty: float) -> list[list[Ids]]:
        """See TowerModel. VALOR divides by no length: raises ValueError for another ``length_penalty`` than 0."""
        if length_penalty:
            raise ValueError(f"VALOR's beam search has no length penalty, but it was asked for one of {length_penalty:g}")
        return self._searched(self.begun_captions(memory, group), beam_size, max_length)

    def most_caption_words(self, asked: int) -> int:
        """``max_generation_len`` tokens at most."""
        return min(asked, self.caption_words)

    def _searched(self, state: DecoderState, beams: int, longest: int) -> list[list[list[int]]]:
        return best_texts(self.multimodal_encoder, state, self.tokenizer, beams, longest, self.masks)

    @property
    def caption_words(self) -> int:
        """The most tokens of a generated caption."""
        return self.config.max_generation_len

    def caption_prompt(self, rows: int) -> Pair | None:
        """What stands before captions, see text/self_critical.py."""
        return self.prompts.task(CAPTION, rows)

    def searched(self, state: DecoderState, beams: int) -> list[list[list[int]]]:
        """See text/self_critical.py."""
        return self._searched(state, beams, self.caption_words)

    def answer_ids(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int) -> list[list[int]]:
        """Ids of the answer to every question; ``questions.clip`` names its memory row."""
        used, texts, rows = question_rows(questions)
        with self.mixed():
            found = self._searched(self.begun_answers(memory.rows(used), group, questions, texts), beam_size, self.answer_words)
        return [found[row][0] for row in rows]

    @property
    def answer_words(self) -> int:
        """The most tokens of an answer."""
        return self.config.max_generation_len

    def begun_answers(self, memory: Memory, group: Group, questions: Texts, texts: np.ndarray) -> DecoderState:
        """See TowerModel."""
        ids, mask = self.prompts.question(questions.ids, questions.mask)
        return self.multimodal_encoder.start(memory, group, (ids[texts], mask[texts]))

    def answer(self, memory: Memory, group: Group, questions: Texts, *, beam_size: int) -> list[str]:
        return [self.tokenizer.decode(row) for row in self.answer_ids(memory, group, questions, beam_size=beam_size)]


def _is_clip(config: ModelConfig) -> bool:
    return (config.vision_encoder_type or "").startswith("clip")


def _reads_by_clip(config: ModelConfig) -> bool:
    """Whether CLIP's text tower encodes texts for retrieval. Raises ModelError for an encoder that is not known."""
    if config.txt_encoder_type.startswith("bert"):
        return False
    if config.txt_encoder_type not in TEXT_TOWERS:
        raise ModelError(f"model_cfg.txt_encoder_type '{config.txt_encoder_type}': valid are bert_base_uncased (BERT, as text_encoder_type "
                         f"says) and {', '.join(TEXT_TOWERS)}.{did_you_mean(config.txt_encoder_type, TEXT_TOWERS)}")
    if config.txt_encoder_type != config.vision_encoder_type:
        raise ModelError(f"model_cfg.txt_encoder_type '{config.txt_encoder_type}' is the text tower of one CLIP, whose image tower must be "
                         f"model_cfg.vision_encoder_type, not {config.vision_encoder_type}")
    return True


def _clip_sizes(config: ModelConfig) -> dict[str, int]:
    return changed_sizes(TEXT_TOWERS[config.txt_encoder_type], config.clip_text_cfg, "clip_text_cfg")
