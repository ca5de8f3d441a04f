"""Configs of the released VALOR: flat JSON files, whose settings stand beside ``data_cfg``, as sections and datasets of ours.

    {"video_resolution": 224, …, "data_cfg": {"train": [{"datasets": [{"name", "ids_path", "txt", "video", "audio", "datatype"}, …],
     "task", "epoch", "batch_size", "video_sample_num", "audio_sample_num", "max_txt_len", "n_workers"}, …], "val": [both in one, …]}}

A run's ``log/hps.json`` has the same form. What a key is called here is said by the schema (``also``); this file knows the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivast.config.fields import LISTS, OBSOLETE, SECTIONS, ConfigError, accepted_keys, check_value, note, other_names, show
from omnivast.config.words import asked, nearest_keys

DEFAULTS: dict[str, dict[str, Any]] = {
    "run_cfg": {"clip_lr": 5e-7, "clip_lr_text": 5e-7, "optim": "adam", "grad_norm": 5.0, "seed": 42, "fp16": True, "first_eval": True,
                "beam_size_qa": 1},
    "model_cfg": {"model_type": "valor", "vision_encoder_type": "clip_vit_base_16", "txt_encoder_type": "clip_vit_base_16",
                  "audio_encoder_type": "ast", "audio_target_length": 512, "max_answer_len": 7},
}
"""The release's defaults where ours are others. 512 frames of a slice are its only length, whatever ``audio_target_length`` says; an answer
has 5 tokens, [CLS] and [SEP]."""
INHERITED = ["audio_melbins", "audio_target_length", "vision_encoder_type", "txt_encoder_type", "text_encoder_type", "audio_encoder_type",
             "caption_type", "share_txt_and_multimodal", "contra_type", "multimodal_use_cross_attn", "fineweight_type", "late_fusion",
             "cross_attn_type", "use_task_prompt",
             "vision_encoder_cfg", "audio_encoder_cfg", "text_encoder_cfg", "clip_text_cfg", "tokenizer", "clip_tokenizer"]
"""What a run takes from the one that it starts from, over its own config. Those of the last line, which the release does not have, are the
towers' sizes and words."""
FIXED: dict[str, Any] = {
    "audio_patch_size": 16, "audio_frame_shift": 10, "audio_mean": -4.2677393, "audio_std": 4.5689974, "frozen_multimodal": False,
    "initial_multimodal": True, "initial_vision": True, "coco_submit": False, "nocaps_submit": False, "vatex_submit": False}
"""Settings of the release of which there is one value here."""
UNREAD: dict[str, Any] = {
    "dropout": 0.1, "decoder_lr": -1, "video_token_sample_num": -1, "new_ret": False, "task_pormpt_as_text": False,
    "has_vafusion_encoder": False, "feature_pooling_type": "none", "videoswin_timestride": 1, "loss_reweight": False,
    "submit_vizwiz": False, "loss_mean": False, "use_cache": False, "sample_topk": 200, "cls_dim": 0, "video_reduction": True,
    "amp": "apex"}
"""Settings that the release has and never uses, spelt as it does, and their defaults, which are passed over in silence."""
DERIVED = ("config", "local_rank", "local-rank", "valid_steps", "num_train_steps", "video_sample_num", "audio_sample_num",
           "audio_target_length")
"""Keys of ``hps.json`` that follow from others, and the one that the release ignores."""
OWN_KEYS = (*FIXED, *UNREAD)
SIGNS = ("video_resolution", "video_encoder_type", "multimodal_encoder_type", "audio_patch_size")
SOURCE = "the released VALOR's defaults"
FORMATS = {"video": "video", "image": "image_rawimage", "audio": None}
"""``datatype`` → vision_format."""
OF_GROUP = ("task", "epoch", "batch_size", "n_workers", "video_sample_num", "audio_sample_num", "max_txt_len")
OF_DATASET = ("name", "ids_path", "txt", "video", "audio", "datatype", "video_transforms", "annfile", "test_one")


@dataclass
class Flat:
    """A flat config by our names, its values checked."""

    sections: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    datasets: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in LISTS})


def is_flat(content: Mapping[str, Any]) -> bool:
    """Whether a config's content is in the release's form: without sections, and with its datasets or its settings."""
    data = content.get("data_cfg")
    if not isinstance(data, dict) or any(name in content for name in SECTIONS):
        return False
    lists = [entries for entries in data.values() if isinstance(entries, list)]
    return any(key in content for key in SIGNS) or any(
        isinstance(entry, dict) and entry.keys() & {"datasets", "ids_path"} for entries in lists for entry in entries)


def read_flat(content: Mapping[str, Any], file: Path, strict: bool = True) -> Flat:
    """A flat config. Keys without effect are noted in one line, unless ``strict`` is false: then unknown keys, too, are passed over.

    Raises ConfigError that names the key as the file has it, and the nearest valid one.
    """
    flat = Flat()
    idle: dict[str, None] = {}
    for key, value in content.items():
        if key in ("data_cfg", *DERIVED) or value is None or value == "":
            continue
        where = f"{file}: {key}"
        if (home := home_of(key)) is not None:
            section, name = home
            flat.sections[section][name] = check_value(value, accepted_keys(section)[name], where)
        elif key in FIXED:
            check_fixed(key, value, where)
        elif key in UNREAD or any(key in keys for keys in OBSOLETE.values()):
            idle |= {} if value == UNREAD.get(key) else {key: None}
        elif strict:
            known = [*OWN_KEYS, *(k for s in SECTIONS for k in (*accepted_keys(s), *other_names(s)))]
            raise ConfigError(f"{file}: unknown key '{key}' beside data_cfg; without run_cfg or model_cfg it is read as a config of the "
                              f"released VALOR.{asked(nearest_keys(key, known))}")
    _read_lists(flat, content["data_cfg"], f"{file}: data_cfg", idle)
    if idle and strict:
        note(f"{file}: without effect, as in the released VALOR: {', '.join(idle)}")
    return flat


def home_of(key: str) -> tuple[str, str] | None:
    """The section that a key beside data_cfg belongs to, and our name of it; None for what is the release's alone."""
    if key in OWN_KEYS:
        return None
    return next(((section, other_names(section).get(key, key)) for section in SECTIONS
                 if key in accepted_keys(section) or key in other_names(section)), None)


def check_fixed(key: str, value: Any, where: str) -> None:
    """Raises ConfigError for another value of a setting than the only one that there is here."""
    if value != FIXED[key] or isinstance(value, bool) != isinstance(FIXED[key], bool):
        raise ConfigError(f"{where}: expected {show(FIXED[key])}, the only value that OmniVAST has of it, got {show(value)}")


# ---------------------------------------------------------------------------------------------------------------- datasets


def _read_lists(flat: Flat, data: Mapping[str, Any], where: str, idle: dict[str, None]) -> None:
    lengths: dict[str, int] = {}
    for name, entries in data.items():
        if name not in LISTS:
            raise ConfigError(f"{where}: unknown key '{name}'; data_cfg has train and val.{asked(nearest_keys(name, LISTS))}")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{where}.{name}: expected a list of objects, got {show(entries)}")
        for index, entry in enumerate(entries):
            place = f"{where}.{name}[{index}]"
            flat.datasets[name] += _group(entry, place, idle) if name == "train" else [_dataset({}, entry, place, idle)]
            lengths[place] = _text_length(entry, place)
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{place.removeprefix(where)[1:]} {length}" for place, length in lengths.items())
        raise ConfigError(f"{where}: max_txt_len differs ({told}); scores depend on the length that texts are padded to: a model has one")
    for length in lengths.values():  # of [CLS], the text and [SEP]
        flat.sections["model_cfg"]["max_caption_len"] = length + 2


def _text_length(entry: Mapping[str, Any], place: str) -> int:
    length = entry.get("max_txt_len")
    if type(length) is not int or length < 1:
        raise ConfigError(f"{place}.max_txt_len: expected a whole number of at least 1, the tokens of a text, got {show(length)}")
    return length


def _group(group: Mapping[str, Any], place: str, idle: dict[str, None]) -> Iterator[dict[str, Any]]:
    """The datasets of a group of training, which are one corpus."""
    parts = group.get("datasets")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"{place}.datasets: expected a list of one or more objects, got {show(parts)}")
    own = {key: value for key, value in group.items() if key != "datasets"}
    if misplaced := next((key for key in own if key not in (*OF_GROUP, *OBSOLETE["data_cfg"])), None):
        hint = " It belongs in a dataset of 'datasets'." if misplaced in OF_DATASET else asked(nearest_keys(misplaced, OF_GROUP))
        raise ConfigError(f"{place}: unknown key '{misplaced}' of a group; it has datasets, {', '.join(OF_GROUP)}.{hint}")
    for index, part in enumerate(parts):
        dataset = _dataset(own, part, f"{place}.datasets[{index}]", idle)
        if len(parts) > 1:
            dataset["joined"] = "_".join(str(part.get("name")) for part in parts)
        yield {**dataset, "whole_batches": True}


def _dataset(group: Mapping[str, Any], own: Mapping[str, Any], place: str, idle: dict[str, None]) -> dict[str, Any]:
    """A dataset's keys, behind those of its group, by our names."""
    known, others = accepted_keys("data_cfg"), other_names("data_cfg")
    found: dict[str, Any] = {"type": "valor"}
    for key, value in {**group, **own}.items():
        name, where = others.get(key, key), f"{place if key in own else place.rpartition('.datasets')[0]}.{key}"
        if key in ("max_txt_len", "datatype"):
            continue
        if key in OBSOLETE["data_cfg"]:
            idle[key] = None
        elif name not in known:
            raise ConfigError(f"{place}: unknown key '{key}'.{asked(nearest_keys(key, (*OF_DATASET, *OF_GROUP)))}")
        elif value != "":
            found[name] = check_value(value, known[name], where)
    kind = own.get("datatype")
    if kind not in FORMATS:
        raise ConfigError(f"{place}.datatype: expected one of {', '.join(FORMATS)}, got {show(kind)}")
    if kind == "image":
        found["vision_sample_num"] = 1
    return found if FORMATS[kind] is None else {**found, "vision_format": FORMATS[kind]}
