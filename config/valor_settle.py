"""A config of the released VALOR as a draft, and what it means once the pretrained run and the flags are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnivast.config.draft import FLAG, OWN, Draft, Section, Value
from omnivast.config.fields import OBSOLETE, SECTIONS, ConfigError, json_or_text, note
from omnivast.config.flags import Assignment
from omnivast.config.inherit import say_what_flags_decide
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import is_pretraining
from omnivast.config.valor_release import DEFAULTS, INHERITED, SOURCE, UNREAD, read_flat, take

TEXT_ENCODER, CLIP_LR_TEXT = "clip_vit_base_16", 5e-7
"""The release's defaults of what a draft keeps."""


def draft_of(content: dict[str, Any], file: Path) -> Draft:
    """The settings of a flat config, over the release's defaults."""
    flat = read_flat(content, file)
    draft = Draft(file, {name: {key: Value(value, SOURCE, OWN - 1) for key, value in DEFAULTS[name].items()} for name in SECTIONS})
    for name, keys in flat.sections.items():
        draft.sections[name] |= {key: Value(value, str(file), OWN) for key, value in keys.items()}
    draft.sections["model_cfg"]["inherit_keys"] = Value(INHERITED, SOURCE, OWN - 1)
    draft.datasets = {name: [{key: Value(value, str(file), OWN) for key, value in dataset.items()} for dataset in datasets]
                      for name, datasets in flat.datasets.items()}
    draft.kept = {key: Value(value, str(file), OWN) for key, value in flat.kept.items()}
    return draft


def take_flags(draft: Draft, flags: tuple[Assignment, ...]) -> None:
    """The flags that only the release has. Raises ConfigError for those with effect where the config is not the release's."""
    for flag in flags:
        (name,), text = flag.path, " ".join(flag.words) or "true"
        value = {"true": True, "false": False}.get(text.lower(), json_or_text(text))
        if draft.kept is None and name in OBSOLETE["run_cfg"]:
            note(f"{flag.flag} has no effect: {OBSOLETE['run_cfg'][name]}")
        elif draft.kept is None:
            raise ConfigError(f"{flag.flag} is a flag of the released VALOR, understood with its own configs alone; {draft.file} has "
                              "sections (--help lists all flags)")
        elif name in UNREAD:
            if value != UNREAD[name]:
                note(f"{flag.flag} has no effect, as in the released VALOR")
        else:
            found: dict[str, Any] = {}
            take(found, name, value, flag.flag)
            draft.kept |= {key: Value(given, flag.flag, FLAG) for key, given in found.items()}


def settle_flat(draft: Draft, inherited: Section) -> None:
    """What depends on other settings, now that all are known. Raises ConfigError."""
    run, model, kept = draft.sections["run_cfg"], draft.sections["model_cfg"], draft.kept or {}
    say_what_flags_decide(draft, inherited)
    if "max_caption_len" in model and model["max_caption_len"].level == FLAG > model["max_omni_caption_len"].level:
        model["max_omni_caption_len"] = model["max_caption_len"]
    vision = model["vision_encoder_type"].value or ""
    if model["model_type"].value == "valor":
        _need_bert(kept.get("txt_encoder_type", Value(TEXT_ENCODER, SOURCE, OWN - 1)), draft.file)
    if not vision.startswith("clip"):
        if run["clip_lr"].level < FLAG:  # the release has it for CLIP alone
            run["clip_lr"] = Value(None, SOURCE, OWN)
    elif not (run.get("new_params_name") or Value([], "", 0)).value and model["model_type"].value == "valor":
        rate = kept.get("clip_lr_text", Value(CLIP_LR_TEXT, SOURCE, OWN - 1))
        run |= {"new_params_name": Value(["logit_scale"], rate.source, rate.level), "new_lr": rate}
    pretraining = [is_pretraining(dataset["task"].value) for dataset in draft.datasets["train"] if "task" in dataset]
    ratio = model.get("contra_loss_ratio")
    if ratio is not None and ratio.level < FLAG and not any(pretraining) and ratio.value != 1:
        note(f"{ratio.source}: contra_loss_ratio has no effect on tasks without pt_, as in the released VALOR")
        model["contra_loss_ratio"] = Value(ModelConfig.contra_loss_ratio, SOURCE, OWN)


def _need_bert(encoder: Value, file: Path) -> None:
    if encoder.value.startswith("clip"):
        raise ConfigError(f"{file}: txt_encoder_type is '{encoder.value}' ({encoder.source}), CLIP's own text tower, which OmniVAST does not "
                          "have; name the pretrained run with --pretrain_dir, or --txt_encoder_type bert_base_uncased")
