"""The released models with random weights, and random clips and texts for them, at their own sizes and at ones for tests."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.workload import FAMILIES, OF_FAMILY, PRETRAINING, texts
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Task
from omnivast.data.batch import Batch, Captions

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
    family: str = "vast"

    @property
    def task(self) -> Task:
        """Pretraining on VAST-27M (its paper, table 8), or on VALOR-1M."""
        return Task.parse(OF_FAMILY[self.family].get("task", PRETRAINING))

    @property
    def group(self) -> Group:
        """All modalities of the family."""
        return Group.parse("va" if self.family == "valor" else "vas")


_TINY_BEATS = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "embed_dim": 16,
               "conv_pos": 4, "conv_pos_groups": 2, "encoder_layerdrop": 0.0}
_TINY_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES = {
    "released": Size({"vision_encoder_type": "evaclip01_giant", "vision_resolution": 224, "audio_encoder_type": "beats",
                      "audio_melbins": 64, "audio_target_length": 1024, "contra_dim": 512, "text_encoder_cfg": {},
                      "max_caption_len": 40, "max_omni_caption_len": 70, "max_subtitle_len": 70, "itm_ratio": 1.0}),
    "tiny": Size({"vision_encoder_type": "evaclip01_giant", "vision_resolution": 28, "audio_encoder_type": "beats",
                  "vision_encoder_cfg": {"width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.0}, "audio_encoder_cfg": _TINY_BEATS,
                  "audio_melbins": 32, "audio_target_length": 32, "contra_dim": 16,
                  "text_encoder_cfg": _TINY_TEXT,
                  "max_caption_len": 12, "max_omni_caption_len": 14, "max_subtitle_len": 10, "itm_ratio": 1.0},
                 vocabulary=200, test_frames=2, slices=1, caption=6, subtitle=5),
    "valor": Size({"vision_encoder_type": "clip_vit_large_14_336px", "vision_resolution": 224, "audio_encoder_type": "ast",
                   "audio_melbins": 64, "audio_target_length": 512, "contra_dim": 512, "text_encoder_cfg": {}, "use_task_prompt": True,
                   "max_caption_len": 42, "max_omni_caption_len": 42, "contra_loss_ratio": 1.5}, frames=2, caption=20, family="valor"),
    "valor_tiny": Size({"vision_encoder_type": "clip_vit_base_16", "vision_resolution": 32, "audio_encoder_type": "ast",
                        "vision_encoder_cfg": {"width": 32, "layers": 2, "heads": 2}, "audio_melbins": 32, "audio_target_length": 32,
                        "audio_encoder_cfg": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                                              "intermediate_size": 64},
                        "contra_dim": 16, "text_encoder_cfg": _TINY_TEXT, "use_task_prompt": True, "max_caption_len": 12,
                        "max_omni_caption_len": 12, "contra_loss_ratio": 1.5},
                       vocabulary=200, frames=2, test_frames=2, slices=1, caption=6, family="valor"),
}
SIZES |= {"gram": dataclasses.replace(SIZES["released"], frames=4, family="gram"),
          "gram_tiny": dataclasses.replace(SIZES["tiny"], family="gram")}
"""By name; "released" and "tiny" are VAST's. GRAM is trained with four frames (its public configs)."""


def make_model(size: Size, device: torch.device) -> Any:
    """The model, trainable and in training mode, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(SPECIAL_TOKENS.get(i, f"word{i}") for i in range(size.vocabulary)) + "\n")
        text = {**size.model["text_encoder_cfg"], "vocab_size": size.vocabulary}
        keys = {**size.model, "model_type": size.family, "text_encoder_cfg": text,
                "pretrained": False, "text_encoder_type": "bert", "tokenizer": str(file),
                "max_vision_sample_num": size.test_frames, "max_audio_sample_num": size.slices}
        torch.manual_seed(0)
        with device:
            model = FAMILIES[size.family].build(ModelConfig(**keys))
    return model.to(device).train()


@contextmanager
def endless(model: Any) -> Iterator[None]:
    """No caption ends, so that all are as long as may be."""
    bias = model.get_parameter("multimodal_encoder.cls.predictions.bias").data
    before = bias[model.tokenizer.sep].clone()
    bias[model.tokenizer.sep] = -1e4
    try:
        yield
    finally:
        bias[model.tokenizer.sep] = before


def make_batch(size: Size, clips: int, *, frames: int, device: torch.device, seed: int = 0) -> Batch:
    """Clips of noise with every modality and the three kinds of captions, which are one for VALOR."""
    draws = torch.Generator().manual_seed(seed)
    config = size.model
    side = config["vision_resolution"]
    pixels = torch.randint(0, 256, (clips, frames, 3, side, side), dtype=torch.uint8, generator=draws)
    sound = torch.randn(clips, size.slices, config["audio_target_length"], config["audio_melbins"], generator=draws)
    captions = {kind: texts(clips, size.caption, config["max_omni_caption_len" if kind is CaptionKind.OMNI else "max_caption_len"],
                            size.vocabulary, draws) for kind in CaptionKind}
    shared: dict[CaptionKind, CaptionKind] = {}
    if size.family == "valor":
        captions, shared = {CaptionKind.OMNI: captions[CaptionKind.OMNI]}, dict.fromkeys(CaptionKind, CaptionKind.OMNI)
    subtitles = texts(clips, size.subtitle, config.get("max_subtitle_len", 70), size.vocabulary, draws)
    batch = Batch("noise", [f"clip{i}" for i in range(clips)], torch.arange(clips), pixels, sound, subtitles, Captions(captions, shared))
    return batch.to(device)


def make_features(model: Any, size: Size, clips: int) -> Any:
    """What is known of encoded clips, as noise: the condition tokens of ``test_frames`` frames, the slices and the subtitle."""
    one = make_batch(size, 1, frames=size.test_frames, device=model.device)
    with torch.no_grad():
        found = model.encode(one, list(size.group)).rows(torch.zeros(clips, dtype=torch.int64, device=model.device))
    draws = torch.Generator(device=model.device).manual_seed(0)
    for part in vars(found).values():
        for tensor in part.values() if part is not None else ():
            if tensor is not None and tensor.is_floating_point():
                tensor.normal_(generator=draws)
    return found
