"""Accuracy of answers: exact match after blanks at the ends are stripped and letters lowered, nothing else."""

from __future__ import annotations

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
