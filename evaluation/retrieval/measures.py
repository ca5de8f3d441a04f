"""Metrics of ranks: from the predictions of a retrieval test, or of its result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omnivast.config.metrics import Ranks
from omnivast.evaluation.metrics import bootstrap, recall

RANKS = (Ranks.ITM, Ranks.ITM_V2T, Ranks.ITC, Ranks.ITC_V2T, Ranks.DUAL_SOFTMAX, Ranks.DUAL_SOFTMAX_V2T)
"""Kinds of ranks, the headline first."""


def rank_metrics(
    predictions: Sequence[Mapping[str, Any]], groups: Sequence[str]
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, list[float]]]:
    """``{group: {"itm": {"r1", …}, "itc": …}}`` and intervals by flat name, from entries with ``clip_id`` and ranks by group."""
    metrics: dict[str, dict[str, dict[str, float]]] = {group: {} for group in groups}
    intervals = {}
    for group in groups:
        measures, clips = _by_kind(predictions, group)
        for (kind, name), measure in measures.items():
            metrics[group].setdefault(kind, {})[name] = bootstrap.value(measure, clips)
        group_intervals = bootstrap.intervals({f"{group}.{kind}.{name}": measure for (kind, name), measure in measures.items()}, clips)
        intervals.update(group_intervals)
    return metrics, intervals


def rank_measures(predictions: Sequence[Mapping[str, Any]], group: str) -> tuple[dict[str, bootstrap.Measure], int]:
    """``"itm.r1"`` → measure, …, over the clips in the order of their first text of the group, and how many they are."""
    measures, clips = _by_kind(predictions, group)
    return {f"{kind}.{name}": measure for (kind, name), measure in measures.items()}, clips


def _by_kind(
    predictions: Sequence[Mapping[str, Any]], group: str
) -> tuple[dict[tuple[str, str], bootstrap.Measure], int]:
    """(kind of ranks, metric) → measure, and the number of clips. A clip counts once in video to text, however many texts it has."""
    entries = [entry for entry in predictions if group in entry]
    first = {clip_id: number for number, clip_id in enumerate(dict.fromkeys(entry["clip_id"] for entry in entries))}
    measures: dict[tuple[str, str], bootstrap.Measure] = {}
    for kind in RANKS:
        key = f"{kind.value}_rank"
        ranked = [(first[entry["clip_id"]], entry[group][key]) for entry in entries if key in entry[group]]
        if ranked:
            clip, ranks = map(np.array, zip(*ranked))
            rows = np.unique(clip, return_index=True)[1] if kind.of_clips else slice(None)
            measures.update({(kind.value, name): measure for name, measure in recall.measures(ranks[rows], clip[rows], len(first)).items()})
    return measures, len(first)
