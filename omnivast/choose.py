"""The verb that chooses the best caption of each clip.

    python -m omnivast choose ROWS.json --model RUN --media FOLDER --output FOLDER
    python -m omnivast choose CORPUS --model RUN --output FOLDER

ROWS.json is an annotation file whose clips have several captions each; rejected ones (``negatives``) stand among them, and then the share
of clips is told for which one of their own is chosen, and the threshold that tells own from rejected ones best. CORPUS is the folder of
``omnivast build`` whose clips were captioned. Writes ``choices.jsonl`` (every caption with its score), ``annotations.json`` (the best, of
clips where it scores the threshold or more) and ``summary.json``. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omnivast.config.files import read_json
from omnivast.config.paths import as_path
from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Group, Objective, TaskError
from omnivast.corpus.caption_rows import caption_rows
from omnivast.corpus.plan import BuildError, Plan
from omnivast.data.loader import EvalLoader
from omnivast.data.spec import DataError, UnreadableError
from omnivast.evaluation.choose import THRESHOLD, By, score_all, write_choice
from omnivast.inference.loading import Loaded, load_parts
from omnivast.utils.files import write_atomically
from omnivast.utils.log import setup_logging

BATCH = 32

logger = logging.getLogger("omnivast")


class ChooseError(ValueError):
    """Something that is asked for and cannot be; the message says what would."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast choose", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("rows", type=as_path, metavar="ROWS", help="an annotation file, or the folder of a corpus")
    result.add_argument("--model", required=True, metavar="RUN", help="the output folder of a training for retrieval, a checkpoint in it, "
                        "or a shared folder")
    result.add_argument("--media", metavar="FOLDER", help="the folder of the clips; of a corpus: its videos, if they have moved")
    result.add_argument("--output", type=as_path, required=True, metavar="FOLDER", help="where the choice goes")
    result.add_argument("--group", help="the tracks to look at: tv, tva, tvas … (default: the largest that the model was trained with); "
                        "tv chooses among vision captions, ta among audio captions, others among omni captions, where rows have them apart")
    result.add_argument("--by", choices=("matching", "contrastive"), help="the matching head (default, where there is one), or the "
                        "contrastive similarity")
    result.add_argument("--threshold", type=_threshold, default=THRESHOLD, metavar="X", help="captions that score less are left out of "
                        f"annotations.json: a number (default {THRESHOLD}, Panda-70M's), or the summary.json of a choice among labelled "
                        "captions, whose calibrated threshold is taken")
    result.add_argument("--captions", type=as_path, metavar="FOLDER", help="of a corpus: the results of captioning below work/, if there "
                        "are several")
    result.add_argument("--batch_size", type=int, default=BATCH, metavar="N", help=f"clips at once (default {BATCH})")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    result.add_argument("--precision", choices=("auto", "float32", "bf16", "fp16"), help="default: as the model was trained")
    result.add_argument("--cache_dir", type=as_path, metavar="FOLDER", help="keeps decoded clips")
    return result


def _threshold(text: str) -> float | Path:
    try:
        value = float(text)
    except ValueError:
        return as_path(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: expected a number")
    return value


def choose(options: argparse.Namespace) -> dict[str, Any]:
    """What ``summary.json`` says. Raises ChooseError, BuildError, DataError, UnreadableError, and what loading a model raises."""
    if options.batch_size < 1:
        raise ChooseError(f"--batch_size is at least 1; got {options.batch_size}")
    threshold = _calibrated(options.threshold) if isinstance(options.threshold, Path) else options.threshold
    rows, media = (_of_corpus(options) if options.rows.is_dir() else (options.rows, options.media))
    if not media:
        raise ChooseError("where are the clips? Name their folder with --media")
    parts = load_parts(options.model, device=options.device, precision=options.precision)
    group, by = _group(parts, options.group), _by(parts, options.by)
    shown = parts.sampling
    dataset = DatasetConfig(name="choose", task=f"ret%{group}", txt=str(rows), vision=str(media), vision_sample_num=shown.frames,
                            audio_sample_num=shown.slices, vision_transforms=shown.transform, batch_size=options.batch_size, n_workers=-1,
                            cache_dir=options.cache_dir and str(options.cache_dir))
    loader = EvalLoader(dataset, shown.spec, parts.model.tokenizer, skip_unreadable=True)
    found = score_all(parts.model, loader, group, by, options.output, _known_by(parts))
    unreadable = loader.provenance["unreadable"]
    for clip_id, reason in unreadable[:3]:
        logger.warning("left out: %s: %s", clip_id, reason)
    facts = {"rows": str(options.rows), "model": str(options.model), "group": str(group), "by": by, "unreadable": len(unreadable)}
    return write_choice(options.output, found, loader.part.annotations, group.caption_kind, threshold, facts)


def _known_by(parts: Loaded) -> str:
    """What says that two calls have the same weights and precision."""
    return f"{parts.weights.sha256} {parts.model.precision} {parts.sampling.frames} {parts.sampling.slices}"


def _calibrated(path: Path) -> float:
    content = read_json(path, ChooseError, what="summary")
    found = content.get("calibrated") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ChooseError(f"{path}: has no calibrated threshold; expected the summary.json of a choice whose rows have 'negatives'")
    return float(found["threshold"])


def _group(parts: Loaded, asked: str | None) -> Group:
    known = parts.groups.get(Objective.RETRIEVAL, ())
    if not known:
        raise ChooseError("this model was not trained for retrieval ('ret'), so that it cannot compare captions with clips")
    if asked is None:
        return known[0]
    group = Group.parse(asked)
    if group not in known:
        raise ChooseError(f"--group {asked}: the model was not trained for retrieval by it; it was by {', '.join(map(str, known))}")
    return group


def _by(parts: Loaded, asked: str | None) -> By:
    return cast(By, asked or ("matching" if parts.model.can_match else "contrastive"))


def _of_corpus(options: argparse.Namespace) -> tuple[Path, str]:
    """The clips of a corpus with their captions as an annotation file, and the folder of their videos."""
    rows = caption_rows(options.rows, options.captions)
    root = options.media or Plan(options.rows).settings()["root"]
    return write_atomically(options.output / "candidates.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n"), str(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose; the exit status: 0 done, 1 done but for clips that could not be read, 2 bad input."""
    options = parser().parse_args(arguments)
    setup_logging(None)
    try:
        found = choose(options)
    except (BuildError, ChooseError, DataError, TaskError, UnreadableError, ValueError, ImportError, OSError) as error:
        logger.error("choose: %s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on")
        return 128 + signal.SIGINT
    logger.info("%d clips: the best caption of %d scores %.4g or more: %s", found["clips"], found["at or above"], found["threshold"],
                options.output / "annotations.json")
    if "r1" in found:
        logger.info("a caption of its own is chosen for %.1f %% of %d clips (chance %.1f); %s", found["r1"], found["labelled"],
                    found["chance"], _in_words(found["calibrated"]))
    return 1 if found["unreadable"] else 0


def _in_words(known: dict[str, float]) -> str:
    return (f"at {known['threshold']:.4g} {100 * known['lost']:.2f} % of own captions are lost and {100 * known['let through']:.2f} % of "
            "rejected ones let through")
