"""Captions by beam search for every group, scored with BLEU-1 to 4, ROUGE-L and CIDEr after the COCO evaluation's tokenisation, and
with METEOR, SPICE and SPIDEr (the mean of CIDEr and SPICE) where Java is there and they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from omnivast.config.tasks import Group, Objective
from omnivast.data.batch import Batch
from omnivast.evaluation.captions.java import java_scores
from omnivast.evaluation.captions.references import reference_index
from omnivast.evaluation.collect import EVALUATORS, Encoded, Outcome, in_annotation_order
from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.metrics.bleu import ORDER, bleu_of_sums, bleu_terms, check_pairs
from omnivast.evaluation.metrics.meteor import meteor_of_sums, meteor_terms
from omnivast.evaluation.metrics.rouge import rouge_l
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.model.interface import Model
from omnivast.utils import distributed

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.loader import EvalLoader
    from omnivast.evaluation.journal import Journal

logger = logging.getLogger("omnivast")
ONE_CLIP = "says nothing of one clip: it weighs words by how few clips have them, and is 0 whatever the caption"
"""Why CIDEr is no measure there."""


class CaptionEvaluator:
    """Captions batch by batch (:meth:`add`), then scores (:meth:`finish`).

    Args:
        model: writes the captions, with its own ``length_penalty``.
        groups: the captioning groups of the task.
        references: clip id → reference captions.
        beam_size: beams; 1: greedy.
        max_length: tokens of a caption at most.
        java_seconds: time limit of METEOR and SPICE each; 0: they are not computed.
    """

    def __init__(
        self, model: Model, groups: Sequence[Group], references: Mapping[str, Sequence[str]], *, beam_size: int, max_length: int,
        java_seconds: float = 0,
    ) -> None:
        self.model, self.groups = model, tuple(groups)
        self.references = references
        self.beam_size, self.max_length, self.java_seconds = beam_size, max_length, java_seconds
        self._entries: list[tuple[int, dict[str, Any]]] = []

    def add(self, batch: Batch, encoded: Encoded) -> list[tuple[int, dict[str, Any]]]:
        """One batch. Returns what was found, for :meth:`take`. Raises ValueError when a clip has no reference."""
        entries: list[dict[str, Any]] = []
        for clip_id in batch.clip_ids:
            texts = list(self.references.get(clip_id, ()))
            if not texts:
                raise ValueError(f"corpus '{batch.corpus}': clip '{clip_id}' has no reference caption, neither in annfile nor in the "
                                 "annotation; captions cannot be scored")
            entries.append({"clip_id": clip_id, "references": texts})
        for group in self.groups:
            captions = self.model.caption(encoded.memory, group, beam_size=self.beam_size, max_length=self.max_length,
                                          length_penalty=self.model.length_penalty)
            for entry, caption in zip(entries, captions):
                entry[str(group)] = caption
        rows = list(zip(batch.index.tolist(), entries))
        self._entries.extend(rows)
        return rows

    def take(self, found: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """What :meth:`add` returned in an earlier run; references may have changed since."""
        self._entries.extend((row, {**entry, "references": list(self.references[entry["clip_id"]])}) for row, entry in found)

    def finish(self) -> Outcome:
        """Metrics by group, ``cider`` first, of all processes' clips. Called on every process."""
        predictions = [entry for _, entry in in_annotation_order(self._entries)]
        groups = [str(group) for group in self.groups]
        scored = distributed.computed_once(lambda: score_captions(predictions, groups, self.java_seconds))
        facts = {
            "clips": len(predictions),
            "texts": sum(len(entry["references"]) for entry in predictions),
            "beam_size": self.beam_size,
            "length_penalty": self.model.length_penalty,
            "max_length": self.max_length,
            "caption_metrics": "as the COCO caption evaluation, times 100",
            "not_computed": scored.not_computed,
            "intervals": bootstrap.WORDS,
        }
        if scored.remarks:
            facts["remarks"] = scored.remarks
            for name, why in scored.remarks.items():
                logger.warning("%s %s", name, why)
        for entry, scores in zip(predictions, scored.clips):
            entry["scores"] = scores
        return Outcome(scored.metrics, predictions, facts, scored.intervals)


@EVALUATORS.register(Objective.CAPTION.value)
def caption_evaluator(model: Model, loader: EvalLoader, config: Config, journal: Journal) -> CaptionEvaluator:
    """The captions of a dataset."""
    settings = config.run_cfg
    return CaptionEvaluator(model, loader.task.groups(Objective.CAPTION), loader.references, beam_size=settings.beam_size,
                            max_length=config.model_cfg.max_caption_len, java_seconds=settings.java_metrics_seconds)


@dataclass
class ScoredCaptions:
    """Metrics times 100 by group, and what they rest on."""

    metrics: dict[str, dict[str, float]]
    """By group, ``cider`` first."""
    intervals: dict[str, list[float]]
    """``"<group>.<metric>"`` → [low, high]."""
    clips: list[dict[str, dict[str, Any]]]
    """Per clip, by group: ``cider`` and ``rougeL``; where computed ``spice``, and ``meteor_counts`` (see :mod:`.metrics.meteor`)."""
    not_computed: dict[str, str] = field(default_factory=dict)
    """Metric → why."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Metric → what must be known to read it."""


def score_captions(predictions: Sequence[Mapping[str, Any]], groups: Sequence[str], java_seconds: float = 0) -> ScoredCaptions:
    """Scores of each group: entries hold ``references`` (a list of str) and a caption under each group's name.

    METEOR and SPICE take at most ``java_seconds`` each. Raises ValueError when there is no clip, or one has no reference.
    """
    systems = [[tokenize(entry[group]) for entry in predictions] for group in groups]
    references = [entry["references"] for entry in predictions]
    for captions in systems:
        check_pairs(captions, references)
    index = reference_index(references)
    java = java_scores(systems, index.tokens, java_seconds)
    # Clip by clip, so that the weights of a clip's references are made once for all groups.
    cider = [index.cider.scores(clip, captions) for clip, captions in enumerate(zip(*systems))]
    clips: list[dict[str, dict[str, Any]]] = [{} for _ in predictions]
    for number, group in enumerate(groups):
        rouge = rouge_l(systems[number], index.tokens)[1]
        for clip, by_group in enumerate(clips):
            by_group[group] = {"cider": 100.0 * cider[clip][number], "rougeL": 100.0 * rouge[clip]}
            if java.meteor:
                by_group[group]["meteor_counts"] = java.meteor[number][clip]
            if java.spice:
                by_group[group]["spice"] = 100.0 * java.spice[number][clip]
    measures = [_measures(group, captions, index.tokens, clips) for group, captions in zip(groups, systems)]
    metrics = {group: {name: bootstrap.value(measure, len(clips)) for name, measure in by_name.items()}
               for group, by_name in zip(groups, measures)}
    named = {f"{group}.{name}": measure for group, by_name in zip(groups, measures) for name, measure in by_name.items()}
    remarks = {"cider": ONE_CLIP} if len(clips) == 1 else {}
    not_computed = {**java.not_computed, **({} if java.spice else {"spider": "needs SPICE"})}
    return ScoredCaptions(metrics, bootstrap.intervals(named, len(clips)), clips, not_computed, remarks)


def caption_measures(predictions: Sequence[Mapping[str, Any]], group: str) -> tuple[dict[str, bootstrap.Measure], int]:
    """``"cider"`` → measure, …, over the clips in their order, and how many they are, from a result file's predictions with their
    ``scores``."""
    references = [[tokenize(text) for text in entry["references"]] for entry in predictions]
    captions = [tokenize(entry[group]) for entry in predictions]
    return _measures(group, captions, references, [entry["scores"] for entry in predictions]), len(predictions)


def _measures(
    group: str, captions: Sequence[str], references: Sequence[Sequence[str]], clips: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, bootstrap.Measure]:
    """Every metric of a group, times 100: of the corpus for BLEU and METEOR, the mean over clips for the others.

    CIDEr's document frequencies stay those of all clips, whichever are drawn.
    """
    each = np.arange(len(clips))

    def mean(name: str) -> bootstrap.Measure:
        return bootstrap.mean([clip[group][name] for clip in clips], each, len(clips))

    terms = bleu_terms(captions, references)
    measures: dict[str, bootstrap.Measure] = {"cider": mean("cider")}
    measures.update({f"bleu{n + 1}": bootstrap.OfSums(terms, partial(_percent_bleu, n)) for n in range(ORDER)})
    measures["rougeL"] = mean("rougeL")
    if "meteor_counts" in clips[0][group]:
        measures["meteor"] = bootstrap.OfSums(meteor_terms([clip[group]["meteor_counts"] for clip in clips]), _percent_meteor)
    if "spice" in clips[0][group]:
        measures["spice"] = mean("spice")
        measures["spider"] = bootstrap.mean([(clip[group]["cider"] + clip[group]["spice"]) / 2 for clip in clips], each, len(clips))
    return measures


def _percent_bleu(n: int, sums: np.ndarray) -> np.ndarray:
    return 100.0 * bleu_of_sums(sums)[:, n]


def _percent_meteor(sums: np.ndarray) -> np.ndarray:
    return 100.0 * meteor_of_sums(sums)
