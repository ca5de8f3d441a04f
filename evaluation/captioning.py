"""Captions by beam search for every group, scored with BLEU-1 to 4, ROUGE-L and CIDEr after the COCO evaluation's tokenisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from config.tasks import Group
from data.batch import Batch
from evaluation.collect import Outcome, computed_once, in_annotation_order
from evaluation.metrics.bleu import bleu
from evaluation.metrics.cider import cider
from evaluation.metrics.rouge import rouge_l
from evaluation.metrics.tokenizer import tokenize

if TYPE_CHECKING:
    from model.vast import VAST

LENGTH_PENALTY = 0.6


class CaptionEvaluator:
    """Captions batch by batch (:meth:`add`), then scores (:meth:`finish`).

    Args:
        groups: the captioning groups of the task.
        references: clip id → reference captions.
        beam_size: beams; 1: greedy.
        max_length: tokens of a caption at most.
    """

    def __init__(self, groups: Sequence[Group], references: Mapping[str, Sequence[str]], *, beam_size: int, max_length: int) -> None:
        self.groups = tuple(groups)
        self.references = references
        self.beam_size, self.max_length = beam_size, max_length
        self._own: list[tuple[int, dict[str, Any]]] = []

    def add(self, model: VAST, batch: Batch, memory: Any) -> None:
        """One batch and the Memory of its clips, in the same order. Raises ValueError when a clip has no reference."""
        entries: list[dict[str, Any]] = []
        for clip_id in batch.clip_ids:
            own = list(self.references.get(clip_id, ()))
            if not own:
                raise ValueError(f"corpus '{batch.corpus}': clip '{clip_id}' has no reference caption, neither in annfile nor in the "
                                 "annotation; captions cannot be scored")
            entries.append({"clip_id": clip_id, "references": own})
        for group in self.groups:
            captions = model.caption(
                memory, group, beam_size=self.beam_size, max_length=self.max_length, length_penalty=LENGTH_PENALTY
            )
            for entry, caption in zip(entries, captions):
                entry[str(group)] = caption
        self._own.extend(zip(batch.index.tolist(), entries))

    def finish(self) -> Outcome:
        """Metrics by group, ``cider`` first, of all processes' clips. Called on every process."""
        predictions = [entry for _, entry in in_annotation_order(self._own)]
        metrics = computed_once(lambda: caption_metrics(predictions, [str(group) for group in self.groups]))
        facts = {
            "clips": len(predictions),
            "texts": sum(len(entry["references"]) for entry in predictions),
            "beam_size": self.beam_size,
            "length_penalty": LENGTH_PENALTY,
            "max_length": self.max_length,
            "caption_metrics": "as the COCO caption evaluation, times 100",
        }
        return Outcome(metrics, predictions, facts)


def caption_metrics(predictions: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores times 100 of each group: entries hold ``references`` (a list of str) and a caption under each group's name."""
    references = [[tokenize(reference) for reference in entry["references"]] for entry in predictions]
    return {group: caption_scores([tokenize(entry[group]) for entry in predictions], references) for group in groups}


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``{"cider", "bleu1", …, "bleu4", "rougeL"}``, times 100, of tokenised captions against tokenised references."""
    scores = {"cider": cider(candidates, references)[0]}
    scores.update({f"bleu{n}": score for n, score in enumerate(bleu(candidates, references), start=1)})
    scores["rougeL"] = rouge_l(candidates, references)[0]
    return {name: 100.0 * score for name, score in scores.items()}
