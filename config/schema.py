"""Every setting, with its type, default and meaning. JSON keys, flags and ``--help`` are all derived from these dataclasses.

Keys of the released VAST keep their names and meanings. ``obsolete`` keys are accepted with one line on what replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omnivast.config.tasks import Task


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with a help text; ``metadata`` may hold minimum, maximum, obsolete (what replaces the key),
    unset (values with which released configs say "not set": they stand for the default), path (~ and $VARIABLES are expanded) and newer
    (added when runs were already saved: its default counts as absent, so that they can be resumed)."""
    details = {"help": help, **metadata}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=details)
    return field(default=default, metadata=details)


@dataclass(frozen=True)
class RunConfig:
    """How the program runs: mode, folders, optimisation, precision."""

    mode: Literal["training", "testing"] = setting("training", "train and evaluate, or only evaluate a checkpoint")
    checkpoint: str | None = setting(None, "weights to start from or to test (.pt or .safetensors)", path=True)
    pretrain_dir: str | None = setting(None, "folder of a pretrained run: its newest ckpt/model_step_N.pt is the start, and "
                                             "model_cfg.inherit_keys are taken from its log/hps.json", path=True)
    output_dir: str = setting("output/run", "folder for ckpt/, log/ and results", unset=("none",), path=True)
    resume: bool = setting(False, "continue the run in output_dir from its last checkpoint")
    seed: int = setting(50, "seed of every draw")
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = setting(
        "auto", "auto takes a GPU of CUDA or ROCm where there is one, else the CPU; mps (Apple) and xpu (Intel), untested, by name")
    learning_rate: float = setting(1e-4, "peak learning rate of everything but the vision encoder", minimum=0.0)
    clip_lr: float | None = setting(None, "peak learning rate of the vision encoder; null: learning_rate", minimum=0.0)
    new_lr: float | None = setting(None, "peak learning rate of the parameters in new_params_name; null: learning_rate", minimum=0.0)
    new_params_name: list[str] = setting([], "parameter names (parts of them) trained with new_lr")
    optim: Literal["adamw", "adam", "muon", "sgd"] = setting("adamw", "optimiser; muon: AdamW that orthogonalises the updates of hidden "
                                                                      "matrices, for training from scratch (not with fsdp or deepspeed)")
    betas: list[float] = setting([0.9, 0.98], "betas of Adam")
    weight_decay: float = setting(0.01, "decoupled weight decay; not on biases and normalisation", minimum=0.0)
    grad_norm: float | None = setting(2.0, "gradient norm above which gradients are scaled down; null or -1: never")
    scheduler: Literal["warmup_linear", "warmup_cosine"] = setting("warmup_linear", "shape of the learning rate after the warm-up")
    warmup_ratio: float = setting(0.1, "share of the steps in which the learning rate rises from 0", minimum=0.0, maximum=1.0)
    gradient_accumulation_steps: int = setting(1, "batches of batch_size clips per optimiser step", minimum=1)
    num_train_steps: int | None = setting(None, "stop after so many optimiser steps (each corpus keeps its share); null: the sum of the "
                                                "corpora's steps", minimum=1, unset=(0,))
    precision: Literal["auto", "float32", "bf16", "fp16"] = setting(
        "auto", "number format of products; auto: bf16 where the hardware computes it (A100 and later; CPUs by a measurement), fp16 with a "
                "gradient scaler on V100 and T4, else float32")
    fp16: bool | None = setting(None, "older: true is precision fp16", older=True)
    bf16: bool | None = setting(None, "older: true is precision bf16", older=True)
    compile: bool = setting(False, "training: the layers of the vision and audio towers through torch.compile, which needs a C++ compiler, "
                                   "for a GPU Triton; a layer that cannot be compiled runs as it is, with a warning")
    gather_with_grad: bool = setting(True, "contrastive features of other processes carry gradient (paper, equation 1); "
                                           "false: as in the release")
    valid_freq: int = setting(10, "evaluations spread over the training (so many in all; 0: only at the end)", minimum=0)
    first_eval: bool = setting(False, "evaluate once before training")
    save_best: bool = setting(False, "keep, beside the last, the checkpoint that is best by the first validation metric")
    keep_best: int = setting(0, "keep the models of so many of the best evaluations by that metric; 0: one with save_best, else none",
                             minimum=0)
    save_every: int = setting(0, "also save every so many steps (0: only at evaluations and at the end)", minimum=0)
    save_minutes: float = setting(0.0, "also save when so many minutes have passed since the last save (0: never)", minimum=0.0)
    async_save: bool = setting(False, "saving stalls the training only for a copy to host memory, and is written while the next steps run; "
                                      "needs host memory for another model and optimiser state")
    remove_before_ckpt: bool = setting(True, "remove older checkpoints once a newer one is safely written; false: keep all")
    keep_last: int = setting(0, "keep so many of the newest checkpoints; 0: as remove_before_ckpt says", minimum=0)
    max_nonfinite_steps: int = setting(10, "steps whose loss or gradient is not finite that are left out over the whole run, each with the "
                                           "ids of its clips in log/, before the run stops; 0: the first one stops it", minimum=0)
    loss_spike_factor: float = setting(6.0, "a loss so many deviations above the median of its corpus's last 100 goes to "
                                            "log/loss_spikes.jsonl with the ids of its clips (0: none does)", minimum=0.0)
    scst_finetuning: bool = setting(False, "captions ('cap') are learnt by self-critical sequence training (Rennie et al. 2017): CIDEr "
                                           "against the clip's training captions is the reward")
    scst_candidates: int = setting(5, "scst_finetuning: captions tried per clip", minimum=1)
    scst_search: Literal["sample", "beam"] = setting("sample", "scst_finetuning: captions tried are drawn, or the best of a beam search "
                                                               "with scst_candidates beams")
    scst_baseline: Literal["greedy", "mean"] = setting("greedy", "scst_finetuning: a caption is good when its reward is above that of the "
                                                                 "greedy caption, or above the mean of the other captions tried")
    hang_minutes: float = setting(20.0, "several processes: when a step makes no progress for so many minutes, all of them say which are "
                                        "behind and where, and exit with status 75, so that the launcher can start again (0: never); in an "
                                        "evaluation, when none of them makes any for three times as long", minimum=0.0)
    log_steps: int = setting(1, "steps between lines of log/metrics.jsonl and TensorBoard", minimum=1)
    zero_shot: bool = setting(False, "evaluate the start weights and stop")
    dry_run: bool = setting(False, "validate config, annotations, media folders and weights, estimate memory, and stop")
    resume_changed_data: bool = setting(False, "resume: go on although the training data (annotation files, shards) changed since the "
                                               "checkpoint was written, as when unreadable clips were removed; false: say what differs and "
                                               "stop")
    max_unreadable: float = setting(0.05, "share of unreadable training clips above which the run stops", minimum=0.0, maximum=1.0)
    skip_unreadable: bool = setting(False, "testing: leave unreadable clips out (the report says how many) instead of stopping")
    allow_missing: list[str] = setting([], "starts of parameter names that a checkpoint may lack or have in excess; * stands for anything")
    num_threads: int = setting(0, "CPU threads of the model (0: cores / processes)", minimum=0)
    tensorboard: bool = setting(True, "write TensorBoard events beside the JSONL logs")
    dataset_mix_type: Literal["random", "round-robin", "in-order", "interleaved"] = setting(
        "random", "how the next step's corpus is chosen: at random or in turns, in proportion to the corpora's steps; one corpus after the "
                  "other, as listed; or interleaved: the gradient_accumulation_steps batches of a step take turns")
    pin_mem: bool = setting(True, "page-locked host memory for faster copies to a GPU")
    use_ddp: bool = setting(True, "accepted; several processes work together as parallel says",
                            obsolete="the number of processes decides")
    parallel: Literal["ddp", "fsdp", "deepspeed"] = setting("ddp", "how several processes train: each with the whole model, averaging "
                                                                   "gradients (ddp); with shares of weights, gradients and optimiser "
                                                                   "(fsdp); or as deepspeed_config says")
    deepspeed_config: str | None = setting(None, "parallel deepspeed: its JSON file, with zero_optimization.stage 1, 2 or 3",
                                           path=True)


@dataclass(frozen=True)
class ModelConfig:
    """The model: towers, widths, text lengths, generation."""

    model_type: str = setting("vast", "the model family, a name registered in model/: vast")
    pretrained: bool = setting(True, "towers start from their files in pretrained_weights/; false: from scratch, on purpose")
    vision_encoder_type: str | None = setting("evaclip01_giant", "registered vision encoder, timm:<name> or "
                                                                        "open_clip:<name>[:<tag>]; null: none")
    vision_encoder_cfg: dict[str, Any] = setting({}, "sizes of the vision encoder where they differ from its name's")
    vision_resolution: int = setting(224, "frames are brought to this many pixels square", minimum=1)
    max_vision_sample_num: int | None = setting(None, "rows of the learnt frame embedding; null: the largest "
                                                                        "vision_sample_num of data_cfg.train, or else of val",
                                                minimum=1)
    audio_encoder_type: str | None = setting("beats", "registered audio encoder, or hf:<name or folder>; null: none", path=True)
    audio_encoder_cfg: dict[str, Any] = setting({}, "sizes of the audio encoder where they differ from its name's")
    audio_melbins: int = setting(64, "mel bins", minimum=1)
    audio_target_length: int = setting(1024, "mel frames of a slice (10 ms each)", minimum=1)
    max_audio_sample_num: int | None = setting(None, "rows of the learnt clip embedding; null: the largest "
                                                                       "audio_sample_num of data_cfg.train, or else of val",
                                               minimum=1)
    text_encoder_type: str = setting("bert-base-uncased", "folder under pretrained_weights/bert/ or a path, in Hugging Face layout; or "
                                                          "bert with text_encoder_cfg, from scratch", path=True)
    text_encoder_cfg: dict[str, Any] = setting({}, "BertConfig keys that override the folder's config.json")
    tokenizer: str | None = setting(None, "vocab.txt, BERT's tokenizer.json, or a folder with one; null: the text encoder's folder",
                                    path=True)
    contra_dim: int = setting(512, "width of the contrastive space", minimum=1)
    frame_embedding_type: Literal["adaptive", "none"] = setting("adaptive", "adaptive: learnt, interpolated to other counts; none")
    itm_ratio: float = setting(0.1, "weight of the matching loss (paper: 1; released fine-tuning: 0.1)", minimum=0.0)
    contrastive_loss: str = setting("softmax", "how pairs are told apart: softmax (over all clips and all texts, by a learnt temperature), "
                                               "or sigmoid (each pair by itself, as SigLIP)", newer=True)
    label_smoothing: float = setting(0.1, "label smoothing of the softmax contrastive loss", minimum=0.0, maximum=1.0)
    frozen_vision: bool = setting(False, "the vision encoder is not trained")
    frozen_audio: bool = setting(False, "the audio encoder is not trained")
    checkpointing: bool = setting(False, "recompute activations in the backward pass to save memory")
    missing_modality: Literal["zeros", "mask"] = setting("zeros", "a clip without sound or subtitle: zeros are attended to (as released), "
                                                                  "or its tokens are masked")
    mask_subtitle_padding: bool = setting(False, "padded subtitle tokens are masked (the release attends to them)")
    max_caption_len: int = setting(40, "tokens of a caption, question or generated caption", minimum=3)
    max_omni_caption_len: int = setting(70, "tokens of an omni caption", minimum=3)
    max_subtitle_len: int = setting(70, "tokens of a subtitle", minimum=3)
    max_answer_len: int = setting(10, "tokens of an answer", minimum=2)
    beam_size: int = setting(3, "beams in caption and answer generation; 1: greedy", minimum=1)
    captioner_mode: bool = setting(False, "testing: label the clips of data_cfg.val with captions instead of scoring captions; txt is "
                                          "a JSON list of ids, or of objects with one")
    generate_nums: int = setting(1, "captions per clip in captioner_mode", minimum=1)
    generate_by: Literal["sample", "beam"] = setting("sample", "captioner_mode: draw each token among the 10 most likely, or take the "
                                                               "best texts of a search with beam_size beams")
    itm_rerank_num: int = setting(50, "candidates re-ranked by the matching score", minimum=0)
    ret_bidirection_evaluation: bool = setting(False, "also evaluate video-to-text retrieval")
    dual_softmax_evaluation: bool = setting(False, "also retrieval after a dual softmax over the test set, as numbers of their own")
    ret_shared_texts: bool = setting(False, "retrieval: a text that several clips have, word for word, is right with any of them; false, "
                                            "as released: only with the clip that it came with")
    ret_features_dir: str | None = setting(None, "retrieval: folder, common to all processes, that holds contrastive features as float16 "
                                                 "files during a test of very many clips; null: float32 in memory", path=True)
    rerank_memory_gb: float | None = setting(None, "memory per machine for what re-ranking needs of the clips; those that do not fit are "
                                                   "encoded again, with equal results; null: half of what is free", minimum=0.0)
    java_metrics_seconds: int = setting(0, "time limit of METEOR and of SPICE, which need Java and pycocoevalcap; 0: neither is computed",
                                        minimum=0)
    inherit_keys: list[str] = setting([], "model_cfg keys taken from the pretrained run's log/hps.json when not set here")


@dataclass(frozen=True)
class DatasetConfig:
    """One corpus of data_cfg.train or data_cfg.val."""

    name: str = setting("", "name in logs and metrics")
    type: Literal["annoindexed", "srcindexed"] = setting("annoindexed", "annoindexed: a JSON list and media folders; "
                                                                          "srcindexed: tar shards")
    training: bool | None = setting(None, "as in the release; must agree with the list it stands in")
    task: str = setting("", "for example ret%tvas%tv_cap%tva")
    txt: str = setting("", "annotation file; srcindexed: may be left out where the shards hold the texts (key.json or key.txt)", path=True)
    shards: list[str] = setting([], "srcindexed: tar files, folders of them, or patterns (with *, {000..127} or {a,b}) with members "
                                    "key.mp4, key.jpg, key.wav, key.json …", path=True)
    shuffle_shards: int = setting(0, "srcindexed: training reads so many shards at a time, in a random order of shards, and shuffles "
                                     "their clips (for disks slow at random access); 0: shuffles all clips", minimum=0)
    vision: str | None = setting(None, "folder of videos, frame folders or images", path=True)
    audio: str | None = setting(None, "folder of sound files; null: the sound is the video's own track", path=True)
    vision_format: Literal["video_rawvideo", "video_frame", "image_rawimage"] = setting("video_rawvideo", "what the vision folder holds")
    vision_transforms: Literal["none", "crop_flip"] = setting("none", "none: resize to a square; crop_flip: random crop "
                                                                             "and flip in training")
    vision_sample_num: int | None = setting(None, "frames per clip", minimum=1)
    audio_sample_num: int | None = setting(None, "sound slices per clip", minimum=1)
    epoch: float | None = setting(None, "passes over the corpus", minimum=0.0)
    steps: int | None = setting(None, "optimiser steps with this corpus, instead of epoch", minimum=0)
    batch_size: int = setting(64, "clips per step over all processes", minimum=1)
    n_workers: int = setting(8, "worker processes that read and decode; -1: as many as the cores of each process allow",
                             minimum=-1)
    annfile: str | None = setting(None, "COCO-style reference captions for caption metrics; null: the annotation file's own", path=True)
    video_decoder: Literal["av", "decord", "torchcodec"] = setting("av", "library that decodes videos")
    cache_dir: str | None = setting(None, "folder that keeps decoded frames and mel spectrograms once read; null: decode every time",
                                      path=True)
    ignore_fields: list[str] = setting([], "annotation fields to leave unread (any other unknown field is an error)")


@dataclass(frozen=True)
class DataConfig:
    """The corpora trained on and those evaluated on."""

    train: tuple[DatasetConfig, ...] = ()
    val: tuple[DatasetConfig, ...] = ()


@dataclass(frozen=True)
class Config:
    """The whole, validated."""

    run_cfg: RunConfig
    model_cfg: ModelConfig
    data_cfg: DataConfig


def task_of(dataset: DatasetConfig) -> Task:
    """The dataset's task, parsed."""
    return Task.parse(dataset.task)
