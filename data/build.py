"""The loaders of a run from its config: this process's share of the training corpora and of the evaluation sets."""

from __future__ import annotations

from typing import Any

import torch

from config.schema import Config
from data.loader import EvalLoader, TrainLoader
from data.spec import InputSpec, Tokenizer
from utils import distributed


def build_loaders(config: Config, tokenizer: Tokenizer, audio_frontend: str, device: torch.device
                  ) -> tuple[TrainLoader | None, list[EvalLoader]]:
    """The loader of ``data_cfg.train``, None for a run that only evaluates, and one for each dataset of ``data_cfg.val``.

    ``tokenizer`` and ``audio_frontend`` (a name in data/audio.py) are the model's. Reads and checks all annotations. Raises DataError,
    AnnotationError.
    """
    run, data, spec = config.run_cfg, config.data_cfg, InputSpec.of(config.model_cfg, audio_frontend)
    shared: dict[str, Any] = {"seed": run.seed, "rank": distributed.rank(), "world_size": distributed.world_size(),
                              "pin_memory": run.pin_mem and device.type == "cuda"}
    loader = None
    # With zero_shot there may be nothing to train on.
    if run.mode == "training" and data.train:
        loader = TrainLoader(data.train, spec, tokenizer, accumulation=run.gradient_accumulation_steps,
                             num_train_steps=run.num_train_steps, mix=run.dataset_mix_type, **shared)
    return loader, [EvalLoader(dataset, spec, tokenizer, skip_unreadable=run.skip_unreadable, **shared) for dataset in data.val]
