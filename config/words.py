"""Suggestions for names that are not known: words of error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

LIKELY, POSSIBLE = 0.75, 0.6
"""Similarities (difflib) of names: a misspelling, and the least that is worth a question."""

# Names that other programs use, and the keys that mean the same here. A key may be followed by the value meant.
ALIASES: dict[str, tuple[str, ...]] = {
    alias: keys for names, keys in (
        ("lr base_lr", ("learning_rate",)),
        ("new_learning_rate", ("new_lr",)),
        ("wd", ("weight_decay",)),
        ("optimizer optimiser", ("optim",)),
        ("lr_scheduler lr_schedule schedule", ("scheduler",)),
        ("warmup warmup_steps", ("warmup_ratio",)),
        ("grad_clip clip_grad max_grad_norm clip_grad_norm gradient_clipping", ("grad_norm",)),
        ("accum accumulation accumulation_steps grad_accum accumulate_grad_batches", ("gradient_accumulation_steps",)),
        ("random_seed", ("seed",)),
        ("half dtype mixed_precision autocast", ("precision",)),
        ("out output outdir log_dir logdir save_dir exp_dir", ("output_dir",)),
        ("ckpt load weights ckpt_path checkpoint_path model_path init_from", ("checkpoint",)),
        ("resume_from resume_from_checkpoint", ("resume", "checkpoint")),
        ("eval evaluate eval_only do_eval test testing", ("mode testing",)),
        ("train do_train", ("mode training",)),
        ("eval_freq eval_every eval_steps eval_interval valid_steps", ("valid_freq",)),
        ("save_steps save_freq save_interval", ("save_every",)),
        ("log_every log_freq log_interval logging_steps", ("log_steps",)),
        ("batch bs batchsize", ("batch_size",)),
        ("epochs num_epochs n_epochs max_epochs num_train_epochs", ("epoch",)),
        ("max_steps num_steps total_steps iters iterations", ("num_train_steps", "steps")),
        ("workers num_workers", ("n_workers",)),
        ("frames num_frames n_frames", ("vision_sample_num",)),
        ("tasks", ("task",)),
        ("annotations annotation ann anno", ("txt",)),
        ("videos video video_dir images", ("vision",)),
        ("references reference", ("annfile",)),
        ("gradient_checkpointing grad_checkpointing activation_checkpointing", ("checkpointing",)),
        ("beam beams num_beams", ("beam_size",)),
        ("resolution image_size img_size", ("vision_resolution",)),
        ("backbone vision_encoder vision_tower", ("vision_encoder_type",)),
        ("audio_encoder audio_tower", ("audio_encoder_type",)),
        ("text_encoder bert", ("text_encoder_type",)),
        ("model", ("model_type", "checkpoint")),
        ("num_captions", ("generate_nums",)),
    ) for alias in names.split()
}


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest of the valid names; nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(valid), n=1, cutoff=POSSIBLE)
    return asked(near)


def asked(names: Iterable[str]) -> str:
    """`` Did you mean 'x' or 'y'?``; nothing for no names."""
    quoted = [f"'{name}'" for name in dict.fromkeys(names)]
    return f" Did you mean {' or '.join(quoted)}?" if quoted else ""


def nearest_keys(name: str, keys: Collection[str]) -> list[str]:
    """The keys that ``name`` may stand for, best first: of that meaning, spelt almost so, or with that word in them."""
    name = name.lower().replace("-", "_")
    if name in keys:
        return [name]
    meant = [key for key in ALIASES.get(name, ()) if key.split()[0] in keys]
    if meant:
        return meant
    likely = difflib.get_close_matches(name, keys, n=1, cutoff=LIKELY)
    with_word = [key for key in keys if name in key.split("_")]
    return likely or (with_word if len(with_word) <= 3 else []) or difflib.get_close_matches(name, keys, n=1, cutoff=POSSIBLE)
