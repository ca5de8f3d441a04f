"""A VAST of a few thousand parameters, a batch of noise with texts, and the paths of the goldens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Modality, Task
from omnivast.data.batch import Batch, Captions, Texts, make_texts
from omnivast.model.build import build_model
from omnivast.model.gram.model import GRAM
from omnivast.model.interface import Model
from omnivast.model.text.bert import TextModel, TextSizes
from omnivast.model.text.memory import Memory
from omnivast.model.text.tokenizer import Tokenizer, load_tokenizer
from omnivast.model.vast.model import VAST

GOLDENS = Path(__file__).parents[1] / "goldens"
VAST_TINY = GOLDENS / "vast_tiny"
MODALITIES = tuple(Modality)

BEATS = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2, "embed_dim": 8,
         "conv_pos": 4, "conv_pos_groups": 2, "encoder_layerdrop": 0.0}
CONFIG = ModelConfig(
    pretrained=False, vision_encoder_type="vit_small_scratch", vision_resolution=16, max_vision_sample_num=2, max_audio_sample_num=1,
    vision_encoder_cfg={"width": 16, "depth": 1, "heads": 2, "stride": 8, "stem_width": 8, "stem_norm": "group"},
    audio_encoder_type="beats",
    audio_encoder_cfg=BEATS, audio_melbins=32, audio_target_length=32, text_encoder_type="bert", tokenizer=str(VAST_TINY / "vocab.txt"),
    contra_dim=16, itm_ratio=0.5, max_caption_len=12, max_omni_caption_len=14, max_subtitle_len=10, max_answer_len=6, label_smoothing=0.1)
VALOR = ModelConfig(
    model_type="valor", pretrained=False, vision_encoder_type="clip_vit_base_16", vision_resolution=32,
    vision_encoder_cfg={"width": 16, "layers": 1, "heads": 2}, audio_encoder_type="ast", audio_melbins=32, audio_target_length=32,
    audio_encoder_cfg={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
                       "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    text_encoder_type="bert", tokenizer=str(VAST_TINY / "vocab.txt"), contra_dim=16, max_caption_len=14, max_omni_caption_len=14,
    max_answer_len=6, use_task_prompt=True, contra_loss_ratio=1.5, max_generation_len=8,
    text_encoder_cfg={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                      "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
SIZES = TextSizes(186, 32, 2, 2, 64, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

CAPTIONS = ["a man is singing while playing the piano", "two dogs running", "a red car in the street", "a woman cutting onion"]
VISION_CAPTIONS = ["a man playing piano", "two dogs", "a red car", "a woman in the kitchen"]
AUDIO_CAPTIONS = ["man singing", "dogs running near the water", "loud engine", "cutting onion sound"]
SUBTITLES = ["hello welcome today", "", "no no the car", "cutting the onion into small pan"]
NEGATIVES = [["a man is singing in the street", "a woman is singing while playing the piano"], [], ["a red car in the kitchen"],
             ["a woman cutting two dogs", "a man cutting onion", "a woman cutting the piano in the street near the water"]]
"""Rejected captions of the clips, of the second none."""
QUESTIONS = ["what is the man doing ?", "who is running ?", "what color is the car ?", "where is the woman ?"]
ANSWERS = ["playing piano", "two dogs", "red", "kitchen"]


def tokenizer() -> Tokenizer:
    return load_tokenizer(VAST_TINY)


def text_sizes(**changes: Any) -> TextSizes:
    return dataclasses.replace(SIZES, **changes)


def text_model(seed: int = 0, **changes: Any) -> TextModel:
    """A text tower without dropout, its weights large enough that inputs matter."""
    torch.manual_seed(seed)
    model = TextModel(text_sizes(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


def vast(seed: int = 0, sizes: TextSizes = SIZES, **changes: Any) -> VAST:
    torch.manual_seed(seed)
    return VAST(dataclasses.replace(CONFIG, **changes), tokenizer(), sizes)


def gram(seed: int = 0, sizes: TextSizes = SIZES, **changes: Any) -> GRAM:
    torch.manual_seed(seed)
    return GRAM(dataclasses.replace(CONFIG, model_type="gram", **changes), tokenizer(), sizes)


def valor(**changes: Any) -> Model:
    """A VALOR of random weights, without dropout, in which inputs matter."""
    torch.manual_seed(1)
    model = build_model(dataclasses.replace(VALOR, **changes)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def texts(raw: Sequence[str], max_length: int, clip: Sequence[int] | None = None) -> Texts:
    """One text per clip, or of the clips given."""
    made = make_texts([[text] for text in raw], tokenizer(), max_length)
    return made if clip is None else dataclasses.replace(made, clip=torch.tensor(clip))


def batch(cfg: ModelConfig = CONFIG, rows: slice = slice(0, 4), seed: int = 0) -> Batch:
    """Four clips (or some of them) with every modality, every caption kind, a question and an answer."""
    noise = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (4, 2, 3, cfg.vision_resolution, cfg.vision_resolution), generator=noise, dtype=torch.uint8)
    sound = torch.randn(4, 1, cfg.audio_target_length, cfg.audio_melbins, generator=noise)
    chosen = list(range(4))[rows]
    captions = {kind: texts(raw[rows], length) for kind, raw, length in (
        (CaptionKind.OMNI, CAPTIONS, cfg.max_omni_caption_len), (CaptionKind.VISION, VISION_CAPTIONS, cfg.max_caption_len),
        (CaptionKind.AUDIO, AUDIO_CAPTIONS, cfg.max_caption_len))}
    return Batch("clips", [f"clip{i}" for i in chosen], torch.tensor(chosen), frames[rows], sound[rows],
                 texts(SUBTITLES[rows], cfg.max_subtitle_len), Captions(captions), texts(QUESTIONS[rows], cfg.max_caption_len),
                 texts(ANSWERS[rows], cfg.max_answer_len))


def negatives(cfg: ModelConfig = CONFIG, rows: slice = slice(0, 4)) -> Texts | None:
    """The rejected captions of the clips of ``batch``; None where they have none."""
    made = make_texts(NEGATIVES[rows], tokenizer(), cfg.max_omni_caption_len)
    return made if len(made) else None


def memory(rows: int, tokens: Sequence[int] = (5, 3, 4), masked: Sequence[Modality] = (), width: int = 32, seed: int = 3) -> Memory:
    """Noise to attend to, strong enough to change words: ``tokens`` of each modality. Those of ``masked`` modalities are hidden
    at random, one kept."""
    noise = torch.Generator().manual_seed(seed)
    condition: dict[Modality, Tensor] = {}
    masks: dict[Modality, Tensor | None] = {}
    for modality, count in zip(MODALITIES, tokens):
        condition[modality] = 10 * torch.randn(rows, count, width, generator=noise)
        seen = torch.rand(rows, count, generator=noise) < 0.5
        seen[:, 0] = True
        masks[modality] = seen if modality in masked else None
    return Memory(condition, masks)


def copy_of(source: Memory, rows: Tensor | slice = slice(None)) -> Memory:
    """The same clips (or some of them), with nothing projected yet."""
    return Memory({m: c[rows] for m, c in source.condition.items()}, {m: x if x is None else x[rows] for m, x in source.mask.items()})


def task(text: str) -> Task:
    return Task.parse(text)


def relative(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return float((got.detach() - wanted).norm() / wanted.norm())
