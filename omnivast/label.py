"""The verb that captions one's own clips, by any trained model that captions.

    python -m omnivast label CLIPS [CLIPS …] --model RUN [--output FOLDER] [flags of run.py]

CLIPS: folders, patterns, media files, or lists (.txt, .csv, .json) of ids or paths. RUN: the output folder of a training, or one of its
checkpoints. Writes ``labels.json`` (an annotation file), ``labels.csv``, ``unreadable.json`` and, for clips whose captions are empty,
``without_words.json`` into the output folder. The same command again goes on where it was stopped, and labels what was added to CLIPS
since.
"""

from __future__ import annotations

import argparse
import glob
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

import omnivast
from omnivast import launch
from omnivast.config.fields import ConfigError
from omnivast.config.tasks import TaskError
from omnivast.data.annotations.own_clips import find_files
from omnivast.data.spec import DataError
from omnivast.evaluation.label import LabelError, add_clips, config_of, gather, groups_of, open_state, read_model
from omnivast.utils.files import write_atomically
from omnivast.utils.log import setup_logging

logger = logging.getLogger("omnivast")


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m omnivast label", allow_abbrev=False, description="Captions for one's own videos, "
                                     "pictures and sounds, by any trained model that captions. The same command again goes on where it was "
                                     "stopped, and labels what was added since. All other flags, behind these, go to run.py "
                                     "(--test_batch_size 4, --generate_by sample, --device cpu, …).")
    parser.add_argument("clips", nargs="+", metavar="CLIPS", help="a folder (with all below it), a pattern such as 'clips/*.mp4', media "
                        "files, or a list of ids or paths: .txt (one a line), .csv (a column of them, one may be called subtitle) or .json")
    parser.add_argument("--model", "--checkpoint", "--pretrain_dir", type=Path, required=True, metavar="RUN", dest="model",
                        help="output folder of a training, or a checkpoint in one")
    parser.add_argument("--output", "--output_dir", type=Path, metavar="FOLDER", dest="output",
                        help="where labels.json and labels.csv go; default: output/captions/<CLIPS>")
    parser.add_argument("--media", metavar="FOLDER", help="the folder that the entries of lists are looked up in; default: the working "
                        "directory, then the list's own folder")
    parser.add_argument("--groups", nargs="+", default=[], metavar="GROUP", help="caption by these (tv: vision, ta: sound, tva: both, "
                        "tvas: and subtitles), each clip by all that it allows; default: by the fullest group that the model was trained "
                        "on and the clip holds. Subtitles come from the list or from a .srt, .vtt or .txt file beside the clip")
    parser.add_argument("--captions", type=int, default=1, metavar="N", help="captions per clip: 1, the default, is the best of a beam "
                        "search; more are drawn at random")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs to use; default: all of this machine")
    options, flags = parser.parse_known_args(arguments)
    if options.captions < 1:
        parser.error(f"--captions: expected 1 or more, got {options.captions}")
    if reserved := {"--config", "--mode", "--data_cfg.val", "--captioner_mode"} & {flag.split("=")[0] for flag in flags}:
        parser.error(f"{', '.join(sorted(reserved))}: this command sets that itself")
    options.model = options.model.expanduser()
    name = next((part for part in reversed(Path(options.clips[0]).expanduser().absolute().parts) if not glob.has_magic(part)), "clips")
    options.output = (options.output or Path("output", "captions", Path(name).stem)).expanduser()
    return options, flags


def _run(config: Path, gpus: int, flags: Sequence[str]) -> int:
    """A run in this process, so that what ends one ends both; on several GPUs by torchrun. Its exit status."""
    words = ["--config", str(config), *flags]
    if gpus == 0:
        words += ["--device", "cpu"]
    try:
        if gpus > 1:
            root = str(Path(omnivast.__file__).resolve().parent.parent)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            torchrun(["--standalone", "--nproc_per_node", str(gpus), "-m", "omnivast.launch", *words])
        else:
            launch.run(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ChildFailedError as error:  # each process has said why
        return max(failure.exitcode for failure in error.failures.values())
    return 0


def main(arguments: Sequence[str]) -> int:
    """Label; the exit status: 0 done, 2 bad input, named in one message, else run.py's."""
    options, flags = _options(arguments)
    setup_logging(None)
    try:
        model = read_model(options.model)
        groups = groups_of(options.groups, model)
        files = find_files(options.clips, options.media)
        if files.missing:
            logger.warning("%d entries have no file, '%s' first: %s", len(files.missing), *next(iter(files.missing.items())))
        state = open_state(options.output, files, groups)
        add_clips(state, files, model, options.output)
        config = write_atomically(options.output / "config.json",
                                  json.dumps(config_of(model, state, options.output, options.captions), indent=1) + "\n")
    except (LabelError, DataError, ConfigError, TaskError, OSError) as error:
        logger.error("label: %s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on")
        return 128 + signal.SIGINT
    gpus = torch.cuda.device_count() if options.gpus is None else options.gpus
    status = _run(config, -1 if options.gpus is None and gpus == 0 else gpus, flags)
    if status:
        return status
    counts = gather(state, files, options.output)
    logger.info("%d clips are captioned in %s and labels.json; %d could not be read (unreadable.json)", counts["labelled"],
                options.output / "labels.csv", counts["unreadable"])
    if counts["without_words"]:
        logger.warning("of %d clips the model wrote empty captions alone (without_words.json); trained for longer it may write some",
                       counts["without_words"])
    return 0
