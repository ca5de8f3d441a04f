"""The released VAST checkpoint's names where they differ from the model's: nearly none, the model keeps them."""

from __future__ import annotations

from omnivast.model.interface import Names
from omnivast.model.towers import tower_settings
from omnivast.model.weights.towers import TOWER_FILES

UNUSED = tuple(dict.fromkeys(f"{tower}.{start}" for tower in ("vision_encoder", "audio_encoder")
                             for file in TOWER_FILES.values() for start in file.dropped))
"""Prefixes of tensors in a tower's original file that the release saves too, and that no tower here uses: with EVA-CLIP its text tower,
the scale of its loss and a classification head. ``*`` stands for anything."""

OLDER_TOWERS = ("evaclip_model.", "clip_model.")
"""How older checkpoints begin the vision encoder's names."""

AST_EMBEDDINGS = "audio_embeddings."
"""How the release begins the names of AST's embeddings, which it keeps beside the encoder; here they are within it."""


def current_name(name: str) -> str:
    """A tensor's name in the model, given its name in today's release or an older one: without ``module.``, ``vision`` for ``video``,
    ``vision_encoder`` for its older spellings, AST's embeddings within its encoder. Inside a tower names are left alone."""
    name = name.removeprefix("module.")
    for old in OLDER_TOWERS:
        if name.startswith(old):
            return "vision_encoder." + name[len(old):]
    if name.startswith(AST_EMBEDDINGS):
        return f"audio_encoder.{name}"
    first, dot, rest = name.partition(".")
    return first.replace("video", "vision") + dot + rest


def released_name(name: str) -> str:
    """The name in today's release of a tensor of the model."""
    return name.removeprefix("audio_encoder.") if name.startswith(f"audio_encoder.{AST_EMBEDDINGS}") else name


NAMES = Names(current_name, released_name, UNUSED, own=("itm_head.",), settings=tower_settings)
