"""Scores of predictions made anywhere: ``python -m omnivast score --task cap|ret|qa --predictions P --references R [--json OUT]``

- cap: P ``[{"video_id", "caption"}, …]``; R COCO-style ``{"annotations": [{"video_id", "caption"}, …]}``
  or an annotation list as for training.
- ret: P ``[{"caption", "ranked": [video ids, best first], "scores": [optional, for ties]}, …]`` for text to video and
  ``[{"video_id", "ranked": [captions], …}]`` for video to text, also mixed; R as for cap. A caption of several videos is right for each,
  any caption of a video is right for it. What "ranked" leaves out counts as last.
- qa: P ``[{"question_id", "answer"}, …]`` or ``[{"video_id", "question", "answer"}, …]``; R an annotation list as for training
  (``video_id``, ``question``, ``answer``, perhaps ``question_id``, ``question_type``) or VQAv2's annotation file. ``--submission OUT``
  writes P as the VQA server expects it. A question that a video has twice takes the answers of P in their order, or one for both.

P may be a result file of testing (cap and qa), with ``--group`` where it has several. OUT holds the metrics by name (``cider``, ``bleu4``,
…, times 100), ``intervals``, ``protocol`` and ``predictions``, so that ``evaluation.compare`` reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.metrics import Ranks
from omnivast.config.paths import as_path
from omnivast.config.tasks import Objective
from omnivast.data.annotations.rows import AnnotationError
from omnivast.evaluation.captions.evaluator import score_captions
from omnivast.evaluation.captions.java import SECONDS
from omnivast.evaluation.collect import flatten
from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.metrics.vqa import submission
from omnivast.evaluation.questions.evaluator import answer_metrics
from omnivast.evaluation.retrieval.measures import rank_metrics
from omnivast.evaluation.score import inputs as score_inputs
from omnivast.evaluation.score.inputs import SYSTEM, ScoreError
from omnivast.utils.files import sha256_file, write_atomically

DIRECTIONS = {Ranks.ITC.value: "", Ranks.ITC_V2T.value: "v2t."}
"""How the two kinds of ranks that one ranking has are called in its scores."""


def score(task: str, predictions: Path, references: Path, *, group: str | None = None, subset: bool = False,
          java_seconds: float = SECONDS) -> dict[str, Any]:
    """Metrics by name, with ``intervals``, ``not_computed``, ``protocol`` and ``predictions``.

    Args:
        group: of a result file with several.
        subset: references without a prediction are left out instead of being an error; the protocol counts them.
        java_seconds: time limit of METEOR and of SPICE; 0: neither.

    Raises:
        ScoreError, AnnotationError: a file cannot be read, or predictions and references are not about the same things.
    """
    given = score_inputs.read_predictions(predictions, task, group)
    joined = {"cap": score_inputs.captions, "ret": score_inputs.rankings, "qa": score_inputs.answers}[task](
        given, references, subset=subset, path=predictions)
    facts: dict[str, Any] = {
        "objective": {"cap": Objective.CAPTION, "ret": Objective.RETRIEVAL, "qa": Objective.QA}[task].value,
        "groups": [SYSTEM],
        "predictions_file": str(predictions),
        "references": str(references),
        "references_sha256": sha256_file(references),
        "clips": len({entry["clip_id"] for entry in joined.entries}),
        "texts": len(joined.entries),
        "references_without_prediction": joined.left_out,
        "intervals": bootstrap.WORDS,
    }
    not_computed: dict[str, str] = {}
    if task == "cap":
        scored = score_captions(joined.entries, [SYSTEM], java_seconds)
        for entry, scores in zip(joined.entries, scored.clips):
            entry["scores"] = scores
        metrics, intervals, not_computed = dict(scored.metrics[SYSTEM]), scored.intervals, scored.not_computed
        if scored.remarks:
            facts["remarks"] = scored.remarks
    else:
        measured: Callable[..., tuple[Any, dict[str, list[float]]]] = rank_metrics if task == "ret" else answer_metrics
        by_group, intervals = measured(joined.entries, [SYSTEM])
        metrics = dict(flatten(by_group[SYSTEM]))
        if task == "ret":
            facts["ties"] = "counted against the true candidate where P has scores; what 'ranked' leaves out counts as last"
    short = {_short(name, task): value for name, value in metrics.items()}
    return {**short, "intervals": {_short(name.removeprefix(f"{SYSTEM}."), task): pair for name, pair in intervals.items()},
            "not_computed": not_computed, "protocol": facts, "predictions": joined.entries}


def _short(name: str, task: str) -> str:
    """Of rankings the direction alone: ``itc.r1`` → ``r1``, ``itc_v2t.r1`` → ``v2t.r1``. Other metrics as they are."""
    if task != "ret":
        return name
    ranks, _, metric = name.partition(".")
    return DIRECTIONS[ranks] + metric


def as_text(scored: Mapping[str, Any]) -> str:
    """Metrics with their intervals, one per line, and what was not computed."""
    names = [name for name, value in scored.items() if isinstance(value, float)]
    width = max(map(len, [*names, *scored["not_computed"]]))
    remarks = {name: f"  {why}" for name, why in scored["protocol"].get("remarks", {}).items()}
    lines = [f"{name:{width}}  {scored[name]:8.2f}  [{low:.2f}, {high:.2f}]{remarks.get(name, '')}"
             for name in names for low, high in [scored["intervals"][name]]]
    lines += [f"{name:{width}}  not computed: {why}" for name, why in scored["not_computed"].items()]
    facts = scored["protocol"]
    left_out = f", {facts['references_without_prediction']} references left out" if facts["references_without_prediction"] else ""
    return "\n".join([*lines, f"{facts['clips']} clips, {facts['texts']} predictions{left_out}; {bootstrap.WORDS}"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores. Returns 2, with one line on stderr, when the files do not fit."""
    parser = argparse.ArgumentParser(prog="python -m omnivast score", description=(__doc__ or "").split("\n\n", 1)[1],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=("cap", "ret", "qa"))
    parser.add_argument("--predictions", required=True, type=as_path, metavar="P")
    parser.add_argument("--references", type=as_path, metavar="R")
    parser.add_argument("--json", type=as_path, metavar="OUT", help="also write everything to this file")
    parser.add_argument("--group", help="which group of a result file with several")
    parser.add_argument("--subset", action="store_true", help="leave references without a prediction out (they are counted)")
    parser.add_argument("--java_seconds", type=float, default=SECONDS,
                        help="time limit of METEOR and of SPICE; 0: neither (default: %(default)s)")
    parser.add_argument("--submission", type=as_path, metavar="OUT", help="qa: write P for the VQA server; R is not needed")
    options = parser.parse_args(arguments)
    if options.submission and options.task != "qa":
        parser.error("--submission is for --task qa")
    if not options.references and not options.submission:
        parser.error("the following arguments are required: --references")
    try:
        if options.submission:
            rows = submission(score_inputs.read_predictions(options.predictions, "qa", options.group))
            write_atomically(options.submission, json.dumps(rows) + "\n")
        if options.references:
            scored = score(options.task, options.predictions, options.references, group=options.group, subset=options.subset,
                          java_seconds=options.java_seconds)
            sys.stdout.write(as_text(scored))
            if options.json:
                write_atomically(options.json, json.dumps(scored, indent=1, ensure_ascii=False) + "\n")
    except (ScoreError, AnnotationError, OSError) as error:
        sys.stderr.write(f"score: {error}\n")
        return 2
    return 0
