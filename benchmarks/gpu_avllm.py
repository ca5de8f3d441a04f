"""An Audio-Visual LLM of the paper's size with random weights: a language model of Vicuna-7B's shape with adapters, CLIP and BEATs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from omnivast.config.conversation import answering
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Modality, Task
from omnivast.data.batch import Batch, Chats
from omnivast.model.avllm.model import AudioVisualLLM
from omnivast.model.avllm.template import MEDIA
from omnivast.scripts.avllm.memory import SHAPES, byte_tokenizer, llama
from omnivast.utils.random import StepRandom

TASK = Task.parse("chat%tva")
FRAMES, SLICES, WORDS = 32, 4, 256
"""Of a clip; tokens of its conversation, of which half are learnt."""
TINY: dict[str, Any] = {
    "vision_encoder_type": "clip_vit_base_16", "vision_resolution": 32, "vision_encoder_cfg": {"width": 32, "layers": 2, "heads": 2},
    "audio_melbins": 32, "audio_target_length": 32,
    "audio_encoder_cfg": {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2,
                          "embed_dim": 16, "conv_pos": 4, "conv_pos_groups": 2}}
FULL: dict[str, Any] = {"vision_encoder_type": "clip_vit_large_14", "vision_resolution": 224, "audio_melbins": 64,
                        "audio_target_length": 1024}
TINY_LLM = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_avllm(device: torch.device, tiny: bool) -> AudioVisualLLM:
    """The model, in training mode, in float32, as a training has it; made on the device itself."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    cfg = ModelConfig(model_type="avllm", pretrained=False, audio_encoder_type="beats", llm_tune="lora", llm_template="vicuna_v1",
                      **(TINY if tiny else FULL))
    with device:
        model = AudioVisualLLM(cfg, LlamaForCausalLM(llama(TINY_LLM if tiny else SHAPES["7b"])), byte_tokenizer())
    return model.to(device).train()


def make_chats(model: AudioVisualLLM, clips: int, tiny: bool) -> Batch:
    """Clips of noise, each with a conversation about all that is seen and heard, on the model's device."""
    frames, slices, words = (2, 1, 8) if tiny else (FRAMES, SLICES, WORDS)
    cfg, both, draws = model.config, (Modality.VISION, Modality.AUDIO), torch.Generator().manual_seed(0)
    learnt = words // 2
    chats = Chats([answering(["?"], ["!"], both)] * clips, torch.arange(clips),
                  ids=[[MEDIA, *row] for row in torch.randint(3, 259, (clips, words), generator=draws).tolist()],
                  supervised=[[False] * (1 + words - learnt) + [True] * learnt] * clips)
    seen = torch.randint(0, 256, (clips, frames, 3, cfg.vision_resolution, cfg.vision_resolution), dtype=torch.uint8, generator=draws)
    heard = torch.randn(clips, slices, cfg.audio_target_length, cfg.audio_melbins, generator=draws)
    made = Batch("clips", [str(clip) for clip in range(clips)], torch.arange(clips), seen, heard, chats=chats)
    made.present = {modality: torch.ones(clips, dtype=torch.bool) for modality in both}
    return made.to(model.device)


def flops_of(model: AudioVisualLLM, tiny: bool) -> float:
    """FLOPs of a clip's forward and backward pass, nothing recomputed."""
    model.set_checkpointing(False)
    with FlopCounterMode(display=False) as counter:
        model(make_chats(model, 1, tiny), TASK, StepRandom(0, 0))["loss"].backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
