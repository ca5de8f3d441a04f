"""From the schema's annotations to checked values: what each key accepts, in JSON and on the command line."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from omnivast.config.paths import PathError, expanded
from omnivast.config.schema import DatasetConfig, ModelConfig, RunConfig
from omnivast.config.words import did_you_mean

SECTIONS: dict[str, type] = {"run_cfg": RunConfig, "model_cfg": ModelConfig}
LISTS = ("train", "val")

_LAUNCHER = "the launcher's environment (torchrun) decides"
# Keys of released and related configs that are understood, and have no effect here: what takes their place.
OBSOLETE: dict[str, dict[str, str]] = {
    "run_cfg": {
        "amp": "precision decides",
        "huggingface_trainer": "there is one training loop",
        "local_rank": _LAUNCHER,
        "master_port": _LAUNCHER,
        "node_rank": _LAUNCHER,
        "nproc_per_node": _LAUNCHER,
        "num_nodes": _LAUNCHER,
        "trainer_type": "there is one training loop",
        "use_flash_attn": "torch chooses the fastest attention",
        "vision_resolution": "model_cfg.vision_resolution decides",
    },
    "model_cfg": {
        "evaluation_type": "the task of each dataset decides what is evaluated",
        "use_flash_attn": "torch chooses the fastest attention",
    },
    "data_cfg": {
        "answer_candidate": "answers are written freely",
        "concatenated_nums": "clips are never concatenated",
        "datatype": "vision_format says what the vision folder holds",
        "make_submission": "the answers are always written to results/, with their question ids",
        "prompt": "the task decides which sentence stands beside texts",
        "speech": "subtitles are read from annotations of type annoindexed and srcindexed",
        "multi_evaluation": "every dataset of data_cfg.val is evaluated",
        "vqa_anno_file": "answers are scored against those of txt",
        "vqa_question_file": "questions are those of txt",
    },
}


class ConfigError(ValueError):
    """A config file, flag or combination that cannot be used; the message names the place and the nearest valid choice."""


@dataclass(frozen=True)
class Setting:
    """One key of a section: its type without ``None``, whether it may be null, its default and the schema's metadata."""

    name: str
    type: Any
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal; empty for other types."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def is_dict(self) -> bool:
        return typing.get_origin(self.type) is dict

    @property
    def element(self) -> Any:
        """The element type of a list, else None."""
        return typing.get_args(self.type)[0] if typing.get_origin(self.type) is list else None

    def describe(self) -> str:
        """The type in words: ``int``, ``true or false``, ``list of float``, ``one of av, decord``; ``or null`` where that is allowed."""
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        elif self.element is not None:
            words = f"list of {self.element.__name__}"
        else:
            words = "dict" if self.is_dict else "true or false" if self.type is bool else self.type.__name__
        return words + " or null" if self.optional else words


@functools.cache
def settings_of(section: type) -> Mapping[str, Setting]:
    """Every key of a schema dataclass, in the order written."""
    hints = typing.get_type_hints(section)
    found = {}
    for item in dataclasses.fields(section):
        kind, optional = _without_none(hints[item.name])
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        found[item.name] = Setting(item.name, kind, optional, default, item.metadata)
    return types.MappingProxyType(found)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        return kinds[0], len(kinds) < len(typing.get_args(annotation))
    return annotation, False


def section_keys(name: str) -> Mapping[str, Setting]:
    """The keys of ``run_cfg``, ``model_cfg``, or, for any other name, of a dataset in ``data_cfg``."""
    return settings_of(SECTIONS.get(name, DatasetConfig))


@functools.cache
def moved_keys(name: str) -> Mapping[str, str]:
    """Keys that older configs have in this section → the section that they stand in now."""
    return {key: home for home in SECTIONS for key, setting in section_keys(home).items() if setting.metadata.get("was_in") == name}


def accepted_keys(name: str) -> Mapping[str, Setting]:
    """The keys of a section, and those that older configs have in it."""
    return {**section_keys(name), **{key: section_keys(home)[key] for key, home in moved_keys(name).items()}}


@functools.cache
def other_names(name: str) -> Mapping[str, str]:
    """Names under which other releases have keys of a section → the keys."""
    return {other: key for key, setting in section_keys(name).items() for other in setting.metadata.get("also", ())}


def show(value: Any) -> str:
    """A value as messages quote it: ``'abc' (str)``, ``null``, ``true (bool)``."""
    if value is None:
        return "null"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def check_value(value: Any, setting: Setting, where: str) -> Any:
    """A JSON value as the schema types it (an int becomes a float where a float is meant, ``""`` null where null is allowed, a path whole).

    Raises ConfigError, beginning with ``where``, for another type, a value out of range or an unknown choice.
    """
    if any(value == unset and type(value) is type(unset) for unset in setting.metadata.get("unset", ())):
        return setting.default
    if setting.optional and (value is None or value == ""):
        return None
    if isinstance(value, str):
        value = setting.metadata.get("spelt", {}).get(value, value)
    if setting.choices:
        if value not in setting.choices:
            hint = did_you_mean(value, setting.choices) if isinstance(value, str) else ""
            raise ConfigError(f"{where}: expected {setting.describe()}, got {show(value)}.{hint}")
        return value
    if setting.element is not None:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected {setting.describe()}, got {show(value)}")
        found = [_scalar(v, setting.element, setting.element.__name__, f"{where}[{i}]") for i, v in enumerate(value)]
        return [_path(v, f"{where}[{i}]") for i, v in enumerate(found)] if setting.metadata.get("path") else found
    if setting.is_dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected {setting.describe()}, got {show(value)}")
        return dict(value)
    value = _in_range(_scalar(value, setting.type, setting.describe(), where), setting, where)
    return _path(value, where) if setting.metadata.get("path") else value


def _path(value: str, where: str) -> str:
    try:
        return expanded(value)
    except PathError as error:
        raise ConfigError(f"{where}: {error}") from None


def _scalar(value: Any, kind: Any, words: str, where: str) -> Any:
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError(f"{where}: expected {words}, got a number too large for one") from None
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {words}, got {show(value)}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value}")
    return value


def _in_range(value: Any, setting: Setting, where: str) -> Any:
    low, high = setting.metadata.get("minimum"), setting.metadata.get("maximum")
    if low is not None and value < low:
        raise ConfigError(f"{where}: expected {setting.describe()} of at least {low:g}, got {value}")
    if high is not None and value > high:
        raise ConfigError(f"{where}: expected {setting.describe()} of at most {high:g}, got {value}")
    return value


def parse_tokens(tokens: Sequence[str], setting: Setting, where: str) -> Any:
    """The words after a flag as the schema types them. No word at all means true, for a bool."""
    if not tokens:
        if setting.type is bool:
            return True
        raise ConfigError(f"{where}: needs a value ({setting.describe()})")
    if setting.element is not None:
        return check_value(_list_of(tokens, setting), setting, where)
    if len(tokens) > 1:
        raise ConfigError(f"{where}: expected one value ({setting.describe()}), got {len(tokens)}: {' '.join(tokens)}")
    text = tokens[0]
    if setting.optional and text.lower() in ("null", "none"):
        return None
    if setting.is_dict:
        return check_value(json_or_text(text), setting, where)
    return check_value(_typed(text, setting.type), setting, where)


def _list_of(tokens: Sequence[str], setting: Setting) -> list[Any]:
    if len(tokens) == 1 and tokens[0].lstrip().startswith("["):
        whole = json_or_text(tokens[0])
        if isinstance(whole, list):
            return whole
    return [_typed(token, setting.element) for token in tokens]


def _typed(text: str, kind: Any) -> Any:
    """The text as ``kind`` where it reads as one; else unchanged, for check_value to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def json_or_text(text: str) -> Any:
    """A flag's word for a free-form key: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def note(message: str) -> None:
    """Log one line about a setting that was understood and has no effect, on the first process only."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("omnivast").warning(message)
