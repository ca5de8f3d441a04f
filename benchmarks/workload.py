"""The model of a family, the batch and the optimiser that both ways are timed on: random weights and noise, no files needed."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig, RunConfig
from omnivast.config.tasks import CaptionKind, Task
from omnivast.data.batch import Batch, Captions, Texts
from omnivast.model.gram.model import GRAM
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.tokenizer import load_tokenizer
from omnivast.model.valor.model import VALOR
from omnivast.model.vast.model import VAST
from omnivast.training.optim import build_optimizer

PRETRAINING = "ret%tvas%tva%tvs%tv%ta_cap%tvas%tva%tvs%tv%ta"
FIRST_WORD = 106
FAMILIES: dict[str, type[VAST] | type[VALOR]] = {"vast": VAST, "valor": VALOR, "gram": GRAM}


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of the yardstick; ``tiny`` is for tests."""

    model: str = "vast"
    clips: int = 16
    frames: int = 2
    resolution: int = 112
    mel_frames: int = 512
    width: int = 384
    vision_layers: int = 6
    audio_layers: int = 4
    text_layers: int = 4
    vocabulary: int = 30522
    caption_tokens: int = 25
    """Mean length of a caption; lengths lie within a third of it."""
    max_caption: int = 40
    max_omni: int = 70
    task: str = PRETRAINING
    new_tokens: int = 40
    rerank_texts: int = 50
    scored: int = 1000
    """Texts, and clips, that are compared for retrieval: each with each."""
    scored_frames: int = 8
    scored_slices: int = 2
    mask_rows: int = 1024

    def with_value(self, **changes: object) -> Workload:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


TINY = Workload(clips=4, resolution=28, mel_frames=32, width=64, vision_layers=1, audio_layers=1, text_layers=2, vocabulary=400,
                caption_tokens=6, max_caption=12, max_omni=16, new_tokens=6, rerank_texts=6, scored=20, mask_rows=32)
RELEASED = Workload(clips=1, frames=8, resolution=224, mel_frames=2048, width=768, vision_layers=1, audio_layers=1, text_layers=12,
                    max_caption=70, new_tokens=8, rerank_texts=16)
"""What texts meet in the released model: its text tower and its 2638 condition tokens (8 frames of 257, 2 slices of 256, a subtitle of
70). Towers have one layer: re-ranking and generation begin with what they gave, so that this size is for those two alone."""
PRESETS = {"default": Workload(), "tiny": TINY, "released": RELEASED}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "vast": {},
    "gram": {"model": "gram"},
    "valor": {"model": "valor", "task": "ret%tva%tv%ta_cap%tva%tv%ta", "max_caption": 42, "max_omni": 42, "caption_tokens": 20,
              "new_tokens": 30},
}
"""Changes to the default size: VALOR-1M's task, its texts of 16.4 words on average in 40 tokens, and 30 new ones (VALOR, table 1 and the
release)."""
FIELDS = {"B": "clips", "clips": "clips", **{f.name: f.name for f in dataclasses.fields(Workload)}}


def parse_size(text: str) -> Workload:
    """``default``, ``tiny`` or ``released``, changes to the default such as ``B=8,frames=4``, or a name and changes to it. Raises
    ValueError naming what is wrong."""
    first, *rest = text.split(",")
    size, parts = (PRESETS[first], rest) if first in PRESETS else (Workload(), [first, *rest])
    changes: dict[str, int] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in FIELDS or FIELDS[name] in ("task", "model") or not value.isdigit():
            raise ValueError(f"--size: '{part}' is not understood; write {', '.join(PRESETS)}, or name=number of {', '.join(FIELDS)}")
        changes[FIELDS[name]] = int(value)
    return size.with_value(**changes)


def of_family(size: Workload, name: str) -> Workload:
    """The workload for another family; of the default size with its own task and lengths of texts, of a smaller one with its task."""
    changes = OF_FAMILY[name]
    if size.vocabulary < Workload().vocabulary:
        changes = {key: value for key, value in changes.items() if key in ("model", "task")}
    return size.with_value(**changes)


def towers(size: Workload) -> dict[str, Any]:
    """The vision and audio towers of a family, as keys of model_cfg: VALOR's are CLIP's and AST."""
    if size.model == "valor":
        return {"vision_encoder_type": "clip_vit_base_16", "audio_encoder_type": "ast", "use_task_prompt": True, "contra_loss_ratio": 1.5,
                "vision_encoder_cfg": {"patch_size": 14, "width": size.width, "layers": size.vision_layers, "heads": size.width // 64},
                "audio_encoder_cfg": {"hidden_size": size.width, "num_hidden_layers": size.audio_layers, "hidden_dropout_prob": 0.0,
                                      "num_attention_heads": size.width // 64, "intermediate_size": 4 * size.width,
                                      "attention_probs_dropout_prob": 0.0}}
    return {"vision_encoder_type": "evaclip01_giant", "audio_encoder_type": "beats",
            "vision_encoder_cfg": {"width": size.width, "layers": size.vision_layers, "head_width": 64, "mlp_ratio": 4.0,
                                   "drop_path_rate": 0.0},
            "audio_encoder_cfg": {"encoder_layers": size.audio_layers, "encoder_embed_dim": size.width,
                                  "encoder_ffn_embed_dim": 4 * size.width, "encoder_attention_heads": size.width // 64,
                                  "encoder_layerdrop": 0.0}}


def build(size: Workload, seed: int = 0) -> Any:
    """The model with seeded weights, in training mode; no dropout or stochastic depth, so that two ways can be compared."""
    config = ModelConfig(
        model_type=size.model, pretrained=False, vision_resolution=size.resolution, max_vision_sample_num=size.frames, audio_melbins=64,
        audio_target_length=size.mel_frames, max_audio_sample_num=1, text_encoder_type="bert", contra_dim=min(512, size.width),
        max_caption_len=size.max_caption, max_omni_caption_len=size.max_omni, max_subtitle_len=size.max_omni, **towers(size))
    sizes = TextSizes(size.vocabulary, size.width, size.text_layers, size.width // 64, 4 * size.width,
                      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    words = [f"[unused{i}]" for i in range(FIRST_WORD)] + [f"w{i}" for i in range(FIRST_WORD, size.vocabulary)]
    words[0], words[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(words) + "\n")
        tokenizer = load_tokenizer(file)
    torch.manual_seed(seed)
    return FAMILIES[size.model](config, tokenizer, sizes).train()


def texts(count: int, mean: int, longest: int, vocabulary: int, noise: torch.Generator) -> Texts:
    """Random words in [CLS] … [SEP], of lengths within a third of ``mean``, padded to the longest of them."""
    low, high = max(3, mean - mean // 3), min(longest, mean + mean // 3)
    lengths = torch.randint(low, high + 1, (count,), generator=noise)
    ids = torch.randint(FIRST_WORD, vocabulary, (count, int(lengths.max())), generator=noise)
    ids[:, 0] = 101
    ids.scatter_(1, lengths[:, None] - 1, 102)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return Texts(ids * mask, mask, torch.arange(count), [""] * count)


def batch(size: Workload, seed: int = 0) -> Batch:
    """A batch with every modality and three kinds of captions; for VALOR, whose corpora have one, of one kind that stands for all."""
    noise = torch.Generator().manual_seed(seed)
    kinds = [CaptionKind.OMNI] if size.model == "valor" else list(CaptionKind)
    captions = {kind: texts(size.clips, size.caption_tokens, size.max_omni if kind is CaptionKind.OMNI else size.max_caption,
                            size.vocabulary, noise) for kind in kinds}
    shared = dict.fromkeys(set(CaptionKind) - set(kinds), CaptionKind.OMNI)
    return Batch("noise", [f"clip{i}" for i in range(size.clips)], torch.arange(size.clips),
                 torch.randint(0, 256, (size.clips, size.frames, 3, size.resolution, size.resolution), generator=noise, dtype=torch.uint8),
                 torch.randn(size.clips, 1, size.mel_frames, 64, generator=noise),
                 texts(size.clips, size.caption_tokens, size.max_omni, size.vocabulary, noise), Captions(captions, shared))


def task(size: Workload) -> Task:
    return Task.parse(size.task)


def our_optimizer(model: Any) -> torch.optim.Optimizer:
    return build_optimizer(model, RunConfig(learning_rate=1e-4))


def padded(found: Texts, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask padded to ``length``."""
    spare = length - found.ids.shape[1]
    return torch.nn.functional.pad(found.ids, (0, spare)), torch.nn.functional.pad(found.mask, (0, spare))
