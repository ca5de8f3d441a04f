"""Configs as plain dicts, their hash, and what differs between two: for hps.json and for resuming safely."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omnivast.config.extras import import_extra
from omnivast.config.fields import LISTS, SECTIONS, section_keys
from omnivast.config.schema import Config, completed

OLDER_PRECISION = ("bf16", "fp16")


def resolved(config: Config) -> dict[str, Any]:
    """The whole config as JSON-able dicts in the released structure; loading it again as ``--config`` gives the same config."""
    plain = dataclasses.asdict(dataclasses.replace(config, model_cfg=completed(config.model_cfg)))
    plain["data_cfg"] = {name: list(plain["data_cfg"][name]) for name in LISTS}
    for name in SECTIONS:
        keys = section_keys(name)
        plain[name] = {key: value for key, value in plain[name].items() if not keys[key].metadata.keys() & {"obsolete", "older"}}
    return plain


def as_released(config: Config) -> Any:
    """The whole config as an EasyDict, whose values are attributes and keys, for scripts written against the release.

    It has ``fp16`` and ``bf16``, true where ``precision`` names them (with auto neither: the machine decides when the program runs), and
    ``use_ddp``. Raises ImportError where easydict is not installed.
    """
    easydict = import_extra("easydict")
    plain = resolved(config)
    for name in SECTIONS:  # where the release has the settings that moved
        for key, setting in section_keys(name).items():
            if (before := setting.metadata.get("was_in")) is not None:
                plain[before][key] = plain[name][key]
    run = plain["run_cfg"] | {name: config.run_cfg.precision == name for name in OLDER_PRECISION} | {"use_ddp": config.run_cfg.use_ddp}
    return easydict.EasyDict(plain | {"run_cfg": run})


def config_hash(config: Config | Mapping[str, Any]) -> str:
    """sha256 over what decides the training; the config may be a dict read back from hps.json.

    Folders, logging, evaluation, workers and the start weights do not count.
    """
    deciding = _deciding(config)
    # Under its older names: hashes of runs from before the setting stay what they were.
    precision = deciding["run_cfg"].pop("precision")
    deciding["run_cfg"] |= {name: precision == name for name in OLDER_PRECISION}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def precision_of(run_cfg: Mapping[str, Any]) -> str:
    """The precision that a run_cfg of hps.json or of a checkpoint names, which may be from before that setting."""
    older = {name: run_cfg[name] for name in OLDER_PRECISION if name in run_cfg}
    implied = next((name for name, on in older.items() if on), "float32") if older else section_keys("run_cfg")["precision"].default
    return run_cfg.get("precision", implied)


def diff(before: Config | Mapping[str, Any], after: Config | Mapping[str, Any]) -> list[str]:
    """One line for each setting that decides the training and differs: ``run_cfg.seed: 1, now 2``. Empty: the hashes agree."""
    old, new = _flat(_deciding(before), ""), _flat(_deciding(after), "")
    return [f"{key}: {_text(old, key)}, now {_text(new, key)}" for key in dict.fromkeys([*old, *new])
            if old.get(key, ...) != new.get(key, ...)]


def same_but_for_length(before: Config | Mapping[str, Any], after: Config | Mapping[str, Any]) -> bool:
    """Whether two configs describe the same training but for how many steps it takes."""
    return _without_length(_deciding(before)) == _without_length(_deciding(after))


def _without_length(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_length(inner) for key, inner in value.items() if key not in _length_keys()}
    return [_without_length(inner) for inner in value] if isinstance(value, list) else value


@functools.cache
def keys_without_say(section: str) -> frozenset[str]:
    """Keys of a section (``data_cfg``: of a dataset) that have no say in what given weights find of a clip."""
    return frozenset(key for key, setting in section_keys(section).items()
                     if setting.metadata.get("decides", True) is False or setting.metadata.keys() & {"training_only", "length"})


@functools.cache
def passive_keys(section: str) -> frozenset[str]:
    """Keys of a section on which no number depends: folders, saving, logging, threads."""
    return frozenset(key for key, setting in section_keys(section).items() if setting.metadata.get("passive"))


@functools.cache
def _length_keys() -> frozenset[str]:
    return frozenset(key for name in (*SECTIONS, "data_cfg") for key, setting in section_keys(name).items()
                     if setting.metadata.get("length"))


def _deciding(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the training, in the config's structure."""
    whole = resolved(config) if isinstance(config, Config) else config
    datasets = (whole.get("data_cfg") or {}).get("train") or []
    return {**{name: _deciding_of(whole.get(name) or {}, name) for name in SECTIONS},
            "data_cfg": {"train": [_deciding_of(dataset, "data_cfg") for dataset in datasets]}}


def _deciding_of(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    filled = _filled(section, name)

    def decides(key: str) -> bool:
        setting = section_keys(name)[key]
        if "newer" in setting.metadata and filled[key] == setting.default:
            return False
        decides = setting.metadata.get("decides", True)
        return filled[decides[0]] == decides[1] if isinstance(decides, tuple) else decides

    return {key: value for key, value in filled.items() if decides(key)}


def _filled(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section with defaults for keys that the run's version did not have yet."""
    filled = {key: section.get(key, setting.default) for key, setting in section_keys(name).items()}
    return {**filled, "precision": precision_of(section)} if name == "run_cfg" else filled


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else key, v) for key, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        items = [(f"{prefix}[{i}]", v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    return {key: v for prefix_, inner in items for key, v in _flat(inner, prefix_).items()}


def _text(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"
