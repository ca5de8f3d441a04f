"""A model from its config: the family that ``model_type`` names, and the pretrained files of its towers."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, cast

import torch

import omnivast.model.avllm.model
import omnivast.model.gram.model
import omnivast.model.valor.model
import omnivast.model.vast.model  # noqa: F401  (they enter their families into MODELS)
from omnivast.config.checks import place_of
from omnivast.config.fields import LISTS, note, section_keys
from omnivast.config.schema import Config, DatasetConfig, ModelConfig, RunConfig, completed, task_of
from omnivast.config.tasks import Modality
from omnivast.model.fitting import Fitting, sizes_of
from omnivast.model.interface import MODELS, Model, ModelError, Tower
from omnivast.model.weights import TowerFile, WeightsError, load_tower, text_file, tower_file
from omnivast.utils.precision import DTYPES, Precision, resolve
from omnivast.utils.random import seed_everything

log = logging.getLogger("omnivast")


def model_of(config: Config, *, load_towers: bool) -> Model:
    """The model of a run, as its seed initialises it, able to do the tasks of all its datasets; in float32, see :func:`set_precision`.

    Raises ModelError, WeightsError; ValueError, naming the dataset, for one that the model cannot be trained or tested on."""
    run = config.run_cfg
    family = MODELS.find(config.model_cfg.model_type)
    datasets = [(place_of(which, index, dataset), dataset)
                for which in LISTS for index, dataset in enumerate(getattr(config.data_cfg, which))]
    for place, dataset in datasets:
        _check_dataset(family, dataset, place)
    _note_reranking(family, run)
    seed_everything(run.seed, "model")
    model = build_model(config.model_cfg, load_towers=load_towers)
    model.gather_with_grad, model.gather_gradient = run.gather_with_grad, run.gather_gradient
    for place, dataset in datasets:
        try:
            model.check_task(task_of(dataset))
        except ValueError as error:
            raise ModelError(f"{place}: {error}") from None
    return model


def _check_dataset(family: type[Model], dataset: DatasetConfig, place: str) -> None:
    """Raise ModelError for what no model of the family can do with a dataset."""
    task = task_of(dataset)
    for objective in task.objectives:
        if objective not in family.objectives:
            raise ModelError(f"{place}: task '{task}': {family.__name__} is neither trained nor tested by {objective.value}; its "
                             f"objectives are {', '.join(own.value for own in family.objectives)}")
    counts = {Modality.VISION: (dataset.vision_sample_num, "frames"), Modality.AUDIO: (dataset.audio_sample_num, "slices of sound")}
    for modality, (number, what) in counts.items():
        if modality in task.modalities and family.most_samples is not None and (number or 0) > family.most_samples:
            raise ModelError(f"{place}: {modality.word}_sample_num is {number}, but {family.__name__} takes {family.most_samples} {what} "
                             "of a clip at most")


def _note_reranking(family: type[Model], run: RunConfig) -> None:
    """One line where a model without a matching head is asked to re-rank."""
    if not family.can_match and run.itm_rerank_num not in (0, section_keys("run_cfg")["itm_rerank_num"].default):
        note(f"run_cfg.itm_rerank_num {run.itm_rerank_num} has no effect: {family.__name__} has no matching head to re-rank by; it is "
             "tested by its scores alone")


def set_precision(model: Model, config: Config, device: torch.device, kept: str | None = None) -> tuple[Config, Precision]:
    """Let ``model`` compute as the run asks and as ``device`` can; on every process. Returns the config with the precision chosen in
    place of ``auto``, and why. ``kept``: the precision of the run that is continued."""
    run = config.run_cfg
    usable = ("float32", "bf16") if run.parallel == "deepspeed" else tuple(DTYPES)
    chosen = resolve(run.precision, device, model.width, usable=usable, kept=kept)
    model.precision = chosen.autocast
    return dataclasses.replace(config, run_cfg=dataclasses.replace(run, precision=cast(Any, chosen.name))), chosen


def build_model(cfg: ModelConfig, *, load_towers: bool = True) -> Model:
    """The model of ``cfg`` on the CPU. With ``cfg.pretrained`` its towers start from their files, unless ``load_towers`` is false
    because a whole checkpoint follows. Raises ModelError, WeightsError, and EncoderError for a tower that is not known."""
    family, cfg = MODELS.find(cfg.model_type), completed(cfg)
    files = pretrained_files(cfg) if load_towers else []
    _need(files)
    with Fitting(sizes_of(cfg)):
        model = family.build(cfg)
    towers = model.towers()
    for tower, name, file in [*files, *(family.more_parts(cfg) if files else ())]:
        # Cross-attention, which a BERT lacks, stays as it is initialised.
        load_tower(towers[tower], file.place, file)
        log.info("%s encoder '%s': loaded from %s", tower, name, file.place)
    return model


def pretrained_files(cfg: ModelConfig) -> list[tuple[Tower, str, TowerFile]]:
    """(which tower, its name, its file) of each tower that does not start from scratch. Raises ModelError for one that has no file."""
    files: list[tuple[Tower, str, TowerFile]] = []
    encoders: tuple[tuple[Tower, str | None], ...] = (("vision", cfg.vision_encoder_type), ("audio", cfg.audio_encoder_type))
    for tower, name in encoders:
        if name is not None and cfg.pretrained:
            file = tower_file(name)
            if file is None:
                raise ModelError(f"{tower} encoder '{name}' has no pretrained file; set \"pretrained\": false to train from scratch on "
                                 "purpose")
            files.append((tower, name, file))
    if cfg.pretrained and cfg.text_encoder_type != "bert" and MODELS.find(cfg.model_type).text_tower:
        files.append(("text", cfg.text_encoder_type, text_file(cfg.text_encoder_type)))
    return files


def _need(files: list[tuple[Tower, str, TowerFile]]) -> None:
    """Raise WeightsError that names every file which is not there, where it comes from and what fetches it."""
    lacking = [(tower, name, file) for tower, name, file in files if not file.place.is_file()]
    if not lacking:
        return
    lines = [f"the {tower} encoder '{name}' starts from {file.place}, which is not there: {file.by_hand}" for tower, name, file in lacking]
    names = " ".join(f"text:{name}" if tower == "text" else name for tower, name, _ in lacking)
    raise WeightsError("\n".join(lines) + f"\n`python -m omnivast weights {names}` fetches what can be fetched and says how to get "
                       "the rest. Or start from a whole checkpoint (--checkpoint or --pretrain_dir), or set \"pretrained\": false to train "
                       "from scratch on purpose")
