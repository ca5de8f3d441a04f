"""A language model of a few thousand parameters in a folder, and a model of the family around it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from omnivast.config.conversation import Conversation, answering
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Modality
from omnivast.data.batch import Batch, Chats, Sample, written_as_read
from omnivast.model.avllm.model import AudioVisualLLM
from omnivast.model.build import build_model
from tests.model.avllm.tokenizers import tokenizer_like
from tests.model.tiny import CONFIG

SAID = [("v", [("What is it?", "a cat")]), ("va", [("What is it?", "a dog barks"), ("Is there a red square?", "no")]),
        ("a", [("What is it?", "human")]), ("", [("Is there a number?", "I cannot tell from what is given")])]
"""The tracks that four conversations are about, and their turns."""


def make_llm(folder: Path, seed: int = 0, tokenizer: str = "chatml", **changes: Any) -> str:
    """A random Llama of two layers with a tokenizer."""
    words = tokenizer_like(tokenizer)
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(words), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.3,
             "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, **changes}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def config(llm: str, **changes: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, **{"model_type": "avllm", "llm": llm, "llm_vision_layer": -1, "max_answer_len": 8, **changes})


def avllm(llm: str, seed: int = 0, **changes: Any) -> AudioVisualLLM:
    torch.manual_seed(seed)
    model = build_model(config(llm, **changes))
    assert isinstance(model, AudioVisualLLM)
    return model


def conversations(said=SAID) -> list[Conversation]:
    return [answering([q for q, _ in turns], [a for _, a in turns], map(Modality, letters)) for letters, turns in said]


def batch(model: AudioVisualLLM, rows=range(4), seed: int = 0, said=SAID) -> Batch:
    """Clips of noise, each with the tracks that its conversation is about."""
    rows = list(rows)
    noise = torch.Generator().manual_seed(seed)
    cfg = model.config
    frames = torch.randint(0, 256, (len(said), 2, 3, cfg.vision_resolution, cfg.vision_resolution), generator=noise, dtype=torch.uint8)
    sound = torch.randn(len(said), 2, cfg.audio_target_length, cfg.audio_melbins, generator=noise)
    spoken = [conversations(said)[row] for row in rows]
    chats = Chats(spoken, torch.arange(len(rows)))
    for conversation in spoken:
        written = written_as_read(model.tokenizer, Sample("", 0), conversation, 2, 2, "")
        chats.ids.append(written.ids)
        chats.supervised.append(written.supervised)
    made = Batch("clips", [f"clip{row}" for row in rows], torch.tensor(rows), frames[rows], sound[rows], chats=chats)
    made.present = {m: torch.tensor([m in conversation.modalities for conversation in spoken]) for m in (Modality.VISION, Modality.AUDIO)}
    return made
