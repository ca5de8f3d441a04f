"""What an output folder of run.py holds for a report: logs, results, and how good each prediction is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.metrics import Ranks
from omnivast.config.paths import looked_up
from omnivast.data.annotations.rows import id_of
from omnivast.evaluation import published as benchmarks
from omnivast.evaluation.inputs import is_result
from omnivast.evaluation.metrics.accuracy import exact_matches
from omnivast.evaluation.metrics.rouge import rouge_l
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.evaluation.metrics.vqa import vqa_accuracy
from omnivast.utils.goodput import goodput
from omnivast.utils.log import read_jsonl

logger = logging.getLogger("omnivast")
ASKED = ("qa", "chat")
"""Objectives whose predictions are answers."""


class RunError(ValueError):
    """A folder or result file cannot be reported; the message names it and what was expected."""


@dataclass
class Result:
    """One result file: its protocol, metrics by group, their intervals, and predictions."""

    path: Path
    protocol: dict[str, Any]
    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """``"tvas.itm.r1"`` → [low, high]; empty in files of older versions."""

    @property
    def group(self) -> str:
        """The group of the headline."""
        return benchmarks.headline(self.metrics, self.named)[0]

    @property
    def named(self) -> dict[str, Any]:
        """The protocol, with the dataset's name also where the file's alone tells it."""
        return {**self.protocol, "dataset": self.name}

    def interval(self, group: str, metric: str, ranks: Ranks | None = None) -> str | None:
        """The 95 % interval of a metric in words. ``ranks``: by which score, in retrieval; None: as in :func:`published.headline`."""
        names = [f"{group}.{part}{metric}" for part in ([f"{ranks.value}."] if ranks else ["itm.", "itc.", ""])]
        pair = next((self.intervals[name] for name in names if name in self.intervals), None)
        return f"{pair[0]:.1f} – {pair[1]:.1f}" if pair else None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The predictions that the headline's group has: texts of another caption kind are not searched with by every group."""
        return [entry for entry in self.predictions if self.group in entry]

    @property
    def answered(self) -> bool:
        """False where it holds answers to questions whose right ones nobody knew: there is nothing to score."""
        return self.objective not in ASKED or all("answer" in entry for entry in self.predictions)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.protocol.get("dataset", self.path.stem))

    @property
    def objective(self) -> str:
        """``ret``, ``cap`` or ``qa``."""
        return str(self.protocol.get("objective", self.path.stem.rsplit(".", 1)[-1]))


@dataclass
class Run:
    """What one output folder holds."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    results: list[Result]
    performance: list[dict[str, Any]] = field(default_factory=list)
    """Lines of performance.jsonl: how fast each process was."""
    wall: dict[str, float] | None = None
    """What the time since the first start was spent on (utils/goodput.py)."""


def read_run(folder: Path) -> Run:
    """Logs and results of an output folder; of a training's evaluations the last step's results. Raises RunError."""
    config: dict[str, Any] = {}
    for name in ("hps.json", "hps_testing.json"):
        if (folder / "log" / name).is_file():
            config = read_json(folder / "log" / name, RunError)
    files = sorted(folder.glob("results/*.json"))
    if not files:
        steps = sorted((folder / "results").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_") or 0))
        files = sorted(steps[-1].glob("*.json")) if steps else []
    logs = [[row for row in read_jsonl(folder / "log" / name) if isinstance(row.get("step"), (int, float))]
            for name in ("metrics.jsonl", "eval.jsonl", "performance.jsonl")]
    wall = goodput(read_jsonl(folder / "log" / "wall.jsonl"))
    run = Run(folder, config, logs[0], logs[1], [_result(path) for path in files], logs[2], wall)
    if not (run.rows or run.evaluations or run.results):
        raise RunError(f"{folder}{looked_up(folder)}: expected an output folder of run.py with log/metrics.jsonl or "
                       f"results/*.json; it has neither")
    return run


def _result(path: Path) -> Result:
    content = read_json(path, RunError)
    metrics = content.get("metrics") if is_result(content) else None
    if not isinstance(metrics, dict) or not metrics or not all(isinstance(values, dict) for values in metrics.values()):
        raise RunError(f"{path}: expected a result file of testing, with protocol, metrics by group, and predictions")
    if not content["predictions"]:
        raise RunError(f"{path}: it has no predictions")
    return Result(path, content["protocol"], metrics, content["predictions"], content.get("intervals", {}))


def annotation_rows(result: Result) -> dict[str, dict[str, Any]]:
    """Clip id → its annotation row; empty where the file is not there any more."""
    path = found_from(result.path, str(result.protocol.get("split_file", "")))
    try:
        rows = read_json(path, RunError, what="split file")
    except RunError as error:
        logger.warning("%s: without its split file, subtitles and categories are left out: %s", result.path, error)
        return {}
    named = ((id_of(row), row) for row in rows if isinstance(row, dict))
    return {clip_id: row for clip_id, row in named if clip_id is not None}


def found_from(result: Path, name: str) -> Path:
    """A path that a run wrote down, which may be relative to the folder that the run was started in: one above its results, where a
    report made elsewhere finds it."""
    above = [parent / name for parent in result.absolute().parents]
    return next((path for path in (Path(name), *above) if path.exists()), Path(name))


def goodness(result: Result) -> list[float]:
    """One number per entry, the higher the better: minus the rank of the true clip, CIDEr (ROUGE-L in files that hold no scores
    of single captions), or 1 and 0 for a right and a wrong answer, and what is between where several people answered."""
    group, entries = result.group, result.entries
    if result.objective == "ret":
        return [-float(rank_of(entry, group)) for entry in entries]
    if result.objective in ASKED and all(len(entry.get("answers", ())) > 1 for entry in entries):
        return [vqa_accuracy(entry[group], entry["answers"]) for entry in entries]
    if result.objective in ASKED:
        return list(map(float, exact_matches([entry[group] for entry in entries], [entry["answer"] for entry in entries])))
    scores = [mapping(mapping(entry.get("scores")).get(group)).get("cider") for entry in entries]
    if all(isinstance(score, (int, float)) for score in scores):
        return [float(score) for score in scores if score is not None]
    return rouge_l([tokenize(entry[group]) for entry in entries], [list(map(tokenize, entry["references"])) for entry in entries])[1]


def rank_of(entry: Mapping[str, Any], group: str) -> int:
    """The rank of a text's clip, after re-ranking where there was one."""
    rank = mapping(entry[group]).get("itm_rank", mapping(entry[group]).get("itc_rank"))
    if not isinstance(rank, int):
        raise RunError(f"the prediction of clip '{entry['clip_id']}' has no rank of group '{group}'")
    return rank


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
