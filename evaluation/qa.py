"""Answers to questions by generation, scored by exact match (blanks at the ends stripped, lower case), also per question type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from config.tasks import Group
from data.batch import Batch
from evaluation.collect import Outcome, in_annotation_order
from evaluation.metrics.accuracy import accuracy, accuracy_by_type, exact_matches

if TYPE_CHECKING:
    from model.vast import VAST


class QAEvaluator:
    """Answers batch by batch (:meth:`add`), then scores (:meth:`finish`).

    Args:
        groups: the question answering groups of the task.
        beam_size: beams; 1: greedy.
    """

    def __init__(self, groups: Sequence[Group], *, beam_size: int) -> None:
        self.groups = tuple(groups)
        self.beam_size = beam_size
        self._own: list[tuple[int, dict[str, Any]]] = []

    def add(self, model: VAST, batch: Batch, memory: Any) -> None:
        """One batch and the Memory of its clips, in the same order. Raises ValueError when questions or answers are missing."""
        questions, answers = batch.questions, batch.answers
        if questions is None or answers is None:
            raise ValueError(f"corpus '{batch.corpus}': the batch with clip '{batch.clip_ids[0]}' has no questions with answers")
        if len(questions) != len(answers):
            raise ValueError(f"corpus '{batch.corpus}': {len(questions)} questions but {len(answers)} answers in the batch with clip "
                             f"'{batch.clip_ids[0]}'")
        if not len(questions):
            return
        rows = questions.clip.tolist()
        entries: list[dict[str, Any]] = [
            {"clip_id": batch.clip_ids[row], "question": question, "answer": answer}
            for row, question, answer in zip(rows, questions.raw, answers.raw)
        ]
        for name, values in (("question_id", batch.question_ids), ("type", batch.question_types)):
            if values:
                for entry, value in zip(entries, values):
                    entry[name] = value
        for group in self.groups:
            for entry, prediction in zip(entries, model.answer(memory, group, questions, beam_size=self.beam_size)):
                entry[str(group)] = prediction
        index = batch.index.tolist()
        self._own.extend((index[row], entry) for row, entry in zip(rows, entries))

    def finish(self) -> Outcome:
        """``accuracy`` by group, and ``types`` where questions have types, of all processes' questions. Called on every process."""
        predictions = [entry for _, entry in in_annotation_order(self._own)]
        metrics = answer_metrics(predictions, [str(group) for group in self.groups])
        facts = {
            "clips": len({entry["clip_id"] for entry in predictions}),
            "texts": len(predictions),
            "beam_size": self.beam_size,
            "length_penalty": 1.0,
            "answers": "exact match after stripping blanks at the ends and lowering letters",
        }
        return Outcome(metrics, predictions, facts)


def answer_metrics(predictions: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Percent by group; entries hold ``answer``, perhaps ``type``, and a prediction under each group's name.

    Raises ValueError when there is no question.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for group in groups:
        matches = exact_matches([entry[group] for entry in predictions], [entry["answer"] for entry in predictions])
        metrics[group] = {"accuracy": accuracy(matches)}
        typed = [(match, entry["type"]) for match, entry in zip(matches, predictions) if entry.get("type")]
        if typed:
            metrics[group]["types"] = accuracy_by_type(*map(list, zip(*typed)))
    return metrics
