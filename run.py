"""Train or test VAST from a JSON config: ``python run.py --config config/debug/tiny.json --output_dir output/debug``.

The same command runs under ``python``, ``torchrun`` and ``python -m torch.distributed.launch``. ``--help`` lists every setting.
Exit status: 0 done; 2 bad input, named in one message; 130, 138, 143 stopped by SIGINT, SIGUSR1, SIGTERM after saving.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config.load import config_hash, load_config, resolved
from config.schema import Config, task_of
from data.check import require as check_datasets
from data.loader import EvalLoader, LoaderError, TrainLoader
from data.spec import InputSpec, UnreadableError
from evaluation.benchmarks import log_splits
from evaluation.protocol import checkpoint_facts
from evaluation.reward import set_reward
from evaluation.run import evaluate
from model.build import build_model, precision
from model.vast import VAST
from model.weights import load_weights, start_weights
from training.check import dry_run
from training.checkpoint import CheckpointError, check_output_dir, holds_checkpoint
from training.lock import OutputLock
from training.loop import NonFiniteLoss, train
from training.monitor import UnreadableShare
from utils import distributed
from utils.files import write_atomically
from utils.log import setup_logging
from utils.random import seed_everything

log = logging.getLogger("omnivast")
DRY_RUN_CLIPS = 64
"""Clips of each dataset that a dry run opens."""


def main(argv: Sequence[str]) -> None:
    """Parse, set up the processes, dispatch on run_cfg.mode."""
    config = load_config(argv)
    device = distributed.setup(config.run_cfg.device)
    run = config.run_cfg
    if run.fp16 and device.type == "cpu":
        log.warning("run_cfg.fp16 needs a GPU: this run on the CPU uses float32 (--bf16 true is faster on CPUs that have it)")
        run = replace(run, fp16=False)
        config = replace(config, run_cfg=run)
    training = run.mode == "training"
    check_output_dir(run.output_dir, new_run=training and not run.resume)
    with OutputLock(Path(run.output_dir)) if training and not run.dry_run else nullcontext():
        setup_logging(run.output_dir)
        _run(config, device)


def _run(config: Config, device: torch.device) -> None:
    run = config.run_cfg
    training = run.mode == "training"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(run.num_threads or max(1, (os.cpu_count() or 1) // processes))
    resuming = training and run.resume and holds_checkpoint(run.output_dir)
    start = None if resuming else start_weights(run.checkpoint, run.pretrain_dir)
    model = _model(config, load_towers=start is None and not resuming)
    loader, eval_loaders = _loaders(config, model, device)
    log_splits(loader, eval_loaders)
    report = load_weights(model, start, run.allow_missing) if start else None
    if distributed.is_main() and not resuming and not run.dry_run:
        name = "hps.json" if training else "hps_testing.json"
        write_atomically(Path(run.output_dir, "log", name), json.dumps(resolved(config), indent=2) + "\n")
    model.to(device)
    set_reward(model, run, loader)
    provenance = {**checkpoint_facts(report), "config_hash": config_hash(config)}
    results = Path(run.output_dir, "results")
    if run.dry_run:
        if distributed.is_main():
            check_datasets(config, clips=DRY_RUN_CLIPS)
        dry_run(config, model, loader, eval_loaders, device)
    elif loader is not None:
        train(config, model, loader, device=device, evaluate=None if not eval_loaders else lambda step: evaluate(
            model, eval_loaders, config, folder=results / f"step_{step}", provenance={**provenance, "step": step}))
    else:
        with torch.no_grad():
            metrics = evaluate(model, eval_loaders, config, folder=results, provenance=provenance)
        log.info("results in %s\n%s", results, "\n".join(f"  {name:<48} {value:7.2f}" for name, value in metrics.items()))


def _model(config: Config, load_towers: bool) -> VAST:
    seed_everything(config.run_cfg.seed, "model")
    model = build_model(config.model_cfg, load_towers=load_towers)
    model.precision = precision(config.run_cfg.bf16, config.run_cfg.fp16)
    model.gather_with_grad = config.run_cfg.gather_with_grad
    for dataset in (*config.data_cfg.train, *config.data_cfg.val):
        model.check_task(task_of(dataset))
    return model


def _loaders(config: Config, model: VAST, device: torch.device) -> tuple[TrainLoader | None, list[EvalLoader]]:
    run, spec = config.run_cfg, InputSpec.of(config.model_cfg, model.audio_frontend)
    shared: dict[str, Any] = {"seed": run.seed, "rank": distributed.rank(), "world_size": distributed.world_size(),
                              "pin_memory": run.pin_mem and device.type == "cuda"}
    loader = None
    if run.mode == "training":
        loader = TrainLoader(config.data_cfg.train, spec, model.tokenizer, accumulation=run.gradient_accumulation_steps,
                             num_train_steps=run.num_train_steps, mix=run.dataset_mix_type, **shared)
    skip = run.skip_unreadable
    return loader, [EvalLoader(d, spec, model.tokenizer, skip_unreadable=skip, **shared) for d in config.data_cfg.val]


def _report_bad_input(error: Exception) -> int:
    """One message instead of a traceback for what the user can mend; the log file, where there is one, keeps it."""
    log.error("%s: %s", type(error).__name__, error)
    return 2


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, CheckpointError, NonFiniteLoss, UnreadableShare, UnreadableError, LoaderError) as error:
        if os.environ.get("OMNIVAST_TRACEBACK"):
            raise
        sys.exit(_report_bad_input(error))
    finally:
        distributed.teardown()
