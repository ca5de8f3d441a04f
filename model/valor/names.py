"""The released VALOR's names where they differ from the model's: BERT's, and where the towers lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omnivast.model.interface import Names
from omnivast.model.towers import tower_settings

STARTS = (
    ("clip.visual_proj", "clip_model.visual.proj"),
    ("vision_encoder.visual.", "clip_model.visual."),
    ("vision_encoder.", "video_encoder."),
    ("clip.text_projection", "clip_model.text_projection"),
    ("clip.logit_scale", "clip_model.logit_scale"),
    ("clip.text.", "clip_model."),
    ("audio_encoder.audio_embeddings.", "audio_embeddings."),
    ("multimodal_encoder.cls.predictions.transform.dense.", "cls.dense."),
    ("multimodal_encoder.cls.predictions.transform.LayerNorm.", "cls.layernorm."),
    ("multimodal_encoder.cls.predictions.bias", "cls.decoder.bias"),
    ("multimodal_encoder.cls.predictions.decoder.", "cls.decoder."),
    ("multimodal_encoder.bert.embeddings.", "multimodal_encoder.embeddings."),
    ("multimodal_encoder.bert.encoder.", "multimodal_encoder.encoder."),
    ("txt_encoder.bert.embeddings.", "txt_encoder.embeddings."),
    ("txt_encoder.bert.encoder.", "txt_encoder.encoder."),
)
"""Starts of the model's names → those of the release; the first that fits counts. What both have alike is not listed."""

UNUSED = ("txt_encoder.", "multimodal_encoder.pooler.", "clip.text", "clip.visual_proj", "*.relative_position_index")
"""Starts of names that the release carries without use, where the model has none of the name: copies of BERT, its pooler, CLIP's text tower
and projections, and what follows from Video Swin's window."""


def released_name(name: str) -> str:
    """The name in the release of a tensor of the model."""
    name = next((theirs + name[len(own):] for own, theirs in STARTS if name.startswith(own)), name)
    return re.sub(r"\.crossattention(?:\.([va])(?=\.))?\.(self|output)\.", _released_cross, name)


def current_name(name: str) -> str:
    """The name in the model of a tensor of the release."""
    name = name.removeprefix("module.")
    name = "clip.logit_scale" if name == "logit_scale" else name  # as ours was called at first
    name = next((own + name[len(theirs):] for own, theirs in STARTS if name.startswith(theirs)), name)
    return re.sub(r"\.cross_attn(?:_([va]))?\.(cross|output)\.", _current_cross, name)


def _released_cross(found: re.Match[str]) -> str:
    """Cross-attention to both modalities, or to one of them (cross.py)."""
    return f".cross_attn{'_' + found[1] if found[1] else ''}.{'cross' if found[2] == 'self' else found[2]}."


def _current_cross(found: re.Match[str]) -> str:
    return f".crossattention{'.' + found[1] if found[1] else ''}.{'self' if found[2] == 'cross' else found[2]}."


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tensors tell of the ``model_cfg`` that they were made with; see Names.settings."""
    found = tower_settings(state)
    if "contra_head_t.linear.weight" in state:
        found["contra_type"] = "fine" if "text_fine_weight.0.weight" in state else "coarse"
        if found["contra_type"] == "coarse" and {"contra_head_v.linear.weight", "contra_head_a.linear.weight"} <= state.keys():
            found["late_fusion"] = "va_fusion.weight" not in state
    attention = [name for name in state if ".crossattention." in name]
    if attention:
        split = any(".crossattention.v." in name for name in attention)
        found["cross_attn_type"] = "va_parallel, video_audio or audio_video" if split else "va_concate"
    return found


NAMES = Names(current_name, released_name, UNUSED, {"txt_encoder.": "multimodal_encoder."},
              own=("multimodal_encoder.bert.embeddings.prompt_embedding.",), settings=settings_of)
