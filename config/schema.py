"""Every setting, with its type, default and meaning. JSON keys, flags and ``--help`` are all derived from these dataclasses.

Keys of the released VAST keep their names and meanings. ``obsolete`` keys are accepted with one line on what replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from omnivast.config.tasks import Task

VAST_LIKE = ("vast", "gram")
"""The model types that are VAST, or VAST with other scores."""


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with a help text. ``metadata`` may hold

    - minimum, maximum; path: ~ and $VARIABLES are expanded;
    - unset: values with which released configs say "not set": they stand for the default;
    - also: names under which other releases have it: understood as flags, in flat configs (valor_release.py), and where it is inherited;
    - spelt: values as other releases write them, and ours;
    - was_in: the section in which older configs, those of the release among them, have it, and where it is still accepted;
    - obsolete: what replaces the key, which is accepted without effect; older: it is an older name of another;
    - decides: whether another value makes another training, which a checkpoint then does not continue (default True). A pair (key, value):
      only where that setting of the same section has that value. Where the weights start is not among what decides: a resumed run does
      not read that again;
    - passive: no number depends on it (folders, saving, logging, threads); it decides nothing;
    - training_only: it has a say in the training, but none in what a test of the same weights finds of a clip;
    - newer: added when runs were already saved; its default counts as absent, so that they can be resumed;
    - length: it says how long a training is, which a resumed one may extend;
    - of: the model types that read it, of those that OmniVAST has; others do without it.
    """
    details = {"help": help, **metadata, **({"decides": False} if metadata.get("passive") else {})}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=details)
    return field(default=default, metadata=details)


@dataclass(frozen=True)
class RunConfig:
    """How the program runs: mode, folders, optimisation, precision, testing."""

    mode: Literal["training", "testing"] = setting("training", "train and evaluate, or only evaluate a checkpoint", decides=False)
    checkpoint: str | None = setting(None, "weights to start from or to test (.pt or .safetensors)", path=True, passive=True)
    pretrain_dir: str | None = setting(None, "folder of a pretrained run: its newest ckpt/model_step_N.pt is the start, and "
                                             "model_cfg.inherit_keys are taken from its log/hps.json", path=True, passive=True)
    pretrain_step: int | None = setting(None, "N of pretrain_dir's ckpt/model_step_N.pt to start from; null: the newest", minimum=0,
                                        passive=True)
    output_dir: str = setting("output/run", "folder for ckpt/, log/ and results", unset=("none",), path=True, passive=True)
    resume: bool = setting(False, "continue the run in output_dir from its last checkpoint", passive=True)
    seed: int = setting(50, "seed of every draw")
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = setting(
        "auto", "auto takes a GPU of CUDA or ROCm where there is one, else the CPU; mps (Apple) and xpu (Intel), untested, by name",
        decides=False)
    learning_rate: float = setting(1e-4, "peak learning rate of everything but the vision encoder", minimum=0.0)
    clip_lr: float | None = setting(None, "peak learning rate of the vision encoder; null: learning_rate", minimum=0.0)
    clip_lr_text: float | None = setting(None, "VALOR: peak learning rate of CLIP's temperature and text tower; null: learning_rate",
                                         minimum=0.0, newer=True)
    new_lr: float | None = setting(None, "peak learning rate of the parameters in new_params_name; null: learning_rate", minimum=0.0)
    new_params_name: list[str] = setting([], "parameter names (parts of them) trained with new_lr")
    optim: Literal["adamw", "adam", "muon", "sgd", "apex_fused_adam"] = setting(
        "adamw", "optimiser; muon: AdamW that orthogonalises the updates of hidden matrices, for training from scratch; apex_fused_adam: "
                 "AdamW by NVIDIA Apex, where it was built with its CUDA extensions, on GPUs (neither with fsdp or deepspeed)")
    betas: list[float] = setting([0.9, 0.98], "betas of Adam")
    weight_decay: float = setting(0.01, "decoupled weight decay; not on biases and normalisation", minimum=0.0)
    grad_norm: float | None = setting(2.0, "gradient norm above which gradients are scaled down; null or -1: never")
    scheduler: Literal["warmup_linear", "warmup_cosine"] = setting("warmup_linear", "shape of the learning rate after the warm-up")
    warmup_ratio: float = setting(0.1, "share of the steps in which the learning rate rises from 0", minimum=0.0, maximum=1.0)
    gradient_accumulation_steps: int = setting(1, "batches of batch_size clips per optimiser step", minimum=1)
    num_train_steps: int | None = setting(None, "stop after so many optimiser steps (each corpus keeps its share); null: the sum of the "
                                                "corpora's steps", minimum=1, unset=(0,), length=True)
    precision: Literal["auto", "float32", "bf16", "fp16"] = setting(
        "auto", "number format of products; auto: bf16 where the hardware computes it (A100 and later; CPUs by a measurement), fp16 with a "
                "gradient scaler on V100 and T4, else float32")
    fp16: bool | None = setting(None, "older: true is precision fp16", older=True, decides=False)
    bf16: bool | None = setting(None, "older: true is precision bf16", older=True, decides=False)
    compile: bool = setting(False, "training: the layers of the vision and audio towers through torch.compile, which needs a C++ compiler, "
                                   "for a GPU Triton; a layer that cannot be compiled runs as it is, with a warning", decides=False)
    gather_with_grad: bool = setting(True, "contrastive features of other processes carry gradient (paper, equation 1); "
                                           "false: as in the release of VAST")
    gather_gradient: Literal["paper", "released"] = setting(
        "paper", "VALOR, several processes: the contrastive loss's gradient as it is; or, for towers and heads, divided by the number of "
                 "processes, as released", newer=True)
    valid_freq: int = setting(10, "evaluations spread over the training (so many in all; 0: only at the end)", minimum=0, decides=False)
    first_eval: bool = setting(False, "evaluate once before training", decides=False)
    save_best: bool = setting(False, "keep, beside the last, the checkpoint that is best by the first validation metric", decides=False)
    keep_best: int = setting(0, "keep the models of so many of the best evaluations by that metric; 0: one with save_best, else none",
                             minimum=0, passive=True)
    save_every: int = setting(0, "also save every so many steps (0: only at evaluations and at the end)", minimum=0, passive=True)
    save_minutes: float = setting(0.0, "also save when so many minutes have passed since the last save (0: never)", minimum=0.0,
                                  passive=True)
    async_save: bool = setting(False, "saving stalls the training only for a copy to host memory, and is written while the next steps run; "
                                      "needs host memory for another model and optimiser state", passive=True)
    remove_before_ckpt: bool = setting(True, "remove older checkpoints once a newer one is safely written; false: keep all", passive=True)
    keep_last: int = setting(0, "keep so many of the newest checkpoints; 0: as remove_before_ckpt says", minimum=0, passive=True)
    max_nonfinite_steps: int = setting(10, "steps whose loss or gradient is not finite that are left out over the whole run, each with the "
                                           "ids of its clips in log/, before the run stops; 0: the first one stops it", minimum=0,
                                       decides=False)
    loss_spike_factor: float = setting(6.0, "a loss so many deviations above the median of its corpus's last 100 goes to "
                                            "log/loss_spikes.jsonl with the ids of its clips (0: none does)", minimum=0.0, passive=True)
    scst_finetuning: bool = setting(False, "captions ('cap') are learnt by self-critical sequence training (Rennie et al. 2017): CIDEr "
                                           "against the clip's training captions is the reward", decides=("scst_finetuning", True))
    scst_candidates: int = setting(5, "scst_finetuning: captions tried per clip", minimum=1, decides=("scst_finetuning", True))
    scst_search: Literal["sample", "beam"] = setting("sample", "scst_finetuning: captions tried are drawn, or the best of a beam search "
                                                               "with scst_candidates beams", decides=("scst_finetuning", True))
    scst_baseline: Literal["greedy", "mean"] = setting("greedy", "scst_finetuning: a caption is good when its reward is above that of the "
                                                                 "greedy caption, or above the mean of the other captions tried",
                                                       decides=("scst_finetuning", True))
    scst_reward: Literal["cider", "cider_bleu4"] = setting("cider", "scst_finetuning: the reward: CIDEr, or CIDEr and BLEU-4 of a caption",
                                                           decides=("scst_finetuning", True), newer=True)
    hang_minutes: float = setting(20.0, "several processes: when a step makes no progress for so many minutes, all of them say which are "
                                        "behind and where, and exit with status 75, so that the launcher can start again (0: never); in an "
                                        "evaluation, when none of them makes any for three times as long", minimum=0.0, passive=True)
    log_steps: int = setting(1, "steps between lines of log/metrics.jsonl and TensorBoard", minimum=1, passive=True)
    ema_decay: float | None = setting(None, "also keep an average of the weights, of which each step forgets 1 - this (0.999, 0.9999): "
                                            "ckpt/ema_step_N.pt; null: none (not with deepspeed)", minimum=0.0, maximum=0.9999999,
                                      decides=False)
    ema_evaluate: bool = setting(False, "ema_decay: evaluations, and the best models that are kept, are of the averaged weights",
                                 decides=False)
    profile: str | None = setting(None, "training: steps to profile, such as 20-25: log/profile/rank_0.json.gz, for ui.perfetto.dev; null: "
                                        "none", passive=True)
    zero_shot: bool = setting(False, "evaluate the start weights and stop", decides=False)
    dry_run: bool = setting(False, "validate config, annotations, media folders and weights, estimate memory, and stop", decides=False)
    simulate: str | None = setting(None, "dry_run: GPUs to tell of what each would need and how fast it would train, such as 64xA100-80GB",
                                   decides=False)
    simulate_constants: str | None = setting(None, "simulate: JSON file of measured constants of cards, {\"A100-80GB\": {\"large\": 0.8}}, "
                                                   "in the place of those in training/cards.py", path=True, decides=False)
    resume_changed_data: bool = setting(False, "resume: go on although the training data (annotation files, shards) changed since the "
                                               "checkpoint was written, as when unreadable clips were removed; false: say what differs and "
                                               "stop", decides=False)
    max_unreadable: float = setting(0.05, "share of unreadable training clips above which the run stops", minimum=0.0, maximum=1.0,
                                    decides=False)
    skip_unreadable: bool = setting(False, "testing: leave unreadable clips out (the report says how many) instead of stopping",
                                    decides=False)
    allow_missing: list[str] = setting([], "starts of parameter names that a checkpoint may lack or have in excess; * stands for anything",
                                       decides=False)
    num_threads: int = setting(0, "CPU threads of the model (0: cores / processes)", minimum=0, passive=True)
    tensorboard: bool = setting(True, "write TensorBoard events beside the JSONL logs", passive=True)
    dataset_mix_type: Literal["random", "round-robin", "in-order", "interleaved"] = setting(
        "random", "how the next step's corpus is chosen: at random or in turns, in proportion to the corpora's steps; one corpus after the "
                  "other, as listed; or interleaved: the gradient_accumulation_steps batches of a step take turns")
    modality_order: Literal["mixed", "joint_first", "single_first"] = setting(
        "mixed", "AVLLM, corpora of conversations: each batch holds rows about sight, sound and both, at random (modality-augmented "
                 "training); or all rows about both come first, then the others (PT1 of the paper's table 4); or last (PT2). It is kept "
                 "within each corpus: datasets to be ordered together are joined", newer=True)
    pin_mem: bool = setting(True, "page-locked host memory for faster copies to a GPU", decides=False)
    use_ddp: bool = setting(True, "accepted; several processes work together as parallel says",
                            obsolete="the number of processes decides", decides=False)
    parallel: Literal["ddp", "fsdp", "deepspeed"] = setting("ddp", "how several processes train: each with the whole model, averaging "
                                                                   "gradients (ddp); with shares of weights, gradients and optimiser "
                                                                   "(fsdp); or as deepspeed_config says", decides=False)
    deepspeed_config: str | None = setting(None, "parallel deepspeed: its JSON file, with zero_optimization.stage 1, 2 or 3",
                                           path=True, decides=False)

    beam_size: int = setting(3, "beams in caption and answer generation; 1: greedy", minimum=1, decides=False, was_in="model_cfg")
    beam_size_qa: int | None = setting(None, "beams in answer generation (released VALOR: 1); null: beam_size", minimum=1, decides=False,
                                       newer=True)
    captioner_mode: bool = setting(False, "testing: label the clips of data_cfg.val with captions instead of scoring captions; txt is "
                                          "a JSON list of ids, or of objects with one", decides=False, was_in="model_cfg")
    generate_nums: int = setting(1, "captions per clip in captioner_mode", minimum=1, decides=False, was_in="model_cfg")
    generate_by: Literal["sample", "beam"] = setting("sample", "captioner_mode: draw each token among the 10 most likely, or take the "
                                                               "best texts of a search with beam_size beams",
                                                     decides=False, was_in="model_cfg")
    itm_rerank_num: int = setting(50, "candidates re-ranked by the matching score", minimum=0, decides=False, was_in="model_cfg")
    ret_bidirection_evaluation: bool = setting(False, "also evaluate video-to-text retrieval", decides=False, was_in="model_cfg",
                                               also=("evaluate_ret_text",))
    dual_softmax_evaluation: bool = setting(False, "also retrieval after a dual softmax over the test set, as numbers of their own",
                                            decides=False, was_in="model_cfg", also=("dual_softmax",))
    ret_shared_texts: bool = setting(False, "retrieval: a text that several clips have, word for word, is right with any of them; false, "
                                            "as released: only with the clip that it came with", decides=False, was_in="model_cfg")
    ret_features_dir: str | None = setting(None, "retrieval: folder, common to all processes, that holds contrastive features as float16 "
                                                 "files during a test of very many clips; null: float32 in memory", path=True,
                                           decides=False, was_in="model_cfg")
    rerank_memory_gb: float | None = setting(None, "memory per machine for what re-ranking needs of the clips; those that do not fit are "
                                                   "encoded again, with equal results; null: half of what is free", minimum=0.0,
                                             decides=False, was_in="model_cfg")
    features_dir: str | None = setting(None, "AVLLM: folder that keeps what the frozen towers find in each clip, computed once, for all "
                                             "stages and epochs; frames and slices of sound are then those of a test; null: every clip is "
                                             "decoded and encoded each time", path=True, newer=True)
    java_metrics_seconds: int = setting(0, "time limit of METEOR and of SPICE, which need Java and pycocoevalcap; 0: neither is computed",
                                        minimum=0, decides=False, was_in="model_cfg")
    synonyms: str | None = setting(None, "questions and conversations: JSON file of answers that say the same, [[\"sofa\", \"couch\"], …]: "
                                         "accuracy with them is a number of its own", path=True, decides=False)
    judge: str | None = setting(None, "tests of questions and conversations: what also marks answers: https://…/v1, an endpoint like "
                                      "OpenAI's (key in OMNIVAST_JUDGE_KEY), or a command that reads {\"prompt\": …} by lines and writes "
                                      "a reply to each; null: nothing, since marks of a judge are not comparable", decides=False)
    judge_model: str | None = setting(None, "judge: the model that the endpoint is asked for; of a command: its name in results",
                                      decides=False)
    judge_prompt: str | None = setting(None, "judge: text file of the prompt, with {question}, {answer} and {prediction}; null: our own",
                                       path=True, decides=False)
    judge_seconds: float = setting(60.0, "judge: time limit of each reply", minimum=0.1, decides=False)

@dataclass(frozen=True)
class ModelConfig:
    """The model: towers, widths, text lengths."""

    model_type: str = setting("vast", "the model family, a name registered in model/: vast, gram (VAST with scores by volume), valor, or "
                                      "avllm (a language model that sees and hears)")
    pretrained: bool = setting(True, "towers start from their files in pretrained_weights/; false: from scratch, on purpose", decides=False)
    vision_encoder_type: str | None = setting("evaclip01_giant", "registered vision encoder, timm:<name> or "
                                                                        "open_clip:<name>[:<tag>]; null: none",
                                              also=("video_encoder_type",))
    vision_encoder_cfg: dict[str, Any] = setting({}, "sizes of the vision encoder where they differ from its name's")
    vision_resolution: int = setting(224, "frames are brought to this many pixels square", minimum=1, also=("video_resolution",))
    vision_antialias: bool | None = setting(None, "frames are brought there with antialiasing; null: as for the published results, with it "
                                                  "for vast and gram, without for valor", newer=True)
    max_vision_sample_num: int | None = setting(None, "rows of the learnt frame embedding; null: the largest "
                                                                        "vision_sample_num of data_cfg.train, or else of val",
                                                minimum=1, also=("max_video_sample_num",))
    audio_encoder_type: str | None = setting("beats", "registered audio encoder, or hf:<name or folder>; null: none", path=True)
    audio_encoder_cfg: dict[str, Any] = setting({}, "sizes of the audio encoder where they differ from its name's")
    audio_melbins: int = setting(64, "mel bins", minimum=1)
    audio_target_length: int = setting(1024, "mel frames of a slice (10 ms each)", minimum=1)
    max_audio_sample_num: int | None = setting(None, "rows of the learnt clip embedding; null: the largest "
                                                                       "audio_sample_num of data_cfg.train, or else of val",
                                               minimum=1)
    text_encoder_type: str = setting("bert-base-uncased", "folder under pretrained_weights/bert/ or a path, in Hugging Face layout; or "
                                                          "bert with text_encoder_cfg, from scratch", path=True,
                                     also=("multimodal_encoder_type",),
                                     spelt={"bert_base_uncased": "bert-base-uncased", "bert_large_uncased": "bert-large-uncased"})
    text_encoder_cfg: dict[str, Any] = setting({}, "BertConfig keys that override the folder's config.json")
    tokenizer: str | None = setting(None, "vocab.txt, BERT's tokenizer.json, or a folder with one; null: the text encoder's folder",
                                    path=True)
    contra_dim: int = setting(512, "width of the contrastive space", minimum=1)
    frame_embedding_type: Literal["adaptive", "none"] = setting("adaptive", "adaptive: learnt, interpolated to other counts; none")
    itm_ratio: float = setting(0.1, "VAST: weight of the matching loss (paper: 1; released fine-tuning: 0.1; 0: none)", minimum=0.0,
                               training_only=True, of=VAST_LIKE)
    contrastive_loss: str = setting("softmax", "how pairs are told apart: softmax (over all clips and all texts, by a learnt temperature), "
                                               "or sigmoid (each pair by itself, as SigLIP)", newer=True, training_only=True)
    temperature_per_group: bool = setting(False, "VAST, GRAM: each group has a temperature (sigmoid: scale and bias) of its own",
                                          newer=True, training_only=True, of=VAST_LIKE)
    fused_teaches: float = setting(0.0, "VAST, GRAM: weight of a loss by which each single track's choice among the clips of a batch "
                                        "follows that of the largest group with it, which does not learn by it", minimum=0.0, newer=True,
                                   training_only=True, of=VAST_LIKE)
    matryoshka_dims: list[int] = setting([], "VAST: the contrastive loss is also taken of vectors cut to these lengths, and all are added, "
                                             "so that short vectors retrieve too (see index_dim)", newer=True, training_only=True,
                                         of=("vast",))
    index_dim: int | None = setting(None, "VAST: retrieval is tested with the first so many numbers of each vector; null: with all",
                                    minimum=1, newer=True, of=("vast",))
    clip_pairs: dict[str, float] = setting({}, "VAST: tracks that are also contrasted with each other, and the weight of each loss: "
                                               "{\"va\": 0.5, \"vs\": 0.5}", newer=True, training_only=True, of=("vast",))
    gram_cosine: float = setting(0.0, "model_type gram: share of VAST's cosine in the score, beside 1 minus it of the negative volume "
                                      "(paper: 0)", minimum=0.0, maximum=1.0, decides=("model_type", "gram"), newer=True, of=("gram",))
    gram_volume: Literal["group", "task"] = setting("group", "model_type gram: training takes the volume of each retrieval group, or, as "
                                                             "released, one of all modalities of the task's retrieval groups",
                                                    decides=("model_type", "gram"), newer=True, of=("gram",))
    rejected_weight: float = setting(1.0, "VAST, GRAM: rows with rejected captions ('negatives'): how much each of them counts in its "
                                          "clip's choice among texts, where the clip's own caption counts 1", minimum=0.0, newer=True,
                                     training_only=True, of=VAST_LIKE)
    others_weight: float = setting(0.01, "VAST, GRAM: rows with rejected captions: how much captions of other clips count there",
                                   minimum=0.0, newer=True, training_only=True, of=VAST_LIKE)
    label_smoothing: float | None = setting(None, "VAST: label smoothing of the softmax contrastive loss (null: 0.1); VALOR: of the words "
                                                  "of captions (cap; null: 0)", minimum=0.0, maximum=1.0, training_only=True)
    frozen_vision: bool = setting(False, "the vision encoder is not trained", training_only=True, also=("frozen_video",))
    frozen_audio: bool = setting(False, "the audio encoder is not trained", training_only=True)
    checkpointing: bool = setting(False, "recompute activations in the backward pass to save memory", decides=False)
    missing_modality: Literal["zeros", "mask"] = setting("zeros", "a clip without sound or subtitle: zeros are attended to (as released), "
                                                                  "or its tokens are masked")
    mask_subtitle_padding: bool = setting(False, "padded subtitle tokens are masked (the release attends to them)", of=VAST_LIKE)
    text_branch: int = setting(0, "VAST, GRAM: tokens of a text branch, which reads titles, descriptions and subtitles; captions are "
                                  "written from them and the clip's own (Panda-70M's student: 32); 0: none", minimum=0, newer=True,
                               of=VAST_LIKE)
    text_branch_layers: int = setting(2, "text_branch: its layers", minimum=1, newer=True, of=VAST_LIKE)
    text_branch_dropped: float = setting(0.5, "text_branch: share of training samples without their title and description, and of those "
                                              "without their subtitle", minimum=0.0, maximum=1.0, newer=True, training_only=True,
                                         of=VAST_LIKE)
    max_text_branch_len: int = setting(200, "text_branch: tokens of its texts", minimum=3, newer=True, of=VAST_LIKE)
    max_caption_len: int = setting(40, "tokens of a caption, question or generated caption", minimum=3)
    max_omni_caption_len: int = setting(70, "tokens of an omni caption", minimum=3, of=VAST_LIKE)
    max_subtitle_len: int = setting(70, "tokens of a subtitle", minimum=3, of=VAST_LIKE)
    max_answer_len: int = setting(10, "tokens of an answer", minimum=2)
    contra_type: Literal["fine", "coarse"] = setting("fine", "VALOR: texts and clips are compared token by frame and slice (fine), or one "
                                                             "vector each (coarse)", newer=True, of=("valor",))
    fineweight_type: str = setting("mlp", "VALOR, contra_type fine: none: in tva all tokens, frames and slices weigh the same; any other "
                                          "value: as layers of their own say", newer=True, of=("valor",))
    late_fusion: bool = setting(False, "VALOR: the score of tva is that of vision plus that of sound; false: of both together", newer=True,
                                of=("valor",))
    cross_attn_type: Literal["va_concate", "va_parallel", "video_audio", "audio_video"] = setting(
        "va_concate", "VALOR: how texts attend to vision and sound: to both at once; to each by layers of its own, adding what both give; "
                      "or to one after the other", newer=True, of=("valor",))
    use_task_prompt: bool = setting(False, "VALOR: a sentence that names the task stands beside texts (VALOR-L)", newer=True,
                                    of=("valor",))
    caption_type: Literal["unimlm", "lm"] = setting("unimlm", "VALOR: a caption's words are predicted at a [MASK] in their place, or each "
                                                              "at the one before it (lm)", newer=True, of=("valor",))
    contra_loss_ratio: float = setting(1.0, "VALOR: weight of the contrastive loss (released pretraining: 1.5)", minimum=0.0, newer=True,
                                       of=("valor",))
    full_masker: bool = setting(False, "VALOR: behind captions and answers stands a [MASK] for each of their words, which is predicted "
                                       "there; false: words are hidden in their place", newer=True, training_only=True, of=("valor",))
    share_txt_and_multimodal: bool = setting(True, "VALOR: one BERT encodes texts and decodes; false: two", newer=True, of=("valor",))
    multimodal_use_cross_attn: bool = setting(True, "VALOR: texts attend to clips by cross-attention; false: by self-attention, to which a "
                                                    "clip's tokens are added (merge attention)", newer=True, of=("valor",))
    txt_encoder_type: str = setting("bert_base_uncased", "VALOR: what encodes texts for retrieval: BERT (as text_encoder_type says), "
                                                         "or clip_vit_…, the text tower of the CLIP that is vision_encoder_type",
                                    newer=True, of=("valor",))
    init_clip_head: bool = setting(True, "VALOR with CLIP's text tower: its own projections of texts and frames to the contrastive space, "
                                         "whose width then is CLIP's; false: new ones, to contra_dim", newer=True, of=("valor",))
    clip_text_cfg: dict[str, Any] = setting({}, "sizes of CLIP's text tower where they differ from its name's", newer=True, of=("valor",))
    clip_tokenizer: str | None = setting(None, "for CLIP's text tower: bpe_simple_vocab_16e6.txt.gz, or a folder with vocab.json and "
                                               "merges.txt; null: the file that open_clip brings along", path=True, newer=True,
                                       of=("valor",))
    max_generation_len: int = setting(30, "VALOR: tokens of a generated caption or answer", minimum=1, newer=True, of=("valor",))
    llm: str | None = setting(None, "AVLLM: the language model: a folder of transformers (config.json, safetensors, tokenizer) or a .gguf "
                                    "file (extra llm)", path=True, newer=True, of=("avllm",))
    llm_tune: Literal["projectors", "lora", "full"] = setting(
        "projectors", "AVLLM: what is trained: the projectors alone (stage 1), adapters of the language model too (extra llm), or all its "
                      "weights", newer=True, of=("avllm",))
    llm_lora_rank: int = setting(16, "AVLLM, llm_tune lora: rank of the adapters", minimum=1, newer=True,
                                 decides=("llm_tune", "lora"), of=("avllm",))
    llm_lora_alpha: float = setting(32.0, "AVLLM, llm_tune lora: the adapters' product is scaled by this / rank", minimum=0.0, newer=True,
                                    decides=("llm_tune", "lora"), of=("avllm",))
    llm_lora_dropout: float = setting(0.0, "AVLLM, llm_tune lora: dropout before the adapters", minimum=0.0, maximum=0.99, newer=True,
                                      training_only=True, decides=("llm_tune", "lora"), of=("avllm",))
    llm_lora_targets: list[str] = setting([], "AVLLM, llm_tune lora: ends of the names of linear layers that get one, such as q_proj; "
                                              "empty: all but the word head", newer=True, decides=("llm_tune", "lora"), of=("avllm",))
    llm_template: Literal["auto", "vicuna_v1", "plain"] = setting(
        "auto", "AVLLM: how turns are written: by the chat template of the language model's tokenizer; as Vicuna 1.1; or the answer alone "
                "behind the media (captions, as LLaVA's first stage)", newer=True, of=("avllm",))
    llm_projector: Literal["linear", "mlp"] = setting("linear", "AVLLM: what brings tokens of the towers into the language model: a linear "
                                                                "layer, or two with GELU", newer=True, of=("avllm",))
    llm_normalise: bool = setting(True, "AVLLM: tokens of the towers are brought to mean 0 and variance 1 before their projector, and "
                                        "begin as long as words; false: neither (equation 4 as written)", newer=True, of=("avllm",))
    llm_boundary_tokens: bool = setting(True, "AVLLM: learnt vectors stand before and after each kind of media tokens", newer=True,
                                        of=("avllm",))
    llm_audio_pool: Literal["mean", "none"] = setting("mean", "AVLLM: one token for each slice of sound, the mean of the tower's; or all "
                                                              "of them", newer=True, of=("avllm",))
    llm_vision_layer: int = setting(-2, "AVLLM: the layer of the vision tower whose output is taken: -1 the last, -2 the one before it",
                                    minimum=-2, maximum=-1, newer=True, of=("avllm",))
    llm_subtitle: Literal["none", "prompt"] = setting("none", "AVLLM: prompt: a clip's subtitle stands as text before the first question",
                                                      newer=True, of=("avllm",))
    llm_context: int | None = setting(None, "AVLLM: tokens of a conversation at most, media and answers included; null: as many as the "
                                            "language model was made for", minimum=8, newer=True, of=("avllm",))
    llm_cut_long_rows: bool = setting(False, "AVLLM: a conversation longer than llm_context is cut at its end; false: it is an error",
                                      newer=True, of=("avllm",))
    inherit_keys: list[str] = setting([], "model_cfg keys taken from the pretrained run's log/hps.json when not set here", decides=False)


@dataclass(frozen=True)
class DatasetConfig:
    """One corpus of data_cfg.train or data_cfg.val."""

    name: str = setting("", "name in logs and metrics")
    type: str = setting("annoindexed", "where its clips lie, a name registered in data/dataset.py: annoindexed, on disk, beside a JSON "
                                       "list; srcindexed, in tar shards; valor, on disk, beside a list of ids and an object of their texts")
    training: bool | None = setting(None, "as in the release; must agree with the list it stands in", decides=False)
    task: str = setting("", "for example ret%tvas%tv_cap%tva")
    txt: str = setting("", "annotation file; srcindexed: may be left out where the shards hold the texts (key.json or key.txt)", path=True)
    ids_path: str | None = setting(None, "valor: the JSON list of the clips' ids; txt is an object, id → caption, captions, or questions",
                                   path=True, decides=("type", "valor"), newer=True)
    test_one: bool = setting(False, "valor, testing: the first of a clip's captions is a query, not each of them", newer=True)
    shards: list[str] = setting([], "srcindexed: tar files, folders of them, or patterns (with *, {000..127} or {a,b}) with members "
                                    "key.mp4, key.jpg, key.wav, key.json …", path=True, decides=("type", "srcindexed"))
    shuffle_shards: int = setting(0, "srcindexed: training reads so many shards at a time, in a random order of shards, and shuffles "
                                     "their clips (for disks slow at random access); 0: shuffles all clips", minimum=0,
                                  decides=("type", "srcindexed"))
    hard_negatives: str | None = setting(None, "training: JSON file, clip id → ids of clips that its texts are mistaken for (omnivast mine "
                                               "writes one); the second of every two clips of a batch is one of the first's", path=True,
                                         newer=True, training_only=True)
    vision: str | None = setting(None, "folder of videos, frame folders or images", path=True, also=("video",))
    audio: str | None = setting(None, "folder of sound files; null: the sound is the video's own track", path=True)
    vision_format: Literal["video_rawvideo", "video_frame", "image_rawimage", "video"] = setting(
        "video_rawvideo", "what the vision folder holds: videos, folders of frames, images; or video: videos and folders of frames, as "
                          "found")
    vision_transforms: Literal["none", "crop_flip"] = setting("none", "none: resize to a square; crop_flip: random crop "
                                                                             "and flip in training", also=("video_transforms",))
    vision_sample_num: int | None = setting(None, "frames per clip", minimum=1, also=("video_sample_num",))
    audio_sample_num: int | None = setting(None, "sound slices per clip", minimum=1)
    epoch: float | None = setting(None, "passes over the corpus", minimum=0.0, length=True)
    steps: int | None = setting(None, "optimiser steps with this corpus, instead of epoch", minimum=0, length=True)
    whole_batches: bool = setting(False, "an epoch has ⌊clips / batch_size⌋ steps (as in the released VALOR); false: epochs are rounded up "
                                         "together", length=True, newer=True)
    joined: str = setting("", "training: datasets of one such name are one corpus of that name: each batch is drawn from the clips of all",
                          newer=True)
    batch_size: int = setting(64, "clips per step over all processes", minimum=1, training_only=True)
    n_workers: int = setting(8, "worker processes that read and decode; -1: as many as the cores of each process allow",
                             minimum=-1, passive=True)
    annfile: str | None = setting(None, "COCO-style reference captions for caption metrics; null: the annotation file's own", path=True,
                                  decides=False)
    video_decoder: Literal["av", "decord", "torchcodec"] = setting(
        "av", "library that decodes the frames of videos: av (PyAV, nothing else needed); torchcodec (extra torchcodec, and FFmpeg's "
              "shared libraries on the machine), the same frames, but it cannot read H.264 in AVI; decord (extra decord; no new version "
              "since 2021), other frames of some MPEG-4 files, no AV1")
    audio_backend: Literal["native", "torchaudio", "librosa"] = setting(
        "native", "library that resamples sound, which PyAV decodes: native; torchaudio, also for the filterbank of BEATs and AST (extra "
                  "torchaudio); librosa (extra librosa). Log-mel values, normalised, differ by less than 0.0002; where sound is resampled, "
                  "by less than 0.02 on average", newer=True)
    audio_sample_rate: int | None = setting(None, "model_type valor with ast, which takes sound at each file's own rate and was trained at "
                                                  "22050: samples a second to which all sound is brought; null: the files' own, as "
                                                  "released", minimum=4_000, maximum=192_000, newer=True)
    cache_dir: str | None = setting(None, "folder that keeps decoded frames and mel spectrograms once read; null: decode every time",
                                      path=True, passive=True)
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


LABEL_SMOOTHING = {"valor": 0.0}
"""Families whose label_smoothing is another than VAST's 0.1 where none is set."""


def label_smoothing(cfg: ModelConfig) -> float:
    """The label smoothing that is set, or the family's."""
    return LABEL_SMOOTHING.get(cfg.model_type, 0.1) if cfg.label_smoothing is None else cfg.label_smoothing


def completed(cfg: ModelConfig) -> ModelConfig:
    """The settings with those filled in whose default is the family's."""
    return replace(cfg, label_smoothing=label_smoothing(cfg))


def task_of(dataset: DatasetConfig) -> Task:
    """The dataset's task, parsed."""
    return Task.parse(dataset.task)
