"""The command line: which flag sets which key, and ``--help``, both from the schema."""

from __future__ import annotations

import functools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from omnivast.config.fields import (
    LISTS,
    OBSOLETE,
    SECTIONS,
    ConfigError,
    Setting,
    accepted_keys,
    moved_keys,
    note,
    other_names,
    section_keys,
)
from omnivast.config.paths import PathError, expanded
from omnivast.config.schema import DataConfig
from omnivast.config.valor_release import OWN_KEYS
from omnivast.config.words import ALIASES, asked, did_you_mean, nearest_keys

WIDTH = 100
ANY = "*"

# Shorthands for a dataset key: (lists it applies to, key).
SHORTHANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "train_task": (("train",), "task"),
    "train_batch_size": (("train",), "batch_size"),
    "train_epoch": (("train",), "epoch"),
    "train_steps": (("train",), "steps"),
    "train_vision_sample_num": (("train",), "vision_sample_num"),
    "train_audio_sample_num": (("train",), "audio_sample_num"),
    "test_task": (("val",), "task"),
    "test_batch_size": (("val",), "batch_size"),
    "test_vision_sample_num": (("val",), "vision_sample_num"),
    "test_audio_sample_num": (("val",), "audio_sample_num"),
    "train_id": (("train",), "ids_path"),
    "test_id": (("val",), "ids_path"),
    "train_txt_mapper": (("train",), "txt"),
    "test_txt_mapper": (("val",), "txt"),
    "vision_transforms": (LISTS, "vision_transforms"),
    "n_workers": (LISTS, "n_workers"),
    "video_decoder": (LISTS, "video_decoder"),
    "audio_backend": (LISTS, "audio_backend"),
    "cache_dir": (LISTS, "cache_dir"),
}
FOR_ONE = ("train_id", "test_id", "train_txt_mapper", "test_txt_mapper")
"""Shorthands that name a file of one dataset: where the list has several, they do not say of which."""
HELP = " python run.py --help, or omnivast train --help, lists all of them."
# What is said elsewhere than by a flag of run.py.
ELSEWHERE = {
    "gpu gpus n_gpu n_gpus num_gpus nproc_per_node world_size nodes": "Several processes are started by torchrun --nproc_per_node N run.py "
                                                                      "…; --device says cpu or cuda.",
}
# Given by torch.distributed.launch to every process; the environment says the same.
LAUNCHER_FLAGS = ("local_rank", "local-rank")


@dataclass(frozen=True)
class Assignment:
    """A flag as given: the key it sets (``("data_cfg", "train", "*", "task")``) and the words after it."""

    flag: str
    path: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line; ``help`` is set by ``--help`` and ``-h``."""

    config: str
    assignments: tuple[Assignment, ...]
    help: bool = False
    of_valor: tuple[Assignment, ...] = ()
    """Flags that only the released VALOR has; its flat configs may be given with them."""


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Split argv into flags and their words; ``--flag word ...`` and ``--flag=word``. Raises ConfigError for unknown flags."""
    groups = _grouped(argv)
    if any(name in ("help", "h") for name, _ in groups):
        return CommandLine("", (), help=True)
    config: str | None = None
    assignments, of_valor = [], []
    for name, words in groups:
        if name == "config":
            if len(words) != 1:
                raise ConfigError(f"--config: expected the path of one JSON file, got {' '.join(words) or 'nothing'}")
            config = _path(words[0])
        elif name in LAUNCHER_FLAGS:
            continue
        elif name in OWN_KEYS and not _is_key(name):
            of_valor.append(Assignment(f"--{name}", (name,), tuple(words)))
        elif name in OBSOLETE["run_cfg"] and not _is_key(name):
            note(f"--{name} has no effect: {OBSOLETE['run_cfg'][name]}")
        else:
            assignments.append(Assignment(f"--{name}", target(name), tuple(words)))
    if config is None:
        raise ConfigError("--config is missing: name a JSON file, for example --config config/debug/tiny.json (--help lists all flags)")
    return CommandLine(config, tuple(assignments), of_valor=tuple(of_valor))


def _path(word: str) -> str:
    try:
        return expanded(word)
    except PathError as error:
        raise ConfigError(f"--config: {error}") from None


def _grouped(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    attached = False
    for word in argv:
        if word == "-h" or re.match(r"--[A-Za-z]", word):
            name, equals, value = word.lstrip("-").partition("=")
            groups.append((name, [value] if equals else []))
            attached = bool(equals)
        elif not groups or attached:
            raise ConfigError(f"'{word}' belongs to no flag; settings are written --name value (--help lists all flags)")
        else:
            groups[-1][1].append(word)
    return groups


def _is_key(name: str) -> bool:
    return name in SHORTHANDS or any(name in section_keys(section) for section in SECTIONS)


def target(name: str) -> tuple[str, ...]:
    """The key that a flag sets: ``learning_rate``, ``train_task``, ``model_cfg.contra_dim``, ``data_cfg.train.0.txt`` …

    Raises ConfigError that names the nearest valid flag.
    """
    first, *rest = name.split(".")
    first = next((other_names(section)[first] for section in SECTIONS if first in other_names(section)), first)
    first = shorthands_of_others().get(first, first)
    for section in SECTIONS:
        if first in section_keys(section):
            return _inside(name, (section, first, *rest))
    if first in SHORTHANDS and not rest:
        lists, key = SHORTHANDS[first]
        return ("data_cfg", lists[0] if len(lists) == 1 else ANY, ANY, key)
    if first in SECTIONS and rest and rest[0] in accepted_keys(first):
        return _inside(name, (moved_keys(first).get(rest[0], first), *rest))
    if first == "data_cfg" and rest and rest[0] in LISTS:
        if len(rest) == 1:
            return first, rest[0]
        if rest[1].isdecimal() and len(rest) == 3 and rest[2] in section_keys("data_cfg"):
            return first, *rest
    raise ConfigError(f"unknown flag --{name}.{_nearest(name)}")


@functools.cache
def shorthands_of_others() -> Mapping[str, str]:
    """Shorthands by the names that other releases have for their keys → ours: ``train_video_sample_num`` → ``train_vision_sample_num``."""
    return {flag.replace(key, other): flag for flag, (_, key) in SHORTHANDS.items()
            for other in section_keys("data_cfg")[key].metadata.get("also", ())}


def _inside(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
    section, key, *inner = path
    if inner and not section_keys(section)[key].is_dict:
        raise ConfigError(f"unknown flag --{name}: {section}.{key} is no dict and has no '{'.'.join(inner)}'. "
                          f"Did you mean '--{section}.{key}'?")
    if not all(inner):
        raise ConfigError(f"unknown flag --{name}: a name between its dots is empty")
    return path


def _nearest(name: str) -> str:
    """A question that names what may be meant, or where to read all flags."""
    dataset = re.match(r"data_cfg\.(train|val)\.(\d+)\.", name)
    if dataset:
        return asked(f"--{dataset.group()}{key}" for key in nearest_keys(name[dataset.end():], section_keys("data_cfg"))) or HELP
    if name.startswith("data_cfg"):
        return (" Datasets are set as --data_cfg.train.0.batch_size 8 (--data_cfg.val.1.task …), counted from 0; those of train are "
                "learnt from, those of val evaluated.")
    section, dot, key = name.partition(".")
    if section in SECTIONS:
        if not dot:
            return f" Its keys are flags of their own, such as --{next(iter(section_keys(section)))} (or --{section}.KEY)."
        return asked(f"--{section}.{near}" for near in nearest_keys(key, section_keys(section))) or _elsewhere(key) or HELP
    if dot:
        return did_you_mean(f"--{name}", (f"--{section}.{key}" for section in SECTIONS for key in section_keys(section))) or HELP
    for known, words in ELSEWHERE.items():
        if name in known.split():
            return f" {words}"
    return _elsewhere(name) or asked(f"--{near}" for near in nearest_keys(name, list(_all_flags()))) or HELP


def _elsewhere(name: str) -> str:
    """The flags of the keys, of any section, that are called so, or are known under this name elsewhere."""
    normal = name.lower().replace("-", "_")
    if (short := re.sub("^(val|valid|validation|eval|dev)_", "test_", normal)) in SHORTHANDS:
        return asked([f"--{short}"])
    return asked(flag for key in (normal, *ALIASES.get(normal, ())) for flag in _flags_of(*key.split()))


def _flags_of(key: str, *words: str) -> list[str]:
    """The flags that set a key of any section; none for what is no key."""
    if any(key in section_keys(section) for section in SECTIONS):
        return [" ".join((f"--{key}", *words))]
    if key not in section_keys("data_cfg"):
        return []
    short = [f"--{flag}" for flag, (_, own) in SHORTHANDS.items() if own == key and flag not in FOR_ONE]
    return short or [f"--data_cfg.{name}.0.{key}" for name in LISTS]


def _all_flags() -> Iterable[str]:
    for section in SECTIONS:
        yield from section_keys(section)
    yield from ("config", "help", *SHORTHANDS)


def help_text() -> str:
    """What ``--help`` prints: every flag with its type, default and meaning, at most 100 columns wide."""
    lines = ["usage: python run.py --config FILE.json [--flag value ...]",
             "   or: omnivast train --config FILE.json [--flag value ...]; omnivast test adds --mode testing", ""]
    lines += _wrapped("Settings come, from the weakest to the strongest, from the schema's defaults, the config's \"default\" files, "
                      "the pretrained run (model_cfg.inherit_keys), the config file itself, and flags. Lists are written "
                      "--betas 0.9 0.98 or as JSON; a bool without a value is true; null unsets what may be null. In paths, ~ and "
                      "$VARIABLES are expanded, in files too; relative ones are looked up from the working directory.", "")
    lines += ["", "General", "  --config FILE", *_wrapped("the JSON config: run_cfg, model_cfg, data_cfg", "      "), "  --help, -h",
              *_wrapped("print this and stop", "      "), "  --local_rank N, --local-rank N",
              *_wrapped("accepted from torch.distributed.launch; the launcher's environment is used", "      ")]
    for section, schema in SECTIONS.items():
        lines += ["", *_wrapped(f"{section}: {schema.__doc__} (--KEY or --{section}.KEY)", "")]
        for key, setting in section_keys(section).items():
            lines += _entry(key, setting)
    lines += ["", "Shorthands for the datasets of data_cfg"]
    for flag, (lists, key) in SHORTHANDS.items():
        where = "every dataset" if len(lists) > 1 else f"every dataset of data_cfg.{lists[0]}"
        lines += [f"  --{flag} {_type_name(section_keys('data_cfg')[key])}", *_wrapped(f"{key} of {where}{also_flag(flag)}", "      ")]
    lines += ["", *_wrapped(f"data_cfg: {DataConfig.__doc__} (--data_cfg.train.0.KEY, --data_cfg.val.0.KEY; --data_cfg.train and "
                            "--data_cfg.val alone take a whole list as JSON)", "")]
    for key, setting in section_keys("data_cfg").items():
        lines += _entry(f"data_cfg.train.N.{key}", setting)
    lines += ["", *_wrapped("Keys inside a dict are reached with dots: --model_cfg.text_encoder_cfg.hidden_size 128 (a JSON value, else "
                            "text).", "")]
    return "\n".join(lines) + "\n"


def _entry(flag: str, setting: Setting) -> list[str]:
    low, high = setting.metadata.get("minimum"), setting.metadata.get("maximum")
    bounds = (f", at least {low:g}" if low is not None else "") + (f", at most {high:g}" if high is not None else "")
    default = json.dumps(setting.default) if not isinstance(setting.default, str) else setting.default or '""'
    obsolete = setting.metadata.get("obsolete")
    text = described(setting) + (f" (obsolete: {obsolete})" if obsolete else "")
    head = textwrap.wrap(f"--{flag} {_type_name(setting)}  [default: {default}{bounds}]", WIDTH - 2, initial_indent="  ",
                         subsequent_indent="      ", break_on_hyphens=False)
    return [*head, *_wrapped(text, "      ")]


def described(setting: Setting) -> str:
    """What a setting means, and what else it is called."""
    others = setting.metadata.get("also", ())
    return setting.metadata["help"] + (f" (also: {', '.join(others)})" if others else "")


def also_flag(flag: str) -> str:
    """`` (also: --train_video_sample_num)`` for a shorthand that other releases call otherwise; "" for others."""
    others = [other for other, own in shorthands_of_others().items() if own == flag]
    return f" (also: {', '.join(f'--{other}' for other in others)})" if others else ""


def _type_name(setting: Setting) -> str:
    if setting.choices:
        return "{" + ",".join(setting.choices) + "}"
    if setting.element is not None:
        return f"{setting.element.__name__} ..."
    return "JSON" if setting.is_dict else setting.type.__name__


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - 2, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
