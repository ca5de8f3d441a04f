"""What a run takes from the one that it starts from: ``log/hps.json`` of ``pretrain_dir``, ours or the released VALOR's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivast.config.draft import INHERITED, INHERITED_OVER, OWN, Draft, Section, Value
from omnivast.config.fields import OBSOLETE, ConfigError, accepted_keys, check_value, moved_keys, note, section_keys, show
from omnivast.config.files import read_config
from omnivast.config.tasks import as_valor_writes
from omnivast.config.valor_release import DEFAULTS, is_flat, read_flat
from omnivast.config.words import asked, nearest_keys


def inherit(draft: Draft) -> Section:
    """Take ``inherit_keys`` from the pretrained run, for keys set neither by a flag nor in the config's own model_cfg; where the config is
    the released VALOR's, also for those that it sets, as the release does. Returns what the pretrained run has of them."""
    wanted, folder = draft.sections["model_cfg"].get("inherit_keys"), draft.sections["run_cfg"].get("pretrain_dir")
    if wanted is None:
        return {}
    known = accepted_keys("model_cfg")
    for key in wanted.value:
        if key in OBSOLETE["model_cfg"]:
            note(f"{wanted.source}: model_cfg.inherit_keys: '{key}' has no effect: {OBSOLETE['model_cfg'][key]}")
        elif key not in known:
            raise ConfigError(f"{wanted.source}: model_cfg.inherit_keys: unknown key '{key}'.{asked(nearest_keys(key, known))}")
    if folder is None or folder.value is None or not wanted.value:
        return {}
    file = Path(folder.value) / "log" / "hps.json"
    content = read_config(file, f"; model_cfg.inherit_keys are read from it, because pretrain_dir is set ({folder.source})")
    sections = _by_sections(content, file)
    level = INHERITED_OVER if draft.flat else INHERITED
    theirs = {key: Value(value, str(file), level) for key in wanted.value if key in known
              for value in _values(sections, key, file)}
    for key, value in theirs.items():
        ours = draft.sections[moved_keys("model_cfg").get(key, "model_cfg")]
        before = ours.get(key)
        if before is None or before.level <= level:
            _say(key, before, value)
            ours[key] = value
    return theirs


def trained_counts(pretrain_dir: str) -> dict[str, int]:
    """How many frames ("vision") and slices of sound ("audio") of a clip a run was trained with, at most; {} where it does not say."""
    file = Path(pretrain_dir) / "log" / "hps.json"
    if not file.is_file():
        return {}
    content = read_config(file)
    names = {"vision": "video_sample_num", "audio": "audio_sample_num"}
    if not is_flat(content):
        content, names = content.get("model_cfg") or {}, {word: f"max_{word}_sample_num" for word in names}
    return {word: content[name] for word, name in names.items() if type(content.get(name)) is int and content[name] > 0}


def trained_datasets(run: Path) -> list[dict[str, Any]]:
    """The training datasets of a run's ``log/hps.json``, by our names. Raises ConfigError."""
    file = run / "log" / "hps.json"
    content = read_config(file)
    if is_flat(content):
        return [{**dataset, "task": as_valor_writes(dataset.get("task", ""))}
                for dataset in read_flat(content, file, strict=False).datasets["train"]]
    datasets = (content.get("data_cfg") or {}).get("train") or ()
    return [dataset for dataset in datasets if isinstance(dataset, dict)]


def _by_sections(content: dict[str, Any], file: Path) -> Mapping[str, Any]:
    """The sections of hps.json. The release's lists all settings of a run: what it lacks was left at its default."""
    if is_flat(content):
        return {name: DEFAULTS[name] | keys for name, keys in read_flat(content, file, strict=False).sections.items()}
    if not isinstance(content.get("model_cfg"), dict):
        raise ConfigError(f"{file}: has no model_cfg to inherit from")
    return content


def _values(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    """[the checked value] of a key of model_cfg; [] where the file does not have it. Other releases call some otherwise, and older runs
    have some settings of run_cfg in model_cfg."""
    setting, home = accepted_keys("model_cfg")[key], moved_keys("model_cfg").get(key, "model_cfg")
    places = [(section, name) for section in dict.fromkeys((home, "model_cfg")) for name in (key, *setting.metadata.get("also", ()))]
    found = next(((section, name) for section, name in places if name in (content.get(section) or {})), None)
    return [] if found is None else [check_value(content[found[0]][found[1]], setting, f"{file}: {'.'.join(found)}")]


def _say(key: str, before: Value | None, value: Value) -> None:
    """One line where the pretrained run stands over what the config itself says."""
    if before is not None and OWN <= before.level < value.level and before.value != value.value:
        note(f"{key} is {show(value.value)}, as the pretrained run has it ({value.source}), not {show(before.value)} ({before.source}); "
             f"--{key} decides otherwise")


def say_what_flags_decide(draft: Draft, inherited: Section) -> None:
    """One line for each flag that says something else than the pretrained run; the release would not listen to it."""
    for key, theirs in inherited.items():
        ours = draft.sections["model_cfg" if key in section_keys("model_cfg") else "run_cfg"][key]
        if ours.level > theirs.level and ours.value != theirs.value:
            note(f"{ours.source}: {key} is {show(ours.value)}, although the pretrained run has {show(theirs.value)} ({theirs.source}); the "
                 "released VALOR would take that of the run")
