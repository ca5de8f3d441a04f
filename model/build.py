"""A model from its config: tokenizer, sizes, towers, and the towers' own pretrained files."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch

from omnivast.config.fields import check_value, settings_of
from omnivast.config.files import read_config
from omnivast.config.schema import Config, ModelConfig, task_of
from omnivast.config.words import did_you_mean
from omnivast.model.fitting import Fitting, sizes_of
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.tokenizer import Tokenizer, load_tokenizer
from omnivast.model.vast.model import VAST
from omnivast.model.weights import TowerFile, WeightsError, load_tower, text_file, tower_file
from omnivast.utils.precision import DTYPES, Precision, resolve
from omnivast.utils.random import seed_everything

log = logging.getLogger("omnivast")

BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2}
"""What a text encoder's ``config.json`` must say, where it says anything."""


class ModelError(ValueError):
    """A model config that cannot be built; the message names the key."""


def model_of(config: Config, *, load_towers: bool) -> VAST:
    """The model of a run, as its seed initialises it, able to do the tasks of all its datasets; in float32, see :func:`set_precision`.

    Raises ModelError, WeightsError."""
    run = config.run_cfg
    seed_everything(run.seed, "model")
    model = build_model(config.model_cfg, load_towers=load_towers)
    model.gather_with_grad = run.gather_with_grad
    for dataset in (*config.data_cfg.train, *config.data_cfg.val):
        model.check_task(task_of(dataset))
    return model


def set_precision(model: VAST, config: Config, device: torch.device, kept: str | None = None) -> tuple[Config, Precision]:
    """Let ``model`` compute as the run asks and as ``device`` can; on every process. Returns the config with the precision chosen in
    place of ``auto``, and why. ``kept``: the precision of the run that is continued."""
    run = config.run_cfg
    usable = ("float32", "bf16") if run.parallel == "deepspeed" else tuple(DTYPES)
    chosen = resolve(run.precision, device, model.width, usable=usable, kept=kept)
    model.precision = chosen.autocast
    return dataclasses.replace(config, run_cfg=dataclasses.replace(run, precision=cast(Any, chosen.name))), chosen


def build_model(cfg: ModelConfig, *, load_towers: bool = True) -> VAST:
    """VAST of ``cfg`` on the CPU. With ``cfg.pretrained`` its towers start from their files, unless ``load_towers`` is false
    because a whole checkpoint follows."""
    files = pretrained_files(cfg) if load_towers else []
    _need(files)
    tokenizer, sizes = text_parts(cfg)
    with Fitting(sizes_of(cfg, sizes)):
        model = VAST(cfg, tokenizer, sizes)
    longest = max(cfg.max_omni_caption_len, cfg.max_subtitle_len, cfg.max_caption_len + cfg.max_answer_len)
    if longest > sizes.max_position_embeddings:
        raise ModelError(f"texts of {longest} tokens (max_*_len) exceed the text encoder's {sizes.max_position_embeddings} positions")
    _load_towers(model, files)
    return model


def text_parts(cfg: ModelConfig) -> tuple[Tokenizer, TextSizes]:
    """The tokenizer and the sizes of the text tower, from its Hugging Face folder or from ``text_encoder_cfg`` alone."""
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
    own = {}
    for key, value in cfg.text_encoder_cfg.items():
        if key not in names:
            raise ModelError(f"model_cfg.text_encoder_cfg has no size '{key}'.{did_you_mean(key, names)}")
        own[key] = check_value(value, settings_of(TextSizes)[key], f"model_cfg.text_encoder_cfg.{key}")
    path = cfg.tokenizer or folder
    if path is None:
        raise ModelError("model_cfg.tokenizer is needed with text_encoder_type \"bert\": a vocab.txt")
    tokenizer = load_tokenizer(path)
    settings = {"vocab_size": tokenizer.vocab_size, **{k: v for k, v in settings.items() if k in names}, **own}
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


def pretrained_files(cfg: ModelConfig) -> list[tuple[str, str, TowerFile]]:
    """(which tower, its name, its file) of each tower that does not start from scratch. Raises ModelError for one that has no file."""
    files = []
    for tower, name in (("vision", cfg.vision_encoder_type), ("audio", cfg.audio_encoder_type)):
        if name is not None and cfg.pretrained:
            file = tower_file(name)
            if file is None:
                raise ModelError(f"{tower} encoder '{name}' has no pretrained file; set \"pretrained\": false to train from scratch on "
                                 "purpose")
            files.append((tower, name, file))
    if cfg.pretrained and cfg.text_encoder_type != "bert":
        files.append(("text", cfg.text_encoder_type, text_file(cfg.text_encoder_type)))
    return files


def _load_towers(model: VAST, files: list[tuple[str, str, TowerFile]]) -> None:
    """Cross-attention, which a BERT lacks, stays as BERT initialises."""
    modules = {"vision": "vision_encoder", "audio": "audio_encoder", "text": "multimodal_encoder"}
    for tower, name, file in files:
        load_tower(getattr(model, modules[tower]), file.place, file)
        log.info("%s encoder '%s': loaded from %s", tower, name, file.place)


def _need(files: list[tuple[str, str, TowerFile]]) -> None:
    """Raise WeightsError that names every file which is not there, where it comes from and what fetches it."""
    lacking = [(tower, name, file) for tower, name, file in files if not file.place.is_file()]
    if not lacking:
        return
    lines = [f"the {tower} encoder '{name}' starts from {file.place}, which is not there: {file.by_hand}" for tower, name, file in lacking]
    names = " ".join(f"text:{name}" if tower == "text" else name for tower, name, _ in lacking)
    raise WeightsError("\n".join(lines) + f"\n`python -m omnivast weights {names}` fetches what can be fetched and says how to get "
                       "the rest. Or start from a whole checkpoint (--checkpoint or --pretrain_dir), or set \"pretrained\": false to train "
                       "from scratch on purpose")
