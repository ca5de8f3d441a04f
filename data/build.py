"""The loaders of a run from its config: this process's share of the training corpora and of the evaluation sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from omnivast.config.schema import Config
from omnivast.data.dataset import opener
from omnivast.data.loader import EvalLoader, TrainLoader
from omnivast.data.spec import InputSpec, Tokenizer, UnreadableError
from omnivast.utils import distributed

logger = logging.getLogger("omnivast")


def require_known(config: Config) -> None:
    """Raise DataError for a dataset whose ``type`` is not known, before a model is built for it."""
    for dataset in (*config.data_cfg.train, *config.data_cfg.val):
        opener(dataset)


def build_loaders(config: Config, tokenizer: Tokenizer, spec: InputSpec,
                  device: torch.device) -> tuple[TrainLoader | None, list[EvalLoader]]:
    """The loader of ``data_cfg.train``, None for a run that only evaluates, and one for each dataset of ``data_cfg.val``.

    ``tokenizer`` and ``spec`` are the model's. Reads and checks all annotations, and looks for the clips of the evaluation sets. Raises
    DataError, AnnotationError, UnreadableError.
    """
    run, data = config.run_cfg, config.data_cfg
    shared: dict[str, Any] = {"seed": run.seed, "rank": distributed.rank(), "world_size": distributed.world_size(),
                              "pin_memory": run.pin_mem and device.type == "cuda"}
    loader = None
    # With zero_shot there may be nothing to train on.
    if run.mode == "training" and data.train:
        loader = TrainLoader(data.train, spec, tokenizer, accumulation=run.gradient_accumulation_steps,
                             num_train_steps=run.num_train_steps, mix=run.dataset_mix_type, order=run.modality_order, **shared)
    evaluations = [EvalLoader(dataset, spec, tokenizer, skip_unreadable=run.skip_unreadable, **shared) for dataset in data.val]
    if not run.dry_run:
        _glance(evaluations, borne=run.skip_unreadable or run.captioner_mode)
    return loader, evaluations


def _glance(evaluations: Sequence[EvalLoader], borne: bool) -> None:
    """Look for unreadable clips in the evaluation sets now, since they would otherwise stop a test, or a training at its first
    evaluation, after hours of work. The main process looks, and every process raises the same error. ``borne``: such clips will be left
    out of the evaluation, so they are only logged."""
    found = [(loader.name, faults) for loader in evaluations if (faults := loader.glance())] if distributed.is_main() else []
    for name, faults in distributed.all_gather_objects(found)[0]:
        if not borne:
            raise UnreadableError.of(name, faults, "evaluations would stop at them. Repair them, or leave them out with --skip_unreadable "
                                                   "true (`python -m omnivast check` opens every clip)")
        if distributed.is_main():
            clip_id, reason = faults[0]
            logger.warning("dataset '%s': at a first glance %d clip(s) are unreadable and will be left out, '%s' first: %s", name,
                           len(faults), clip_id, reason)
