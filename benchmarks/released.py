"""The released model with random weights, and random clips and texts for it, at its own size and at one for tests."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import PRETRAINING, texts
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Task
from omnivast.data.batch import Batch, Captions
from omnivast.model.vast.model import VAST, ClipFeatures

TASK = Task.parse(PRETRAINING)
"""Pretraining on VAST-27M (paper, table 8)."""
GROUP = Group.parse("vas")
SPECIAL_TOKENS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


@dataclasses.dataclass(frozen=True)
class Size:
    """A size of the model and of its inputs. caption, subtitle: mean tokens of a text."""

    model: dict[str, Any]
    vocabulary: int = 30_522
    frames: int = 1
    """Of a clip in pretraining."""
    test_frames: int = 8
    slices: int = 2
    caption: int = 25
    subtitle: int = 40


_TINY_BEATS = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "embed_dim": 16,
               "conv_pos": 4, "conv_pos_groups": 2, "encoder_layerdrop": 0.0}
SIZES = {
    "released": Size({"vision_encoder_type": "evaclip01_giant", "vision_resolution": 224, "audio_encoder_type": "beats",
                      "audio_melbins": 64, "audio_target_length": 1024, "contra_dim": 512, "text_encoder_cfg": {},
                      "max_caption_len": 40, "max_omni_caption_len": 70, "max_subtitle_len": 70, "itm_ratio": 1.0}),
    "tiny": Size({"vision_encoder_type": "evaclip01_giant", "vision_resolution": 28, "audio_encoder_type": "beats",
                  "vision_encoder_cfg": {"width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.0}, "audio_encoder_cfg": _TINY_BEATS,
                  "audio_melbins": 32, "audio_target_length": 32, "contra_dim": 16,
                  "text_encoder_cfg": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
                  "max_caption_len": 12, "max_omni_caption_len": 14, "max_subtitle_len": 10, "itm_ratio": 1.0},
                 vocabulary=200, test_frames=2, slices=1, caption=6, subtitle=5),
}


def make_model(size: Size, device: torch.device) -> VAST:
    """The model, trainable and in training mode, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(SPECIAL_TOKENS.get(i, f"word{i}") for i in range(size.vocabulary)) + "\n")
        text = {**size.model["text_encoder_cfg"], "vocab_size": size.vocabulary}
        keys = {**size.model, "text_encoder_cfg": text, "pretrained": False, "text_encoder_type": "bert", "tokenizer": str(file),
                "max_vision_sample_num": size.test_frames, "max_audio_sample_num": size.slices}
        torch.manual_seed(0)
        with device:
            model = VAST.build(ModelConfig(**keys))
    return model.to(device).train()


@contextmanager
def endless(model: VAST) -> Iterator[None]:
    """No caption ends, so that all are as long as may be."""
    bias = model.get_parameter("multimodal_encoder.cls.predictions.bias").data
    before = bias[model.tokenizer.sep].clone()
    bias[model.tokenizer.sep] = -1e4
    try:
        yield
    finally:
        bias[model.tokenizer.sep] = before


def make_batch(size: Size, clips: int, *, frames: int, device: torch.device, seed: int = 0) -> Batch:
    """Clips of noise with every modality and the three kinds of captions."""
    draws = torch.Generator().manual_seed(seed)
    config = size.model
    side = config["vision_resolution"]
    pixels = torch.randint(0, 256, (clips, frames, 3, side, side), dtype=torch.uint8, generator=draws)
    sound = torch.randn(clips, size.slices, config["audio_target_length"], config["audio_melbins"], generator=draws)
    captions = {kind: texts(clips, size.caption, config["max_omni_caption_len" if kind is CaptionKind.OMNI else "max_caption_len"],
                            size.vocabulary, draws) for kind in CaptionKind}
    subtitles = texts(clips, size.subtitle, config["max_subtitle_len"], size.vocabulary, draws)
    batch = Batch("noise", [f"clip{i}" for i in range(clips)], torch.arange(clips), pixels, sound, subtitles, Captions(captions))
    return batch.to(device)


def make_features(model: VAST, size: Size, clips: int) -> ClipFeatures:
    """What is known of encoded clips, as noise: the condition tokens of ``test_frames`` frames, the slices and the subtitle."""
    one = make_batch(size, 1, frames=size.test_frames, device=model.device)
    with torch.no_grad():
        found = model.encode(one, list(Modality))
    draws = torch.Generator(device=model.device).manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn((clips, *like.shape[1:]), generator=draws, device=model.device, dtype=like.dtype)

    return ClipFeatures({m: noise(x) for m, x in found.condition.items()}, dict.fromkeys(found.condition),
                        {m: noise(x) for m, x in found.pooled.items()})
