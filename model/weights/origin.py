"""What made a checkpoint: the run in whose folder it lies says so, or else its tensors tell."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from omnivast.config.fields import ConfigError
from omnivast.config.inherit import settings_of_run
from omnivast.config.schema import ModelConfig
from omnivast.model.interface import MODELS, Model, ModelError

log = logging.getLogger("omnivast")
TRAINED_FOR = ("vision_antialias", "frame_embedding_type", "missing_modality", "mask_subtitle_padding", "gram_cosine", "contra_type",
               "fineweight_type", "late_fusion", "cross_attn_type", "use_task_prompt", "caption_type", "share_txt_and_multimodal",
               "txt_encoder_type", "audio_melbins", "audio_target_length")
"""Settings that weights learn to be used with, though tensors of the same names and shapes may serve another value as well, or those of
an encoder of texts are left out as copies."""
NEVER_OTHERWISE = ("cross_attn_type",)
"""Those of them that leave little of what was learnt where they are changed."""


def check_origin(weights: Path, cfg: ModelConfig, *, testing: bool, partly: bool) -> None:
    """Compare ``model_cfg`` with that of the run that saved the weights, where they lie in its folder (``ckpt/`` beside
    ``log/hps.json``), before a model is built.

    Raises ModelError where the run trained a family of other parameters, or with another cross-attention; not with ``partly``, which
    says that some of the weights are to be used on purpose. Other settings that the weights were trained with are told.
    """
    file = weights.parent.parent / "log" / "hps.json"
    if not file.is_file():
        return
    try:
        made = settings_of_run(weights.parent.parent).get("model_cfg")
    except ConfigError:  # what is not read cannot be compared; the tensors are checked in any case
        return
    if not isinstance(made, dict):
        return
    theirs, own = made.get("model_type", cfg.model_type), cfg.model_type
    if theirs in MODELS and not _related(theirs, own):
        if partly or (own in MODELS and theirs in MODELS.find(own).towers_from):
            return
        raise ModelError(f"model_cfg.model_type is {own}, but {weights} is of a run with model_type {theirs} ({file}); set --model_type "
                         f"{theirs}, or start from weights of a {own}")
    changed = [key for key in TRAINED_FOR if key in made and made[key] != getattr(cfg, key)]
    told = ", ".join(f"{key} {json.dumps(made[key])}, now {json.dumps(getattr(cfg, key))}" for key in changed)
    if any(key in NEVER_OTHERWISE for key in changed) and not partly:
        raise ModelError(f"{weights} is of a run with another model_cfg ({file}): {told}; set it as it was")
    if theirs != own:
        told = ", ".join([f"model_type {theirs}, now {own}", *filter(None, [told])])
    if told:
        log.log(logging.WARNING if testing else logging.INFO, "%s was trained with another model_cfg (%s): %s%s", weights, file, told,
                "; what is tested is not what was trained" if testing else "")


def explained(model: Model, names: Iterable[str], state: Mapping[str, Tensor]) -> list[str]:
    """Why a checkpoint does not fit, in settings, as far as its tensors tell; ``names`` as the file has them, ``state`` as the model."""
    own = next((name for name in MODELS if MODELS.find(name) is type(model)), type(model).__name__)
    families = families_of(names)
    if families and not any(_related(family, own, strictly=True) for family in families):
        return [f"it is a checkpoint of model_type {' or '.join(families)}, but model_cfg.model_type is {own}"]
    theirs, ours = (model.names.settings(each) for each in (state, model.state_dict()))
    changed = [f"{key} {theirs[key]} (here {ours[key]})" for key in theirs if key in ours and theirs[key] != ours[key]]
    return [f"it was made with another model_cfg: {', '.join(changed)}"] if changed else []


def families_of(names: Iterable[str]) -> list[str]:
    """The model types whose checkpoints alone have such names; of one that another one derives from, just that other."""
    names = list(names)
    found = [(model_type, family) for model_type in MODELS if (family := MODELS.find(model_type)).names.own
             and any(family.names.current(name).startswith(family.names.own) for name in names)]
    return [model_type for model_type, family in found if not any(other is not family and issubclass(other, family) for _, other in found)]


def _related(theirs: str, own: str, strictly: bool = False) -> bool:
    """Whether weights of one family fit the other, because one derives from the other; ``strictly``: the model's from theirs."""
    if own not in MODELS:
        return False
    one, other = MODELS.find(theirs), MODELS.find(own)
    return issubclass(other, one) or (not strictly and issubclass(one, other))
