"""JSON → ``default`` chain → pretrained ``inherit_keys`` → flags → a validated, frozen Config.

Every value travels with where it came from and how strong that place is, so that messages name the file or flag, and so
that of two settings that exclude each other (precision and its older names, steps and epoch) the stronger one holds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from omnivast.config.checks import check
from omnivast.config.compare import OLDER_PRECISION, as_released, config_hash, diff, resolved
from omnivast.config.draft import FLAG, OWN, Draft, Section, Value
from omnivast.config.fields import (
    LISTS,
    OBSOLETE,
    SECTIONS,
    ConfigError,
    Setting,
    accepted_keys,
    check_value,
    json_or_text,
    moved_keys,
    note,
    parse_tokens,
    section_keys,
    show,
)
from omnivast.config.files import find_config, layers, read_config
from omnivast.config.flags import ANY, FOR_ONE, HELP, Assignment, help_text, read_command_line
from omnivast.config.inherit import inherit
from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig, completed
from omnivast.config.tasks import Task, TaskError, as_valor_writes
from omnivast.config.valor_release import is_flat
from omnivast.config.valor_settle import check_flags, draft_of, settle_flat
from omnivast.config.words import ALIASES, asked, did_you_mean, nearest_keys

__all__ = ["ConfigError", "config_hash", "diff", "load_config", "resolved"]

@overload
def load_config(argv: Sequence[str] | Path, as_easydict: Literal[False] = False) -> Config: ...
@overload
def load_config(argv: Sequence[str] | Path, as_easydict: Literal[True]) -> Any: ...
def load_config(argv: Sequence[str] | Path, as_easydict: bool = False) -> Any:
    """The config that a command line describes. A run's ``log/hps.json`` is a config like any other.

    Args:
        argv: the words after the program's name: ``["--config", "config/debug/tiny.json", "--seed", "1"]``; or, where there are no
            flags, the path of the config alone. What is not there is looked up among OmniVAST's own configs.
        as_easydict: an EasyDict of run_cfg, model_cfg and data_cfg, as scripts written against the released VAST take it, instead of a
            frozen Config.
    Raises:
        ImportError: as_easydict, where easydict is not installed.
        ConfigError: with one message that names the file or flag, what was expected, and the nearest valid choice.
        SystemExit: with code 0, after writing the help to standard output, for ``--help``.
    """
    command = read_command_line(["--config", str(argv)] if isinstance(argv, str | Path) else argv)
    if command.help:
        try:
            sys.stdout.write(help_text())
            sys.stdout.flush()
        except BrokenPipeError:  # a reader that has seen enough, such as `head`; nothing more is to be written at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)
    draft = _read_file(find_config(command.config))
    early = [a for a in command.assignments if a.path[0] == "run_cfg" or a.path[:2] == ("model_cfg", "inherit_keys")]
    late = [a for a in command.assignments if a not in early]
    for assignment in early:
        _assign(draft, assignment)
    inherited = inherit(draft)
    # A whole list first, so that the flags for single keys of its datasets land on it.
    for assignment in sorted(late, key=lambda a: a.path[0] != "data_cfg" or len(a.path) > 2):
        _assign(draft, assignment)
    check_flags(draft, command.of_valor)
    if draft.flat:
        settle_flat(draft, inherited)
    _settle(draft)
    config = _with_open_settings(_build(draft))
    check(config, draft.file)
    return as_released(config) if as_easydict else config


def _read_file(file: Path) -> Draft:
    content = read_config(file, " (named by --config)")
    if is_flat(content):
        return draft_of(content, file)
    draft = Draft(file, {name: {} for name in SECTIONS})
    for key in content:
        if key in ("local_rank", "local-rank"):
            note(f"{file}: '{key}' has no effect: {OBSOLETE['run_cfg']['local_rank']}")
        elif key not in (*SECTIONS, "data_cfg"):
            hint = _other_home(key, "") or did_you_mean(key, (*SECTIONS, "data_cfg"))
            raise ConfigError(f"{file}: unknown section '{key}'; a config has run_cfg, model_cfg and data_cfg.{hint}")
    for name in SECTIONS:
        own = _object(content.get(name, {}), f"{file}: {name}")
        for depth, (source, keys) in enumerate(layers(name, own, file)):
            for key, value in _checked(name, keys, str(source), name).items():
                home = moved_keys(name).get(key, name)
                _add(draft.sections[home], key, Value(value, str(source), OWN - depth), f"{home}.{key}", f"{name}.{key}")
    data = _object(content.get("data_cfg", {}), f"{file}: data_cfg")
    for key, value in data.items():
        if key in OBSOLETE["data_cfg"]:
            note(f"{file}: data_cfg.{key} has no effect: {OBSOLETE['data_cfg'][key]}")
            continue
        if key not in LISTS:
            raise ConfigError(f"{file}: unknown key 'data_cfg.{key}'; data_cfg has train and val, each a list of datasets."
                              f"{did_you_mean(key, LISTS)}")
        draft.datasets[key] = _dataset_list(value, key, str(file), OWN)
    return draft


def _add(section: Section, key: str, entry: Value, spelt: str, as_written: str) -> None:
    """Take a setting, unless a stronger place has it. Raises ConfigError where its older spelling says something else."""
    there = section.get(key)
    if there is None or there.level < entry.level:
        section[key] = entry
    elif spelt != as_written and there.level == entry.level and there.value != entry.value:
        raise ConfigError(f"{entry.source}: {as_written} is {show(entry.value)}, but {spelt} is {show(there.value)} ({there.source}); "
                          f"{as_written} is the older spelling of {spelt}: keep one")


def _dataset_list(value: Any, name: str, source: str, level: float) -> list[Section]:
    where = f"data_cfg.{name}"
    # The released captioner configs write an empty list as {}.
    if value is None or value == {}:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{source}: {where}: expected a list of datasets, got {show(value)}")
    found = []
    for index, keys in enumerate(value):
        place = f"{where}[{index}]"
        if isinstance(keys, dict) and "default" in keys:
            raise ConfigError(f"{source}: {place}.default: a dataset has no default file; write its keys here")
        checked = _checked("data_cfg", _object(keys, f"{source}: {place}"), source, place)
        found.append({key: Value(v, source, level) for key, v in checked.items()})
    return found


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object of keys and values, got {show(value)}")
    return value


def _checked(section: str, keys: dict[str, Any], source: str, place: str) -> dict[str, Any]:
    """The section's keys with checked values; obsolete ones are noted, unknown ones refused."""
    known = accepted_keys(section)
    found = {}
    for key, value in keys.items():
        if key in known:
            found[key] = check_value(value, known[key], f"{source}: {place}.{key}")
            if "obsolete" in known[key].metadata:
                note(f"{source}: {place}.{key} has no effect: {known[key].metadata['obsolete']}")
        elif key in OBSOLETE[section]:
            note(f"{source}: {place}.{key} has no effect: {OBSOLETE[section][key]}")
        else:
            hint = _other_home(key, section) or asked(nearest_keys(key, known)) or _other_name(key, section) or HELP
            raise ConfigError(f"{source}: unknown key '{key}' in {place}.{hint}")
    return found


def _other_name(key: str, section: str) -> str:
    """Where what is meant by a name of other programs stands, if not in this section."""
    return next((f"{asked([own])}{home}" for own in ALIASES.get(key.lower(), ()) if (home := _other_home(own, section))), "")


def _other_home(key: str, section: str) -> str:
    homes = [name for name in (*SECTIONS, "data_cfg") if name != section and key in section_keys(name)]
    if not homes:
        return ""
    return f" It belongs in {homes[0]}." if homes[0] != "data_cfg" else " It belongs in a dataset of data_cfg.train or data_cfg.val."


def _assign(draft: Draft, assignment: Assignment) -> None:
    """Carry one flag into the draft."""
    first, *rest = assignment.path
    if first in SECTIONS:
        section = draft.sections[first]
        setting = section_keys(first)[rest[0]]
        if "obsolete" in setting.metadata:
            note(f"{assignment.flag} has no effect: {setting.metadata['obsolete']}")
        value = _inner(section, setting, rest[1:], assignment) if rest[1:] else parse_tokens(assignment.words, setting, assignment.flag)
        section[setting.name] = Value(value, assignment.flag, FLAG)
        return
    if len(rest) == 1:
        content = json_or_text(" ".join(assignment.words))
        draft.datasets[rest[0]] = _dataset_list(content, rest[0], assignment.flag, FLAG)
        return
    which, index, key = rest
    if index == ANY and _says_nothing(assignment.words, section_keys("data_cfg")[key]):
        return
    value = parse_tokens(assignment.words, section_keys("data_cfg")[key], assignment.flag)
    if key == "task":
        try:
            Task.parse(as_valor_writes(value))  # whose model may not be known yet
        except TaskError as error:
            raise ConfigError(f"{assignment.flag}: {error}") from None
    chosen = _chosen(draft, which, index, assignment.flag)
    if assignment.flag.removeprefix("--") in FOR_ONE and len(chosen) > 1:
        raise ConfigError(f"{assignment.flag}: data_cfg.{which} of {draft.file} has {len(chosen)} datasets, and it does not say of which; "
                          f"write --data_cfg.{which}.0.{key}")
    for dataset in chosen:
        dataset[key] = Value(value, assignment.flag, FLAG)


def _says_nothing(words: Sequence[str], setting: Setting) -> bool:
    """Whether a shorthand leaves what the config says, as the release's scripts write it: -1 for a number, an empty text."""
    low = setting.metadata.get("minimum")
    return list(words) == [""] or (list(words) == ["-1"] and low is not None and low > -1)


def _inner(section: Section, setting: Setting, path: Sequence[str], assignment: Assignment) -> dict[str, Any]:
    """The dict setting with the value at ``path`` replaced; dicts on the way are copied."""
    if not assignment.words:
        raise ConfigError(f"{assignment.flag}: needs a value (JSON, or text)")
    values = [json_or_text(word) for word in assignment.words]
    whole = dict(section[setting.name].value if setting.name in section else setting.default)
    inner = whole
    for key in path[:-1]:
        below = inner.get(key, {})
        inner[key] = dict(below) if isinstance(below, dict) else {}
        inner = inner[key]
    inner[path[-1]] = values[0] if len(values) == 1 else values
    return whole


def _chosen(draft: Draft, which: str, index: str, flag: str) -> list[Section]:
    names = LISTS if which == ANY else (which,)
    datasets = [d for name in names for d in draft.datasets[name]]
    if index == ANY:
        if not datasets:
            raise ConfigError(f"{flag}: {draft.file} has no datasets in {' or '.join(f'data_cfg.{name}' for name in names)}")
        return datasets
    if int(index) >= len(datasets):
        raise ConfigError(f"{flag}: data_cfg.{which} of {draft.file} has {len(datasets)} dataset(s), counted from 0")
    return [datasets[int(index)]]


def _settle(draft: Draft) -> None:
    """Where two settings exclude each other, keep the one from the stronger source. Those of equal strength are left for the checks."""
    run = draft.sections["run_cfg"]
    _settle_precision(run, draft.file)
    asked, device = run.get("precision"), run.get("device")
    if asked and device and (asked.value, device.value) == ("fp16", "cpu") and device.level > asked.level:
        note(f"{device.source}: device cpu has no fp16, so the precision of {asked.source} is float32 (auto takes bf16 where a CPU has it)")
        run["precision"] = dataclasses.replace(asked, value="float32")
    for datasets in draft.datasets.values():
        for dataset in datasets:
            if _on(dataset, "epoch") and _on(dataset, "steps"):
                _drop_weaker(dataset, "epoch", "steps", None)
            kind = dataset.get("vision_format")
            if kind is not None and kind.value == "image_rawimage" and not _on(dataset, "vision_sample_num"):
                dataset["vision_sample_num"] = dataclasses.replace(kind, value=1)


def _settle_precision(run: Section, file: Path) -> None:
    """bf16 and fp16 are older names of ``precision``: of the three, what the strongest place says becomes the precision.

    One that is false rules itself out: it makes a weaker ``auto`` float32. Raises ConfigError for two that contradict each other.
    """
    older = {name: run.pop(name) for name in OLDER_PRECISION if name in run and run[name].value is not None}
    said = [dataclasses.replace(entry, value=name) for name, entry in older.items() if entry.value]
    said += [run["precision"]] if "precision" in run else []
    strongest = [entry for entry in said if entry.level == max(e.level for e in said)]
    definite = [entry for entry in strongest if entry.value != "auto"] or strongest
    if len({entry.value for entry in definite}) > 1:
        one, other = definite[:2]
        what = (f"run_cfg.precision is {other.value}, but run_cfg.{one.value} is true" if other is run.get("precision")
                else "run_cfg.bf16 and run_cfg.fp16 are both true")
        raise ConfigError(f"{file}: {what}; choose one: precision auto takes bf16, fp16 or float32 by what the machine computes")
    chosen = definite[0] if definite else None
    against = [entry for name, entry in older.items() if not entry.value and (chosen is None or chosen.value in ("auto", name))]
    ruled_out = max(against, key=lambda entry: entry.level, default=None)
    if ruled_out and (chosen is None or ruled_out.level > chosen.level):
        chosen = dataclasses.replace(ruled_out, value="float32")
    if chosen:
        run["precision"] = chosen


def _on(section: Section, key: str) -> bool:
    return key in section and section[key].value is not None and section[key].value is not False


def _drop_weaker(section: Section, one: str, other: str, off: Any) -> None:
    weaker, stronger = sorted((one, other), key=lambda key: section[key].level)
    if section[weaker].level < section[stronger].level:
        section[weaker] = dataclasses.replace(section[weaker], value=off)


def _build(draft: Draft) -> Config:
    def plain(section: Section) -> dict[str, Any]:
        return {key: _copy(entry.value) for key, entry in section.items()}

    lists = {name: tuple(DatasetConfig(**plain(d)) for d in draft.datasets[name]) for name in LISTS}
    return Config(RunConfig(**plain(draft.sections["run_cfg"])), ModelConfig(**plain(draft.sections["model_cfg"])), DataConfig(**lists))


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _with_open_settings(config: Config) -> Config:
    """What the config leaves open: defaults of the model's family; sizes of the learnt frame and clip embeddings, which are the training
    corpora's largest counts."""
    changes: dict[str, Any] = {}
    for kind in ("vision", "audio"):
        if getattr(config.model_cfg, f"max_{kind}_sample_num") is None:
            largest = [max((getattr(d, f"{kind}_sample_num") or 0 for d in getattr(config.data_cfg, name)), default=0) for name in LISTS]
            changes[f"max_{kind}_sample_num"] = largest[0] or largest[1] or 1
    model = completed(dataclasses.replace(config.model_cfg, **changes))
    return dataclasses.replace(config, model_cfg=model, data_cfg=_in_valor_words(config.data_cfg) if model.model_type == "valor"
                               else config.data_cfg)


def _in_valor_words(data: DataConfig) -> DataConfig:
    """Tasks with the names of VALOR's release for groups of the contrast as ours, which is said where they mean something else."""
    lists = {}
    for name in LISTS:
        lists[name] = tuple(dataclasses.replace(dataset, task=as_valor_writes(dataset.task)) for dataset in getattr(data, name))
        for before, after in zip(getattr(data, name), lists[name]):
            if "-" in after.task and before.task != after.task:
                note(f"data_cfg.{name} '{before.name}': the groups of task '{before.task}' are those of VALOR's release: {after.task}")
    return DataConfig(**lists)
