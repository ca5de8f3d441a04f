"""The paper's benchmarks as facts (published.json): the counts of their splits, the settings of its tests, the published numbers.

A dataset belongs to a benchmark by its ``name`` in ``data_cfg``, as in config/vast/finetune_cfg: ``msrvtt_ret``, ``clothov1_cap``, …
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivast.config.metrics import METRICS, Ranks
from omnivast.config.tasks import Objective

if TYPE_CHECKING:
    from omnivast.data.loader import EvalLoader, TrainLoader

logger = logging.getLogger("omnivast")
FILE = Path(__file__).with_name("published.json")
HEADLINES = {key: metric.label for key, metric in METRICS.items() if metric.in_paper}
"""Metrics that the paper publishes, and their names in tables."""


@cache
def _facts() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def known() -> dict[str, dict[str, Any]]:
    """Dataset name → ``{"benchmark", "splits", "settings", "published", "published_zero_shot", "note"}``, the last four where there are."""
    return _facts()["benchmarks"]  # type: ignore[no-any-return]


def source() -> str:
    """Where the facts come from, in words."""
    return str(_facts()["source"])


def model_name() -> str:
    """The model whose numbers are published."""
    return str(_facts()["model"]["name"])


def compare_split(name: str, clips: int, texts: int | None, *, training: bool = False) -> dict[str, Any] | None:
    """Counts of an annotation file beside those of the paper's Table 9.

    Args:
        texts: captions, references or questions; None leaves them out.
        training: compare with the training split; else with the test split, or where there is none with the validation split.

    Returns:
        ``{"benchmark", "split", "expected", "given", "differences"}``, the last a list of sentences, empty when all agree; None for a
        dataset that is no benchmark of the paper.
    """
    benchmark = known().get(name)
    if benchmark is None:
        return None
    split = "train" if training else "test" if "test" in benchmark["splits"] else "val"
    expected = benchmark["splits"][split]
    given = {"clips": clips, **({} if texts is None else {"texts": texts})}
    differences = [f"{number:,} {what} where the paper has {expected[what]:,} ({number - expected[what]:+,})"
                   for what, number in given.items() if number != expected[what]]
    return {"benchmark": benchmark["benchmark"], "split": split, "expected": expected, "given": given, "differences": differences}


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


def published(name: str, *, zero_shot: bool = False) -> dict[str, float]:
    """The published numbers of a dataset's benchmark by metric; empty where there is none."""
    numbers: dict[str, float] = known().get(name, {}).get("published_zero_shot" if zero_shot else "published", {})
    return numbers


def protocol_differences(name: str, protocol: Mapping[str, Any]) -> list[str]:
    """How the protocol of a result differs from the one behind the published number, one sentence each."""
    benchmark = known().get(name)
    if benchmark is None:
        return []
    published_model = _facts()["model"]["model_type"]
    # Results of before the protocol named the model are all of that one.
    model = protocol.get("model_type", published_model)
    differences = [] if model == published_model else [f"model {model}, published {published_model}"]
    for key, expected in benchmark.get("settings", {}).items():
        if key == "group":
            groups = protocol.get("groups", ())
            if expected not in groups:
                differences.append(f"groups {', '.join(groups) or 'unknown'}, published {expected}")
        elif protocol.get(key) != expected:
            differences.append(f"{key.replace('_', ' ')} {protocol.get(key, 'unknown')}, published {expected}")
    differences += (protocol.get("split_check") or {}).get("differences", [])
    if protocol.get("unreadable"):
        differences.append(f"{len(protocol['unreadable'])} unreadable clips left out")
    return differences + ([benchmark["note"]] if "note" in benchmark else [])


def headline(metrics: Mapping[str, Any], groups: Sequence[str], name: str = "") -> tuple[str, dict[str, float]]:
    """The headline of a result: the group that the paper's number belongs to (else the group of the most modalities) and the kinds of
    numbers that the paper publishes. They are of the re-ranked ranks if there are any, else of the contrastive ones."""
    wanted = known().get(name, {}).get("settings", {}).get("group")
    group = wanted if wanted in metrics else max((tested for tested in groups if tested in metrics), key=len, default=next(iter(metrics)))
    values = metrics[group]
    values = values.get(Ranks.ITM.value) or values.get(Ranks.ITC.value) or values
    return group, {key: values[key] for key in HEADLINES if isinstance(values.get(key), (int, float))}
