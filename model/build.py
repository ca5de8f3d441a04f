"""A model from its config: tokenizer, sizes, towers, and the towers' own pretrained files."""

from __future__ import annotations

import difflib
import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from config.schema import ModelConfig
from model.text import TextSizes
from model.tokenizer import Tokenizer, load_tokenizer
from model.vast import VAST
from model.weights import WeightsError, load_tower

log = logging.getLogger("omnivast")

WEIGHTS = Path("pretrained_weights")
TOWER_FILES = {"evaclip01_giant": "clip/EVA01_CLIP_g_14_psz14_s11B.pt", "beats": "beats/BEATs_iter3_plus_AS2M.pt"}
"""Where the release looks for a tower's file, under pretrained_weights/."""


class ModelError(ValueError):
    """A model config that cannot be built; the message names the key."""


def build_model(cfg: ModelConfig, *, load_towers: bool = True) -> VAST:
    """VAST of ``cfg`` on the CPU. With ``cfg.pretrained`` its towers start from their files, unless ``load_towers`` is false
    because a whole checkpoint follows."""
    tokenizer, sizes = text_parts(cfg)
    model = VAST(cfg, tokenizer, sizes)
    longest = max(cfg.max_omni_caption_len, cfg.max_subtitle_len, cfg.max_caption_len + cfg.max_answer_len)
    if longest > sizes.max_position_embeddings:
        raise ModelError(f"texts of {longest} tokens (max_*_len) exceed the text encoder's {sizes.max_position_embeddings} positions")
    if cfg.pretrained and load_towers:
        _load_towers(model, cfg)
    return model


def text_parts(cfg: ModelConfig) -> tuple[Tokenizer, TextSizes]:
    """The tokenizer and the sizes of the text tower, from its Hugging Face folder or from ``text_encoder_cfg`` alone."""
    folder = text_folder(cfg)
    settings: dict[str, Any] = {}
    if folder is not None:
        file = folder / "config.json"
        if not file.is_file():
            raise ModelError(f"model_cfg.text_encoder_type '{cfg.text_encoder_type}': no {file}; expected a BERT folder in Hugging Face "
                             "layout (config.json, vocab.txt, model.safetensors), or \"bert\" with text_encoder_cfg and tokenizer")
        settings = json.loads(file.read_text())
    names = [f.name for f in fields(TextSizes)]
    for key in cfg.text_encoder_cfg:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
            raise ModelError(f"model_cfg.text_encoder_cfg has no size '{key}'" + (f". Did you mean '{near[0]}'?" if near else ""))
    path = cfg.tokenizer or folder
    if path is None:
        raise ModelError("model_cfg.tokenizer is needed with text_encoder_type \"bert\": a vocab.txt")
    tokenizer = load_tokenizer(path)
    settings = {"vocab_size": tokenizer.vocab_size, **{k: v for k, v in settings.items() if k in names}, **cfg.text_encoder_cfg}
    if settings["vocab_size"] < tokenizer.vocab_size:
        raise ModelError(f"the vocabulary {tokenizer.path} has {tokenizer.vocab_size} tokens, "
                         f"the text encoder only {settings['vocab_size']}")
    return tokenizer, TextSizes(**settings)


def text_folder(cfg: ModelConfig) -> Path | None:
    """The folder of the pretrained text encoder; None for "bert", which has none."""
    if cfg.text_encoder_type == "bert":
        return None
    direct = Path(cfg.text_encoder_type)
    return direct if direct.is_dir() else WEIGHTS / "bert" / cfg.text_encoder_type


def _load_towers(model: VAST, cfg: ModelConfig) -> None:
    for name, kind in ((cfg.vision_encoder_type, "vision"), (cfg.audio_encoder_type, "audio")):
        if name is None:
            continue
        if name not in TOWER_FILES and not name.startswith("timm:"):
            raise ModelError(f"{kind} encoder '{name}' has no pretrained file; set \"pretrained\": false to train from scratch on purpose")
        path = WEIGHTS / (TOWER_FILES.get(name) or f"timm/{name.split(':', 1)[1]}.safetensors")
        _need(path, f"the {kind} encoder '{name}'")
        if name == "evaclip01_giant":
            load_tower(model.vision_encoder, path, {}, ("text.", "logit_scale", "visual.head."))
        elif name == "beats":
            load_tower(model.audio_encoder, path, {}, ("predictor.", "mask_emb"), optional=("relative_attention_bias",))
        else:
            load_tower(model.vision_encoder, path, {"": "body."}, ("head.", "fc.", "classifier."))
        log.info("loaded %s from %s", name, path)
    folder = text_folder(cfg)
    if folder is not None:
        _load_text(model, folder)


def _load_text(model: VAST, folder: Path) -> None:
    """A BERT in Hugging Face layout; cross-attention, which it lacks, starts as BERT initialises."""
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    path = next((file for file in files if file.is_file()), files[0])
    _need(path, "the text encoder")
    rename = {"": "bert.", "bert.": "bert.", "cls.": "cls."}
    load_tower(model.multimodal_encoder, path, rename, ("bert.pooler.", "pooler.", "cls.seq_relationship."),
               optional=("crossattention", "cls.predictions", "position_ids"))
    log.info("loaded the text encoder from %s", path)


def _need(path: Path, what: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{what} starts from {path}, which is not there. Put the released file there, start from a whole checkpoint "
                           "(--checkpoint or --pretrain_dir), or set \"pretrained\": false to train from scratch on purpose")


def precision(bf16: bool, fp16: bool) -> torch.dtype | None:
    """The autocast type of the run's flags."""
    return torch.bfloat16 if bf16 else torch.float16 if fp16 else None
