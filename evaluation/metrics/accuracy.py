"""Accuracy of answers: exact match after blanks at the ends are stripped and letters lowered, nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def normalise(answer: str) -> str:
    """An answer as it is compared: without blanks at the ends, in lower case."""
    return answer.strip().lower()


def exact_matches(predictions: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """Whether each prediction equals its answer. Raises ValueError when the lists differ in length."""
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} answers")
    return [normalise(prediction) == normalise(answer) for prediction, answer in zip(predictions, answers)]


def accuracy(matches: Sequence[bool]) -> float:
    """Percent of matches. Raises ValueError without any."""
    if not matches:
        raise ValueError("no answer to score")
    return 100.0 * sum(matches) / len(matches)


def accuracy_by_type(matches: Sequence[bool], types: Sequence[str]) -> dict[str, float]:
    """Percent of matches of each question type, in alphabetical order of types. Raises ValueError when the lists differ in length."""
    if len(matches) != len(types):
        raise ValueError(f"{len(matches)} answers for {len(types)} question types")
    by_type: dict[str, list[bool]] = defaultdict(list)
    for match, kind in zip(matches, types):
        by_type[kind].append(match)
    return {kind: accuracy(by_type[kind]) for kind in sorted(by_type)}
