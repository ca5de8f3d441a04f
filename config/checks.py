"""Checks across several keys: settings that contradict each other, and datasets that lack what their task needs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from omnivast.config.extras import is_installed, not_installed
from omnivast.config.fields import LISTS, ConfigError, note, section_keys
from omnivast.config.needs import lacks
from omnivast.config.paths import looked_up
from omnivast.config.schema import Config, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import Modality, Objective, Task, TaskError

IN_FOLDERS = ("annoindexed", "valor")
"""Types of datasets whose media lie in folders."""
OF_A_CORPUS = ("type", "task", "epoch", "steps", "whole_batches", "batch_size", "vision_sample_num", "audio_sample_num")
"""What datasets that are joined must agree in."""
BY_ROW = ("task", "vision_sample_num", "audio_sample_num")
"""Of these, what datasets of conversations may lack or have otherwise: each row says itself which tracks it gives."""


def check(config: Config, file: Path) -> None:
    """Raises ConfigError that lists every contradiction found."""
    problems = [*_run(config.run_cfg), *_answers(config.run_cfg), *_purpose(config), *_self_critical(config), *_model(config),
                *_language_model(config)]
    for name in LISTS:
        problems += _datasets(name, getattr(config.data_cfg, name), config.model_cfg)
    if len(problems) == 1:
        raise ConfigError(f"{file}: {problems[0]}")
    if problems:
        raise ConfigError(f"{file}: {len(problems)} problems:" + "".join(f"\n- {problem}" for problem in problems))


def _run(run: RunConfig) -> Iterator[str]:
    if run.precision == "fp16" and run.device == "cpu":
        yield "run_cfg.precision fp16 needs a GPU but run_cfg.device is cpu; use auto, bf16 or float32"
    if len(run.betas) != 2 or not all(0 <= beta < 1 for beta in run.betas):
        yield f"run_cfg.betas: expected two numbers from 0 to below 1, such as [0.9, 0.98], got {run.betas}"
    if run.grad_norm is not None and run.grad_norm <= 0 and run.grad_norm != -1:
        yield f"run_cfg.grad_norm: expected a positive number, or null or -1 for no clipping, got {run.grad_norm:g}"
    if run.keep_last and not run.remove_before_ckpt:
        yield f"run_cfg.keep_last {run.keep_last} removes older checkpoints, but run_cfg.remove_before_ckpt is false: drop one of them"
    if run.new_params_name and run.new_lr is None:
        yield "run_cfg.new_params_name is set but run_cfg.new_lr is not"
    if run.new_lr and not run.new_params_name:
        yield "run_cfg.new_lr is set but run_cfg.new_params_name names no parameters"
    if run.parallel == "deepspeed" and run.mode == "training" and not run.deepspeed_config:
        yield "run_cfg.parallel is deepspeed, but run_cfg.deepspeed_config, its JSON file, is not set"
    if run.parallel == "deepspeed" and run.deepspeed_config and not os.path.isfile(run.deepspeed_config):
        yield f"run_cfg.deepspeed_config '{run.deepspeed_config}': no such file{looked_up(run.deepspeed_config)}"
    if run.parallel != "ddp" and run.optim == "muon" and run.mode == "training":
        yield f"run_cfg.optim muon needs whole matrices on every process: with run_cfg.parallel {run.parallel} choose adamw"
    if run.parallel != "ddp" and run.optim == "apex_fused_adam" and run.mode == "training":
        yield f"run_cfg.optim apex_fused_adam does not know shares of parameters: with run_cfg.parallel {run.parallel} choose adamw"
    if run.parallel == "deepspeed" and run.precision == "fp16":
        yield "run_cfg.parallel deepspeed trains in bf16 or float32; for fp16 choose ddp or fsdp"
    if run.parallel == "deepspeed" and run.compile:
        yield "run_cfg.compile works with one process, ddp and fsdp, not with run_cfg.parallel deepspeed"
    if run.parallel == "deepspeed" and run.ema_decay is not None:
        yield "run_cfg.ema_decay: DeepSpeed keeps weights where they cannot be averaged; choose run_cfg.parallel fsdp, or ddp"
    if run.ema_evaluate and run.ema_decay is None:
        yield "run_cfg.ema_evaluate is set, but there are no averaged weights: set run_cfg.ema_decay, such as 0.999"
    if run.profile is not None and not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", run.profile):
        yield f"run_cfg.profile '{run.profile}': expected the steps to profile, counted from 1: 20-25, or 20"
    if run.deepspeed_config and run.parallel != "deepspeed":
        yield f"run_cfg.deepspeed_config is set, but run_cfg.parallel is {run.parallel}"
    if run.simulate and not run.dry_run:
        yield f"run_cfg.simulate {run.simulate} asks a question, which run_cfg.dry_run true answers; a training does not need it"
    if run.simulate_constants and not run.simulate:
        yield "run_cfg.simulate_constants is set, but run_cfg.simulate, whose constants they would be, is not"
    if run.simulate and run.parallel == "deepspeed":
        yield "run_cfg.simulate knows ddp and fsdp; run_cfg.parallel fsdp shares out as much as DeepSpeed's stage 3"
    if run.num_threads > (os.cpu_count() or run.num_threads):
        note(f"run_cfg.num_threads {run.num_threads} on {os.cpu_count()} cores: more threads than cores wait for each other; 0 fits them")
    if not run.output_dir.strip():
        yield "run_cfg.output_dir is empty"
    if run.resume and (run.mode == "testing" or run.zero_shot):
        yield f"run_cfg.resume continues a training, but {'mode is testing' if run.mode == 'testing' else 'zero_shot is true'}"
    if run.resume and run.checkpoint:
        yield "run_cfg.resume and run_cfg.checkpoint exclude each other: resume reads the last checkpoint of output_dir"
    if run.mode == "training" and run.pretrain_dir and os.path.normpath(run.pretrain_dir) == os.path.normpath(run.output_dir):
        yield f"run_cfg.output_dir is run_cfg.pretrain_dir ({run.output_dir}): the pretrained run would be overwritten"


def _answers(run: RunConfig) -> Iterator[str]:
    """How answers are marked."""
    for name in ("synonyms", "judge_prompt"):
        path = getattr(run, name)
        if path is not None and not os.path.isfile(path):
            yield f"run_cfg.{name} '{path}': no such file{looked_up(path)}"
    if run.judge and run.judge.startswith(("http://", "https://")) and not run.judge_model:
        yield "run_cfg.judge is an endpoint, but run_cfg.judge_model, the model that is asked for there, is not set"
    if not run.judge and (run.judge_model or run.judge_prompt):
        yield f"run_cfg.{'judge_model' if run.judge_model else 'judge_prompt'} is set but run_cfg.judge is not"


def _language_model(config: Config) -> Iterator[str]:
    """What model_type avllm needs; its files are looked at when it is built."""
    model = config.model_cfg
    if model.model_type != "avllm":
        return
    if not model.llm:
        yield "model_cfg.model_type avllm needs model_cfg.llm, a folder of transformers or a .gguf file"
    elif not os.path.exists(model.llm):
        yield f"model_cfg.llm '{model.llm}': no such folder or file{looked_up(model.llm)}"
    elif model.llm.endswith(".gguf") and not is_installed("gguf"):
        yield f"model_cfg.llm '{model.llm}': {not_installed('gguf')}"
    if model.llm_tune == "lora" and not is_installed("peft"):
        yield f"model_cfg.llm_tune lora: {not_installed('peft')}"
    idle = [name for name, setting in section_keys("model_cfg").items() if name.startswith("llm_lora_") and model.llm_tune != "lora"
            and getattr(model, name) != setting.default]
    if idle:
        note(f"model_cfg.{', '.join(idle)}: without effect, because llm_tune is {model.llm_tune}")
    asks = [dataset.name for dataset in (*config.data_cfg.train, *config.data_cfg.val)
            if (task := _task(dataset)) and Objective.QA in task.objectives]
    if model.llm_template == "plain" and asks:
        yield f"model_cfg.llm_template plain leaves questions out, but dataset '{asks[0]}' has them; choose auto or vicuna_v1"


def _purpose(config: Config) -> Iterator[str]:
    run, data = config.run_cfg, config.data_cfg
    if run.mode == "training" and not run.zero_shot and not data.train:
        yield "run_cfg.mode is training but data_cfg.train lists no dataset (to evaluate only: --mode testing, or --zero_shot true)"
    if run.mode == "testing" and not (run.checkpoint or run.pretrain_dir):
        yield "run_cfg.mode is testing but no weights are named; give --checkpoint FILE.pt or --pretrain_dir FOLDER"
    evaluation = "mode is testing" if run.mode == "testing" else "zero_shot is true" if run.zero_shot else ""
    evaluation = evaluation or ("save_best is true" if run.save_best else f"keep_best is {run.keep_best}" if run.keep_best else "")
    if run.mode == "training" and run.dataset_mix_type == "interleaved" and run.gradient_accumulation_steps < 2 <= len(data.train):
        yield ("run_cfg.dataset_mix_type interleaved puts batches of several corpora into one step; set gradient_accumulation_steps to 2 "
               "or more, best a multiple of the corpora")
    if evaluation and not data.val:
        yield f"run_cfg.{evaluation} but data_cfg.val lists no dataset"


def _self_critical(config: Config) -> Iterator[str]:
    run = config.run_cfg
    if not run.scst_finetuning or run.mode != "training":
        return
    if not any(task and task.groups(Objective.CAPTION) for task in map(_task, config.data_cfg.train)):
        yield "run_cfg.scst_finetuning trains captioning, but no task in data_cfg.train has 'cap'"
    if run.scst_baseline == "mean" and run.scst_candidates < 2:
        yield "run_cfg.scst_baseline 'mean' compares the captions tried with each other; set scst_candidates to 2 or more"
    if not (run.checkpoint or run.pretrain_dir or run.resume):
        note("run_cfg.scst_finetuning improves a captioner that was trained before; name it with --pretrain_dir or --checkpoint")


def _model(config: Config) -> Iterator[str]:
    model, run = config.model_cfg, config.run_cfg
    _note_settings_of_others(model)
    if model.text_encoder_type == "bert" and not model.tokenizer:
        yield "model_cfg.text_encoder_type 'bert' has no folder to find a vocabulary in; set model_cfg.tokenizer to a vocab.txt"
    if run.captioner_mode:
        yield from _labelling(config)
    elif run.generate_nums > 1:
        note(f"run_cfg.generate_nums {run.generate_nums} has no effect without captioner_mode")
    if model.frozen_vision and not (model.pretrained or run.checkpoint or run.pretrain_dir or run.resume):
        note("model_cfg.frozen_vision with pretrained false and no checkpoint: the vision encoder stays random")
    if run.ret_features_dir and (obstacle := _unwritable(run.ret_features_dir)):
        yield f"run_cfg.ret_features_dir '{run.ret_features_dir}' cannot be written: {obstacle}"
    rows = model.text_encoder_cfg.get("max_position_embeddings", 512)
    needed = {"max_caption_len": model.max_caption_len, "max_omni_caption_len": model.max_omni_caption_len,
              "max_subtitle_len": model.max_subtitle_len}
    asks = any(t and Objective.QA in t.objectives for t in map(_task, (*config.data_cfg.train, *config.data_cfg.val)))
    if asks:
        needed = {**needed, "max_caption_len + max_answer_len (a question and its answer)": model.max_caption_len + model.max_answer_len}
    for name, length in needed.items():
        if isinstance(rows, int) and length > rows and name not in _settings_of_others(model.model_type):
            yield f"model_cfg.{name} is {length}, but the text encoder has only {rows} positions (max_position_embeddings)"


def _settings_of_others(model_type: str) -> dict[str, tuple[str, ...]]:
    """The settings of model_cfg that a model does not read → the model types that do. None of a family from elsewhere, which may read
    any."""
    readers = {name: setting.metadata["of"] for name, setting in section_keys("model_cfg").items() if "of" in setting.metadata}
    known = any(model_type in families for families in readers.values())
    return {name: families for name, families in readers.items() if known and model_type not in families}


def _note_settings_of_others(model: ModelConfig) -> None:
    """One line for each kind of model whose settings are given to another."""
    unread = _settings_of_others(model.model_type)
    for families in dict.fromkeys(unread.values()):
        idle = [f"{name} {json.dumps(getattr(model, name))}" for name, own in unread.items()
                if own == families and getattr(model, name) != section_keys("model_cfg")[name].default]
        if idle:
            note(f"model_cfg.{', '.join(idle)}: read by model_type {' and '.join(families)} alone; without effect, because model_type is "
                 f"{model.model_type}")


def _unwritable(folder: str) -> str:
    """Why a folder, perhaps one that is still to be made, cannot be written to; "" where it can, as far as the system tells."""
    there = os.path.abspath(folder)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"


def _labelling(config: Config) -> Iterator[str]:
    run = config.run_cfg
    if run.mode != "testing":
        yield "run_cfg.captioner_mode labels clips with a trained captioner; it needs --mode testing"
    if run.generate_by == "beam" and run.generate_nums > run.beam_size:
        yield (f"run_cfg.generate_nums is {run.generate_nums}, but generate_by 'beam' finds beam_size {run.beam_size} captions; "
               "raise beam_size")
    for index, dataset in enumerate(config.data_cfg.val):
        task = _task(dataset)
        groups = task.groups(Objective.CAPTION) if task else ()
        if dataset.type == "valor":
            yield (f"{place_of('val', index, dataset)}: captioner_mode reads annoindexed and srcindexed; give the list of ids as txt, with "
                   "type annoindexed")
        if task and task.objectives != (Objective.CAPTION,):
            yield (f"{place_of('val', index, dataset)}: captioner_mode writes captions: expected a task such as cap%tv or cap%ta, got "
                   f"'{task}' (python -m omnivast label captions a folder of clips with any trained model)")
        elif len({group.caption_kind for group in groups}) < len(groups):
            yield (f"{place_of('val', index, dataset)}: the groups of task '{task}' would write one kind of caption twice; in "
                   "captioner_mode name at most one group of several modalities")


def _task(dataset: DatasetConfig) -> Task | None:
    try:
        return Task.parse(dataset.task)
    except TaskError:
        return None


def place_of(which: str, index: int, dataset: DatasetConfig) -> str:
    """A dataset as messages name it: ``data_cfg.val[0] 'clips'``."""
    return f"data_cfg.{which}[{index}]" + (f" '{dataset.name}'" if dataset.name else "")


def _datasets(which: str, datasets: tuple[DatasetConfig, ...], model: ModelConfig) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, dataset in enumerate(datasets):
        place = place_of(which, index, dataset)
        if dataset.name and first.setdefault(dataset.name, index) != index:
            yield f"{place}: data_cfg.{which}[{first[dataset.name]}] has the same name; logs and results need different ones"
        findings = [*_identity(dataset, which), *(_training(dataset) if which == "train" else ())]
        if dataset.joined:
            findings += _joined(dataset, which, [other for other in datasets[:index] if other.joined == dataset.joined],
                                [other.name for other in datasets if not other.joined])
        if which == "val" and (dataset.epoch is not None or dataset.steps is not None):
            note(f"{place}: epoch and steps have no meaning in evaluation")
        try:
            findings += _needs(dataset, Task.parse(dataset.task), which, model)
        except TaskError as error:
            findings.append(f"task: {error}")
        yield from (f"{place}: {finding}" for finding in findings)


def _joined(dataset: DatasetConfig, which: str, before: list[DatasetConfig], names: list[str]) -> Iterator[str]:
    """``before``: the datasets of the same corpus that are listed first; ``names``: those of the corpora of one dataset."""
    if which == "val":
        yield f"joined is '{dataset.joined}', but only corpora of data_cfg.train are joined"
    if dataset.joined in names:
        yield f"joined is '{dataset.joined}', which is the name of another dataset"
    spoken = all((task := _task(other)) is not None and task.objectives == (Objective.CHAT,) for other in (dataset, *before))
    for key in OF_A_CORPUS:
        own, others = getattr(dataset, key), before[:1]
        if spoken and key in BY_ROW:
            others = [other for other in before if key != "task" and None not in (own, getattr(other, key))][:1]
        for other in others:
            if getattr(other, key) != own:
                yield f"{key} is {own}, but '{other.name}', which is joined with it as '{dataset.joined}', has {getattr(other, key)}"


def _identity(dataset: DatasetConfig, which: str) -> Iterator[str]:
    if not re.fullmatch(r"[\w+-][\w.+-]*", dataset.name):
        yield (f"name: expected letters, digits, '_', '-', '+' or '.', because files are named after it, got '{dataset.name}'"
               if dataset.name else "name is missing")
    if dataset.type in IN_FOLDERS and not dataset.txt.strip():
        yield f"txt is missing: the annotation file, {'a JSON list' if dataset.type == 'annoindexed' else 'an object of texts by id'}"
    if dataset.type == "valor" and not dataset.ids_path:
        yield "ids_path is missing: the JSON list of the clips' ids"
    elif dataset.type != "valor" and (dataset.ids_path or dataset.test_one):
        yield f"{'ids_path' if dataset.ids_path else 'test_one'} needs type valor"
    yield from _source(dataset)
    if dataset.training is not None and dataset.training != (which == "train"):
        yield f"training is {str(dataset.training).lower()}, but it stands in data_cfg.{which}"


def _source(dataset: DatasetConfig) -> Iterator[str]:
    """Shards and folders exclude each other."""
    if dataset.type in IN_FOLDERS:
        if dataset.shards or dataset.shuffle_shards:
            yield f"shards and shuffle_shards need type srcindexed; {dataset.type} reads the folders 'vision' and 'audio'"
        return
    if dataset.type != "srcindexed":
        return
    if not dataset.shards:
        yield "type srcindexed reads tar shards, but 'shards' names none"
    for key in ("vision", "audio"):
        if getattr(dataset, key) is not None:
            yield f"{key} is set, but type srcindexed finds all media in its shards; leave it out"
    if dataset.vision_format in ("video_frame", "video"):
        yield f"vision_format {dataset.vision_format}, folders of frames, cannot be in shards; expected video_rawvideo or image_rawimage"
    if dataset.video_decoder != "av":
        yield f"video_decoder '{dataset.video_decoder}' reads files of their own; shards need av"


def _training(dataset: DatasetConfig) -> Iterator[str]:
    if dataset.epoch is not None and dataset.steps is not None:
        yield f"epoch ({dataset.epoch:g}) and steps ({dataset.steps}) are both set; keep one"
    elif dataset.epoch is None and dataset.steps is None:
        yield "neither epoch nor steps is set: how long is it trained on?"
    elif not (dataset.epoch or dataset.steps):
        yield f"{'epoch' if dataset.steps is None else 'steps'} is 0; leave the dataset out of the list instead"


def _needs(dataset: DatasetConfig, task: Task, which: str, model: ModelConfig) -> Iterator[str]:
    """What the task's groups need of the dataset and of the model."""
    if which == "train" and Objective.RETRIEVAL in task.objectives and dataset.batch_size < 2:
        yield f"batch_size is {dataset.batch_size}, but the contrastive loss of 'ret' compares clips of a batch: at least 2"
    pair = next((group for group in task.all_groups if group.alone), None)
    if which == "val" and pair is not None:
        yield (f"task '{task}': group {pair} is trained, never tested: retrieval searches clips by texts alone. Test tv, ta or tva; in a "
               "VALOR config va, vta and atv are the groups v-a, v-ta and a-tv")
    if pair is not None and model.model_type != "valor":
        yield f"task '{task}': group {pair} is one of VALOR's (model_cfg.model_type valor), not of {model.model_type}"
    if which == "val" and Objective.MLM in task.objectives:
        yield f"task '{task}': mlm is trained, never tested; leave it out of data_cfg.val"
    yield from lacks(dataset, task, None if dataset.type in IN_FOLDERS else True)
    for modality, encoder in ((Modality.VISION, "vision_encoder_type"), (Modality.AUDIO, "audio_encoder_type")):
        group = next((group for group in task.all_groups if modality in group), None)
        if group and getattr(model, encoder) is None:
            yield f"group '{group}' of task '{task}' needs {modality.word}, but model_cfg.{encoder} is null"
    if dataset.vision_format == "image_rawimage" and (dataset.vision_sample_num or 1) > 1:
        yield f"vision_sample_num is {dataset.vision_sample_num}, but images (vision_format image_rawimage) have one frame"
