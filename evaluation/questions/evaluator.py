"""Answers to questions by generation, scored by exact match as released (blanks at the ends stripped, lower case) and after VQAv2's
normalisation, by VQAv2's accuracy where several people answered, also per question and answer type. Without answers, as in VQAv2's test
splits, the predictions alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from omnivast.config.tasks import Group, Objective
from omnivast.data.batch import Batch
from omnivast.evaluation.collect import EVALUATORS, Encoded, Entries, Outcome
from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.metrics.accuracy import exact_matches
from omnivast.evaluation.metrics.synonyms import Synonyms
from omnivast.evaluation.metrics.vqa import normalise, vqa_accuracy
from omnivast.evaluation.questions.marking import Marking
from omnivast.evaluation.questions.people import answers_of_people
from omnivast.model.interface import Model
from omnivast.utils import distributed

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.loader import EvalLoader
    from omnivast.evaluation.journal import Journal

logger = logging.getLogger("omnivast")


class QAEvaluator(Entries):
    """Answers batch by batch (:meth:`add`), then scores (:meth:`finish`).

    Args:
        model: answers.
        groups: the question answering groups of the task.
        beam_size: beams; 1: greedy.
        people: annotation row → what several people answered its one question, for VQAv2's accuracy.
        source: the file that the questions are of, to be named where it has no answers.
        marking: how answers are marked beside exact match.
    """

    def __init__(
        self, model: Model, groups: Sequence[Group], *, beam_size: int, people: Mapping[int, list[str]] | None = None,
        source: str = "the annotation", marking: Marking | None = None,
    ) -> None:
        super().__init__()
        self.model, self.groups, self.marking = model, tuple(groups), marking or Marking()
        self.beam_size, self.source = beam_size, source
        self.people = people or {}

    def add(self, batch: Batch, encoded: Encoded) -> list[tuple[int, dict[str, Any]]]:
        """One batch. Returns what was found, for :meth:`take`. Raises ValueError when questions, or some answers, are missing."""
        questions, answers = batch.questions, batch.answers
        if questions is None:
            raise ValueError(f"corpus '{batch.corpus}': the batch with clip '{batch.clip_ids[0]}' has no questions")
        if answers is not None and len(questions) != len(answers):
            raise ValueError(f"corpus '{batch.corpus}': {len(questions)} questions but {len(answers)} answers in the batch with clip "
                             f"'{batch.clip_ids[0]}'")
        if not len(questions):
            return []
        rows = questions.clip.tolist()
        entries: list[dict[str, Any]] = [
            {"clip_id": batch.clip_ids[row], "question": question} for row, question in zip(rows, questions.raw)
        ]
        known = {"answer": answers.raw if answers is not None else (), "question_id": batch.question_ids, "type": batch.question_types,
                 "answer_type": batch.answer_types}
        for name, values in known.items():
            if values:
                for entry, value in zip(entries, values):
                    entry[name] = value
        index = batch.index.tolist()
        for row, entry in zip(rows, entries):
            if index[row] in self.people:
                entry["answers"] = self.people[index[row]]
        for group in self.groups:
            for entry, prediction in zip(entries, self.model.answer(encoded.memory, group, questions, beam_size=self.beam_size)):
                entry[str(group)] = prediction
        numbered = [(index[row], entry) for row, entry in zip(rows, entries)]
        self._entries.extend(numbered)
        return numbered

    def finish(self) -> Outcome:
        """Metrics by group, see :func:`answer_metrics`, of all processes' questions. Called on every process."""
        predictions = self.predictions()
        groups = [str(group) for group in self.groups]
        answered = "answer" in predictions[0]
        metrics, intervals = ({g: {} for g in groups}, {}) if not answered else distributed.computed_once(
            lambda: answer_metrics(predictions, groups, self.marking.synonyms))
        facts: dict[str, Any] = {
            "clips": len({entry["clip_id"] for entry in predictions}),
            "texts": len(predictions),
            "beam_size": self.beam_size,
            "length_penalty": self.model.answer_length_penalty,
        }
        if not answered:
            logger.warning("accuracy not computed: no answers in %s", self.source)
            return Outcome(metrics, predictions, {**facts, "not_computed": {"accuracy": f"no answers in {self.source}"}})
        facts |= {
            "answers": "exact match after stripping blanks at the ends and lowering letters; accuracy_normalised: after VQAv2's "
                       "normalisation" + ("; vqa_accuracy: VQAv2's own, against all people's answers" if self.people else "")
                       + self.marking.words,
            "intervals": bootstrap.WORDS,
            **self.marking.judged(predictions, groups),
        }
        return Outcome(metrics, predictions, facts, intervals)


@EVALUATORS.register(Objective.QA.value)
def question_evaluator(model: Model, loader: EvalLoader, config: Config, journal: Journal) -> QAEvaluator:
    """The questions of a dataset. VALOR's files have one answer to each in testing."""
    people = {} if loader.config.type == "valor" else answers_of_people(loader.config.txt)
    return QAEvaluator(model, loader.task.groups(Objective.QA), beam_size=config.run_cfg.beam_size_qa or config.run_cfg.beam_size,
                       people=people, source=loader.provenance["split_file"], marking=Marking.of(config.run_cfg, loader.name))


TYPES = {"type": "types", "answer_type": "answer_types"}
"""Fields of an entry → name of the metrics by their values."""


def answer_metrics(
    predictions: Sequence[Mapping[str, Any]], groups: Sequence[str], synonyms: Synonyms | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Percent by group, and intervals by flat name.

    Args:
        predictions: entries with ``clip_id``, ``answer``, a prediction under each group's name, perhaps ``type`` and ``answer_type``,
            ``answers`` where several people answered, and ``synonyms`` of an answer.
        synonyms: answers that say the same, in all of them.

    Returns:
        ``{group: {"accuracy", "accuracy_normalised", "accuracy_synonyms" (where there are any), "vqa_accuracy" (where all have several
        answers), "types": {type: percent}}}``;
        by type stands ``vqa_accuracy`` where there is one, else ``accuracy``.

    Raises:
        ValueError: there is no question.
    """
    metrics: dict[str, dict[str, Any]] = {}
    named: dict[str, bootstrap.Measure] = {}
    clips = len({entry["clip_id"] for entry in predictions})
    for group in groups:
        values: dict[str, Any] = {}
        for path, measure in _measures(predictions, group, synonyms):
            named[".".join((group, *path))] = measure
            level = values
            for name in path[:-1]:
                level = level.setdefault(name, {})
            level[path[-1]] = bootstrap.value(measure, clips)
        metrics[group] = values
    return metrics, bootstrap.intervals(named, clips)


def answer_measures(predictions: Sequence[Mapping[str, Any]], group: str) -> tuple[dict[str, bootstrap.Measure], int]:
    """``"accuracy"`` → measure, …, over the clips in the order of their first question, and how many they are."""
    return {".".join(path): measure for path, measure in _measures(predictions, group)}, len({entry["clip_id"] for entry in predictions})


def _measures(
    predictions: Sequence[Mapping[str, Any]], group: str, synonyms: Synonyms | None = None
) -> Iterator[tuple[tuple[str, ...], bootstrap.Measure]]:
    """(name, or names from the outer to the inner, measure in percent), the headline first."""
    if not predictions:
        raise ValueError("no answer to score")
    numbers = {clip_id: number for number, clip_id in enumerate(dict.fromkeys(entry["clip_id"] for entry in predictions))}
    clip = np.array([numbers[entry["clip_id"]] for entry in predictions])
    given, true = [entry[group] for entry in predictions], [entry["answer"] for entry in predictions]
    matches = np.array(exact_matches(given, true), dtype=np.float64)
    yield ("accuracy",), bootstrap.mean(matches, clip, len(numbers), 100.0)
    normalised = np.array([normalise(a) == normalise(b) for a, b in zip(given, true)], dtype=np.float64)
    yield ("accuracy_normalised",), bootstrap.mean(normalised, clip, len(numbers), 100.0)
    if synonyms is not None or any(entry.get("synonyms") for entry in predictions):
        same = (synonyms or Synonyms()).same
        synonymous = [same(a, b, entry.get("synonyms") or ()) for a, b, entry in zip(given, true, predictions)]
        yield ("accuracy_synonyms",), bootstrap.mean(np.array(synonymous, dtype=np.float64), clip, len(numbers), 100.0)
    if all(len(entry.get("answers", ())) > 1 for entry in predictions):
        matches = np.array([vqa_accuracy(a, entry["answers"]) for a, entry in zip(given, predictions)])
        yield ("vqa_accuracy",), bootstrap.mean(matches, clip, len(numbers), 100.0)
    for key, name in TYPES.items():
        kinds = np.array([entry.get(key) or "" for entry in predictions])
        for kind in sorted(set(kinds) - {""}):
            chosen = kinds == kind
            yield (name, str(kind)), bootstrap.mean(matches[chosen], clip[chosen], len(numbers), 100.0)
