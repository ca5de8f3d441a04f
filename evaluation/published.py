"""The papers' benchmarks as facts (published.json): the counts of their splits, and what was published on them, with its protocol.

A dataset belongs to a benchmark by its ``name`` in ``data_cfg``, as in config/vast/finetune_cfg: ``msrvtt_ret``, ``clothov1_cap``, …
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivast.config.metrics import JUDGED, METRICS, Ranks
from omnivast.config.tasks import Objective

if TYPE_CHECKING:
    from omnivast.data.loader import EvalLoader, TrainLoader

logger = logging.getLogger("omnivast")
FILE = Path(__file__).with_name("published.json")
HEADLINES = {key: metric.label for key, metric in METRICS.items() if metric.in_paper}
"""Metrics that the papers publish, and their names in tables."""
UNPUBLISHED = "vast"
"""The family of results of before the protocol named it, and the one whose numbers stand beside those of a family without any."""


@dataclass(frozen=True)
class Model:
    """A published model: its family, its name, where its numbers come from, and by objective how it was tested, in words."""

    model_type: str
    name: str
    source: str
    protocol: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """What was published of a model on one benchmark: numbers by metric in percent, and the settings of the test. What a judge marked is
    the metric ``judged``, never ``accuracy``, with the judge among the settings."""

    model: Model
    settings: Mapping[str, Any]
    results: Mapping[str, float]
    zero_shot: bool = False
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """``splits``: "train", "val" and "test", those that are known, → "clips" and "texts" → how many; ``published``: of each family its best
    model first."""

    name: str
    splits: Mapping[str, Mapping[str, int]]
    published: Sequence[Row] = field(default=())


@cache
def known() -> Mapping[str, Benchmark]:
    """The benchmarks by the name of their dataset."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    models = {key: Model(**facts) for key, facts in content["models"].items()}

    def rows(published: Sequence[Mapping[str, Any]]) -> list[Row]:
        return [Row(**{**row, "model": models[row["model"]]}) for row in published]

    return {name: Benchmark(facts["benchmark"], facts["splits"], rows(facts["published"])) for name, facts in content["benchmarks"].items()}


def benchmark_of(name: str) -> str | None:
    """What a dataset's benchmark is called in the papers; None where it is none."""
    return known()[name].name if name in known() else None


def compare_split(name: str, clips: int, texts: int | None, *, training: bool = False) -> dict[str, Any] | None:
    """Counts of an annotation file beside those of the paper's Table 9.

    Args:
        texts: captions, references or questions; None leaves them out.
        training: compare with the training split; else with the test split, or where there is none with the validation split.

    Returns:
        ``{"benchmark", "split", "expected", "given", "differences"}``, the last a list of sentences, empty when all agree; None for a
        dataset that is no benchmark of the papers, or whose counts no paper gives.
    """
    benchmark = known().get(name)
    if benchmark is None or not benchmark.splits:
        return None
    split = "train" if training else "test" if "test" in benchmark.splits else "val"
    expected = benchmark.splits[split]
    given = {"clips": clips, **({} if texts is None else {"texts": texts})}
    differences = [f"{number:,} {what} where the paper has {expected[what]:,} ({number - expected[what]:+,})"
                   for what, number in given.items() if number != expected[what]]
    return {"benchmark": benchmark.name, "split": split, "expected": expected, "given": given, "differences": differences}


def split_check(loader: EvalLoader) -> dict[str, Any] | None:
    """:func:`compare_split` of an evaluation dataset, from its annotation file and references."""
    if loader.name not in known():
        return None
    texts: int | None = loader.provenance["texts"]
    objectives = set(loader.task.objectives)
    if Objective.CAPTION in objectives and loader.name.endswith("_cap"):
        texts = sum(len(loader.references[clip_id]) for clip_id in set(loader.clip_ids))
    elif Objective.QA in objectives and len(objectives) > 1:
        texts = None
    return compare_split(loader.name, len(set(loader.clip_ids)), texts)


def log_splits(loader: TrainLoader | None, eval_loaders: Sequence[EvalLoader]) -> None:
    """Log, for every benchmark of the paper, whether its annotation file has the counts of the paper's Table 9."""
    checks = {tested.name: split_check(tested) for tested in eval_loaders}
    for corpus in loader.corpora if loader is not None else ():
        checks[f"{corpus.name} (training)"] = compare_split(corpus.name, corpus.rows, None, training=True)
    for name, check in checks.items():
        if check is None:
            continue
        counts = ", ".join(f"{count:,} {what}" for what, count in check["given"].items())
        if check["differences"]:
            logger.warning("%s: not the %s split of %s in the paper's Table 9: %s", name, check["split"], check["benchmark"],
                           "; ".join(check["differences"]))
        else:
            logger.info("%s: %s, as the %s split of %s in the paper's Table 9", name, counts, check["split"], check["benchmark"])


def reference(protocol: Mapping[str, Any], *, zero_shot: bool = False) -> Row | None:
    """The published row that a result is compared with: the first of its model's family on its dataset, else VAST's; None without any. Of a
    family that was only ever tested zero-shot, that stands for the fine-tuned one too."""
    rows = _rows(protocol)
    own = [row for row in rows if row.model.model_type == _family(protocol) and (row.zero_shot or not zero_shot)]
    vasts = [row for row in rows if row.model.model_type == UNPUBLISHED and row.zero_shot is zero_shot]
    return next(iter([*sorted(own, key=lambda row: row.zero_shot), *vasts]), None)


def others(protocol: Mapping[str, Any]) -> list[Row]:
    """Everything published on a result's dataset, those of its model's family first."""
    return sorted((row for row in _rows(protocol) if row.results), key=lambda row: row.model.model_type != _family(protocol))


def _rows(protocol: Mapping[str, Any]) -> Sequence[Row]:
    benchmark = known().get(str(protocol.get("dataset")))
    return benchmark.published if benchmark else ()


def _family(protocol: Mapping[str, Any]) -> str:
    return str(protocol.get("model_type", UNPUBLISHED))


def _judged(protocol: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Group → what a judge found of its answers; {} where none was asked."""
    return protocol.get("judged") or {}


def in_words(row: Row) -> str:
    """The settings of a published number in a line."""
    slices = row.settings.get("slices")
    words = [row.settings.get("group"), f"{row.settings['frames']} frames" if "frames" in row.settings else None,
             f"{slices} slice{'s' if slices > 1 else ''} of sound" if slices else None,
             f"{row.settings['resolution']} pixels" if "resolution" in row.settings else None]
    judge = f"answers marked by {row.settings['judge']}" if "judge" in row.settings else ""
    return "; ".join(part for part in (", ".join(filter(None, words)), "zero-shot" if row.zero_shot else "", judge, row.note) if part)


def protocol_differences(protocol: Mapping[str, Any]) -> list[str]:
    """How the protocol of a result differs from the one behind the published number that it is compared with, one sentence each."""
    row = reference(protocol)
    if row is None:
        return []
    model = _family(protocol)
    differences = [] if model == row.model.model_type else [f"model {model}, published {row.model.model_type}"]
    for key, expected in row.settings.items():
        if key == "group":
            groups = protocol.get("groups", ())
            if expected not in groups:
                differences.append(f"groups {', '.join(groups) or 'unknown'}, published {expected}")
        elif key == "judge":
            judges = {str(marks["model"]) for marks in _judged(protocol).values() if "model" in marks}
            differences.append(f"answers marked by {', '.join(judges) or 'exact match alone'}, published by {expected}: not comparable")
        elif protocol.get(key) != expected:
            differences.append(f"{key.replace('_', ' ')} {protocol.get(key, 'unknown')}, published {expected}")
    differences += (protocol.get("split_check") or {}).get("differences", [])
    if protocol.get("unreadable"):
        differences.append(f"{len(protocol['unreadable'])} unreadable clips left out")
    if row.zero_shot:
        differences.append("published zero-shot, without training on the benchmark")
    return differences + ([row.note] if row.note else [])


def headline(metrics: Mapping[str, Any], protocol: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The headline of a result: the group that the published number belongs to (else the group of the most modalities) and the kinds of
    numbers that the papers publish. They are of the re-ranked ranks if there are any, else of the contrastive ones; ``judged`` is what a
    judge found, where one was asked."""
    row = reference(protocol)
    wanted = str(row.settings.get("group")) if row else ""
    tested = [group for group in protocol.get("groups", ()) if group in metrics]
    group = wanted if wanted in metrics else max(tested, key=len, default=next(iter(metrics)))
    values = metrics[group]
    values = values.get(Ranks.ITM.value) or values.get(Ranks.ITC.value) or values
    values = {**values, JUDGED.key: _judged(protocol).get(group, {}).get("accuracy")}
    return group, {key: values[key] for key in HEADLINES if isinstance(values.get(key), (int, float))}
