"""The loaders of a run from its config: this process's share of the training corpora and of the evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from config.schema import Config
from data.loader import EvalLoader, TrainLoader
from data.spec import InputSpec, Tokenizer, UnreadableError
from utils import distributed


def build_loaders(config: Config, tokenizer: Tokenizer, audio_frontend: str, device: torch.device
                  ) -> tuple[TrainLoader | None, list[EvalLoader]]:
    """The loader of ``data_cfg.train``, None for a run that only evaluates, and one for each dataset of ``data_cfg.val``.

    ``tokenizer`` and ``audio_frontend`` (a name in data/audio.py) are the model's. Reads and checks all annotations, and, before a
    training, looks at some clips of the evaluation sets. Raises DataError, AnnotationError, UnreadableError.
    """
    run, data, spec = config.run_cfg, config.data_cfg, InputSpec.of(config.model_cfg, audio_frontend)
    shared: dict[str, Any] = {"seed": run.seed, "rank": distributed.rank(), "world_size": distributed.world_size(),
                              "pin_memory": run.pin_mem and device.type == "cuda"}
    loader = None
    # With zero_shot there may be nothing to train on.
    if run.mode == "training" and data.train:
        loader = TrainLoader(data.train, spec, tokenizer, accumulation=run.gradient_accumulation_steps,
                             num_train_steps=run.num_train_steps, mix=run.dataset_mix_type, **shared)
    evaluations = [EvalLoader(dataset, spec, tokenizer, skip_unreadable=run.skip_unreadable, **shared) for dataset in data.val]
    if loader is not None and not (run.dry_run or run.skip_unreadable):
        _glance(evaluations)
    return loader, evaluations


def _glance(evaluations: Sequence[EvalLoader]) -> None:
    """Clips that would end a training at its evaluation are better told of before it: what the main process sees at once, all tell."""
    found = [(loader.name, faults) for loader in evaluations if (faults := loader.glance())] if distributed.is_main() else []
    for name, faults in distributed.all_gather_objects(found)[0]:
        raise UnreadableError.of(name, faults, "evaluations would stop at them. Repair them, or leave them out with --skip_unreadable true "
                                               "(`python -m data.check` opens every clip)")
