"""The released VAST checkpoint's names where they differ from the model's: nearly none, the model keeps them."""

from __future__ import annotations

DROPPED = (
    "vision_encoder.text.",  # the CLIP text tower, which VAST never uses
    "vision_encoder.logit_scale",  # of the CLIP loss
    "vision_encoder.visual.head.",  # classification head
)
"""Starts of names that the released file holds and the model has no use for."""

OLDER_TOWERS = ("evaclip_model.", "clip_model.")
"""How older checkpoints begin the vision encoder's names."""


def current_name(name: str) -> str:
    """A tensor's name as the release spells it now: without ``module.``, ``vision`` for ``video``, ``vision_encoder`` for its older names.

    Within a tower nothing is changed: names there are its own.
    """
    name = name.removeprefix("module.")
    for old in OLDER_TOWERS:
        if name.startswith(old):
            return "vision_encoder." + name[len(old):]
    if name.startswith("audio_embeddings."):  # AST's, which the release keeps beside its encoder
        return f"audio_encoder.{name}"
    first, dot, rest = name.partition(".")
    return first.replace("video", "vision") + dot + rest
