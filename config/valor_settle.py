"""A config of the released VALOR as a draft, and what it means once the pretrained run and the flags are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivast.config.draft import FLAG, OWN, Draft, Section, Value
from omnivast.config.fields import OBSOLETE, SECTIONS, ConfigError, json_or_text, note
from omnivast.config.flags import Assignment
from omnivast.config.inherit import say_what_flags_decide
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import is_pretraining
from omnivast.config.valor_release import DEFAULTS, INHERITED, SOURCE, UNREAD, check_fixed, read_flat


def draft_of(content: Mapping[str, Any], file: Path) -> Draft:
    """The settings of a flat config, over the release's defaults."""
    flat = read_flat(content, file)
    sections = {name: {key: Value(value, SOURCE, OWN - 1) for key, value in DEFAULTS[name].items()} for name in SECTIONS}
    draft = Draft(file, sections, flat=True)
    for name, keys in flat.sections.items():
        draft.sections[name] |= {key: Value(value, str(file), OWN) for key, value in keys.items()}
    draft.sections["model_cfg"]["inherit_keys"] = Value(INHERITED, SOURCE, OWN - 1)
    draft.datasets = {name: [{key: Value(value, str(file), OWN) for key, value in dataset.items()} for dataset in datasets]
                      for name, datasets in flat.datasets.items()}
    return draft


def check_flags(draft: Draft, flags: tuple[Assignment, ...]) -> None:
    """The flags that only the release has. Raises ConfigError for a value that there is not here, and where the config is not of the
    release's form."""
    for flag in flags:
        (name,), text = flag.path, " ".join(flag.words) or "true"
        value = {"true": True, "false": False}.get(text.lower(), json_or_text(text))
        if not draft.flat and name in OBSOLETE["run_cfg"]:
            note(f"{flag.flag} has no effect: {OBSOLETE['run_cfg'][name]}")
        elif not draft.flat:
            raise ConfigError(f"{flag.flag} is a flag of the released VALOR, understood with its own configs alone; {draft.file} has "
                              "sections (--help lists all flags)")
        elif name not in UNREAD:
            check_fixed(name, value, flag.flag)
        elif value != UNREAD[name]:
            note(f"{flag.flag} has no effect, as in the released VALOR")


def settle_flat(draft: Draft, inherited: Section) -> None:
    """What depends on other settings, now that all are known."""
    model = draft.sections["model_cfg"]
    say_what_flags_decide(draft, inherited)
    ratio = model.get("contra_loss_ratio")
    tasks = [dataset["task"].value for dataset in draft.datasets["train"] if "task" in dataset]
    if ratio is not None and ratio.level < FLAG and ratio.value != 1 and tasks and not any(map(is_pretraining, tasks)):
        note(f"{ratio.source}: contra_loss_ratio has no effect on tasks without pt_, as in the released VALOR")
        model["contra_loss_ratio"] = Value(ModelConfig.contra_loss_ratio, SOURCE, OWN)
