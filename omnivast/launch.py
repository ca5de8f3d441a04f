"""One run from a config: parse, set up the processes, dispatch on ``run_cfg.mode``. What run.py and ``omnivast train`` do.

Exit status: 0 done; 2 bad input, named in one message; 75 a process of several hung, or one that reads data died: worth another start;
130, 138, 143 stopped by SIGINT, SIGUSR1, SIGTERM after saving.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from omnivast.config.inherit import trained_counts
from omnivast.config.load import load_config, resolved
from omnivast.data.build import build_loaders, require_known
from omnivast.data.check.datasets import require
from omnivast.data.features import FeatureStore
from omnivast.data.limits import LoaderError, workers_explained
from omnivast.data.spec import InputSpec, UnreadableError
from omnivast.evaluation.captions.reward import set_reward
from omnivast.evaluation.published import log_splits
from omnivast.evaluation.run import evaluate_weights, evaluator, precision_begun
from omnivast.features import keep_features
from omnivast.model.build import model_of, set_precision
from omnivast.model.weights import load_weights, start_weights
from omnivast.model.weights.origin import check_origin
from omnivast.training.checkpoints.checkpoint import CheckpointError, check_output_dir, holds_checkpoint, kept_precision
from omnivast.training.checkpoints.lock import OutputLock
from omnivast.training.dry_run import dry_run
from omnivast.training.logs.monitor import UnreadableShare
from omnivast.training.logs.nonfinite import NonFiniteLoss
from omnivast.training.loop import train
from omnivast.utils import distributed
from omnivast.utils.ending import end_with
from omnivast.utils.files import write_atomically
from omnivast.utils.log import setup_logging
from omnivast.utils.watchdog import EXIT_STATUS


def main(argv: Sequence[str]) -> None:
    """Parse, set up the processes, dispatch on run_cfg.mode."""
    config = load_config(argv)
    require_known(config)
    # A rank that hangs is to be named by the watchdog, before the others' exchanges give it up.
    device = distributed.setup(config.run_cfg.device, timeout_minutes=max(30.0, config.run_cfg.hang_minutes + 10.0))
    run, training = config.run_cfg, config.run_cfg.mode == "training"
    check_output_dir(run.output_dir, new_run=training and not run.resume)
    with OutputLock(Path(run.output_dir)) if training and not run.dry_run else nullcontext(), workers_explained():
        setup_logging(run.output_dir)
        distributed.set_threads(run.num_threads)
        resuming = training and run.resume and holds_checkpoint(run.output_dir)
        start = None if resuming else start_weights(run.checkpoint, run.pretrain_dir, run.pretrain_step)
        if start is not None:
            check_origin(start, config.model_cfg, testing=run.zero_shot or not training, partly=bool(run.allow_missing))
        model = model_of(config, load_towers=start is None and not resuming)
        as_asked = resolved(config)
        store = FeatureStore(run.features_dir) if run.features_dir else None
        spec = InputSpec.of(config.model_cfg, model.audio_frontend, run.captioner_mode, model.frame_resize, model.one_caption_length,
                            model.conversations, store, model.learns_negatives)
        loader, eval_loaders = build_loaders(config, model.tokenizer, spec, device)
        log_splits(loader, eval_loaders)
        weights = load_weights(model, start, run.allow_missing) if start else None
        if weights and run.pretrain_dir and not run.checkpoint:
            model.was_trained_with(trained_counts(run.pretrain_dir))
        kept = kept_precision(run.output_dir) if resuming else None if training else precision_begun(config, eval_loaders, weights)
        config, precision = set_precision(model, config, device, kept)
        if distributed.is_main() and not resuming and not run.dry_run:
            file = Path(run.output_dir, "log", "hps.json" if training else "hps_testing.json")
            write_atomically(file, json.dumps(as_asked, indent=2) + "\n")
        model.to(device)
        if store is not None and not run.dry_run:
            keep_features(model, [*(loader.parts if loader else ()), *(tested.part for tested in eval_loaders)], store, config, resuming)
        set_reward(model, run, loader)
        if run.dry_run:
            require(config, spec)
            dry_run(config, model, loader, eval_loaders, device)
        elif loader is not None:
            train(config, model, loader, evaluate=evaluator(model, eval_loaders, config, weights, precision), device=device)
        else:
            evaluate_weights(model, eval_loaders, config, weights, precision)


def run(argv: Sequence[str]) -> None:
    """``main`` with every expected error told in one line; ends the process with the status that the module's docstring lists."""
    try:
        main(argv)
    except (KeyboardInterrupt, ValueError, CheckpointError, NonFiniteLoss, UnreadableShare, UnreadableError, LoaderError) as error:
        if os.environ.get("OMNIVAST_TRACEBACK"):
            raise
        status = {KeyboardInterrupt: 128 + signal.SIGINT, LoaderError: EXIT_STATUS}.get(type(error), 2)
        sys.exit(end_with(f"{type(error).__name__}: {str(error) or 'stopped'}", status))
    finally:
        distributed.teardown()


if __name__ == "__main__":
    run(sys.argv[1:])
