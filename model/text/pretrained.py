"""The tokenizer and the sizes of a text tower: of a pretrained one's folder, or of the config alone."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from omnivast.config.fields import check_value, settings_of
from omnivast.config.files import read_config
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.tokenizer import Clean, Tokenizer, load_tokenizer
from omnivast.model.weights import text_file

BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2}
"""What a text encoder's ``config.json`` must say, where it says anything."""


def text_parts(cfg: ModelConfig, clean: Clean | None = None) -> tuple[Tokenizer, TextSizes]:
    """The tokenizer and the sizes of the text tower, from its Hugging Face folder or from ``text_encoder_cfg`` alone. ``clean``: what the
    family does to texts before they are tokenised."""
    folder = text_folder(cfg)
    settings: dict[str, Any] = {}
    if folder is not None:
        file = folder / "config.json"
        if not file.is_file():
            raise ModelError(f"model_cfg.text_encoder_type '{cfg.text_encoder_type}': no {file}; expected a BERT folder in Hugging Face "
                             "layout (config.json, vocab.txt, model.safetensors), or \"bert\" with text_encoder_cfg and tokenizer. "
                             f"`python -m omnivast weights text:{cfg.text_encoder_type}` fetches a published one")
        settings = read_config(file)
        _check_bert(settings, file)
    names = [f.name for f in fields(TextSizes)]
    asked = {}
    for key, value in cfg.text_encoder_cfg.items():
        if key not in names:
            raise ModelError(f"model_cfg.text_encoder_cfg has no size '{key}'.{did_you_mean(key, names)}")
        asked[key] = check_value(value, settings_of(TextSizes)[key], f"model_cfg.text_encoder_cfg.{key}")
    path = cfg.tokenizer or folder
    if path is None:
        raise ModelError("model_cfg.tokenizer is needed with text_encoder_type \"bert\": a vocab.txt")
    tokenizer = load_tokenizer(path, clean)
    settings = {"vocab_size": tokenizer.vocab_size, **{k: v for k, v in settings.items() if k in names}, **asked}
    if settings["vocab_size"] < tokenizer.vocab_size:
        raise ModelError(f"the vocabulary {tokenizer.path} has {tokenizer.vocab_size} tokens, "
                         f"the text encoder only {settings['vocab_size']}")
    sizes = TextSizes(**settings)
    if min(sizes.num_attention_heads, sizes.hidden_size) < 1 or sizes.hidden_size % sizes.num_attention_heads:
        raise ModelError(f"model_cfg.text_encoder_cfg: hidden_size {sizes.hidden_size} must divide by num_attention_heads "
                         f"{sizes.num_attention_heads}")
    return tokenizer, sizes


def _check_bert(settings: dict[str, Any], file: Path) -> None:
    """Raise ModelError for a model that is not BERT."""
    for key, wanted in BERT.items():
        if settings.get(key, wanted) != wanted:
            raise ModelError(f"{file}: {key} is '{settings[key]}', but the text encoder is BERT's own architecture ({key} '{wanted}'). "
                             "Supported is what is saved as BERT: BERT itself of any size, cased or not, multilingual BERT, SciBERT, "
                             "MiniLM and the like; not RoBERTa, DistilBERT, ALBERT, ELECTRA, MPNet or DeBERTa")


def text_folder(cfg: ModelConfig) -> Path | None:
    """The folder of the pretrained text encoder; None for "bert", which has none."""
    return None if cfg.text_encoder_type == "bert" else text_file(cfg.text_encoder_type).place.parent
