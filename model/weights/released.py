"""The released VAST checkpoint's names where they differ from the model's: nearly none, the model keeps them."""

from __future__ import annotations

DROPPED = (
    "vision_encoder.text.",  # the CLIP text tower, which VAST never uses
    "vision_encoder.logit_scale",  # of the CLIP loss
    "vision_encoder.visual.head.",  # classification head
)
"""Starts of names that the released file holds and the model has no use for."""

RENAMED: dict[str, str] = {}
"""Start of a released name → start of ours."""
