"""Configs as plain dicts, their hash, and what differs between two: for hps.json and for resuming safely."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omnivast.config.fields import LISTS, SECTIONS, section_keys
from omnivast.config.schema import Config

# Of run_cfg, what changes the mathematics. Where the weights start is not among it: a resumed run does not read that again.
DECIDING_RUN_KEYS = ("seed", "learning_rate", "clip_lr", "new_lr", "new_params_name", "optim", "betas", "weight_decay", "grad_norm",
                     "scheduler", "warmup_ratio", "gradient_accumulation_steps", "num_train_steps", "precision", "gather_with_grad",
                     "dataset_mix_type")
OLDER_PRECISION = ("bf16", "fp16")
SCST_KEYS = ("scst_finetuning", "scst_candidates", "scst_search", "scst_baseline")
# Of model_cfg and the training datasets, what does not change the training.
PASSIVE_MODEL_KEYS = ("pretrained", "checkpointing", "beam_size", "captioner_mode", "generate_nums", "generate_by",
                      "itm_rerank_num", "ret_bidirection_evaluation", "dual_softmax_evaluation", "ret_shared_texts", "ret_features_dir",
                      "rerank_memory_gb", "java_metrics_seconds", "inherit_keys")
# How long a run is, which a resumed one may extend.
LENGTH_KEYS = ("num_train_steps", "steps", "epoch")
SHARD_KEYS = ("shards", "shuffle_shards")
PASSIVE_DATASET_KEYS = ("training", "n_workers", "annfile", "cache_dir")


def resolved(config: Config) -> dict[str, Any]:
    """The whole config as JSON-able dicts in the released structure; loading it again as ``--config`` gives the same config."""
    plain = dataclasses.asdict(config)
    plain["data_cfg"] = {name: list(plain["data_cfg"][name]) for name in LISTS}
    for name in SECTIONS:
        keys = section_keys(name)
        plain[name] = {key: value for key, value in plain[name].items() if not keys[key].metadata.keys() & {"obsolete", "older"}}
    return plain


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
        return {key: _without_length(inner) for key, inner in value.items() if key not in LENGTH_KEYS}
    return [_without_length(inner) for inner in value] if isinstance(value, list) else value


def _deciding(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    whole = resolved(config) if isinstance(config, Config) else config
    sections = {name: _filled(whole.get(name) or {}, name) for name in SECTIONS}
    datasets = [_filled(d, "data_cfg") for d in (whole.get("data_cfg") or {}).get("train") or []]
    scst = SCST_KEYS if sections["run_cfg"]["scst_finetuning"] else ()
    return {"run_cfg": {key: sections["run_cfg"][key] for key in (*DECIDING_RUN_KEYS, *scst)},
            "model_cfg": {key: v for key, v in sections["model_cfg"].items() if key not in PASSIVE_MODEL_KEYS and not _as_before(key, v)},
            "data_cfg": {"train": [_deciding_of(dataset) for dataset in datasets]}}


def _as_before(key: str, value: Any) -> bool:
    """Whether a newer setting of model_cfg says what was done before there was one."""
    setting = section_keys("model_cfg").get(key)
    return setting is not None and "newer" in setting.metadata and value == setting.default


def _deciding_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    passive = (*PASSIVE_DATASET_KEYS, *(SHARD_KEYS if dataset["type"] == "annoindexed" else ()))
    return {key: value for key, value in dataset.items() if key not in passive}


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
