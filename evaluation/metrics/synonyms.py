"""Answers that say the same in other words, by a file of one's own: beside exact match, never in place of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import looked_up
from omnivast.evaluation.metrics.vqa import normalise


class Synonyms:
    """Sets of answers that count as one another. Compared after VQAv2's normalisation; an answer may be in several sets."""

    def __init__(self, sets: Iterable[Iterable[str]] = ()) -> None:
        self._sets_of: dict[str, set[int]] = {}
        for number, answers in enumerate(sets):
            for answer in answers:
                self._sets_of.setdefault(normalise(answer), set()).add(number)

    def same(self, prediction: str, answer: str, more: Sequence[str] = ()) -> bool:
        """Whether a prediction is the answer, one of its synonyms, or one of ``more``, those of its own row."""
        given, true = normalise(prediction), normalise(answer)
        if given == true or any(given == normalise(other) for other in more):
            return True
        return bool(self._sets_of.get(given, set()) & self._sets_of.get(true, set()))


def read_synonyms(path: str | Path) -> Synonyms:
    """Synonyms of a JSON file: a list of lists, ``[["sofa", "couch"], …]``, or an object, ``{"sofa": ["couch"], …}``.

    Raises ValueError that names the file and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"synonyms '{path}': no such file{looked_up(str(path))}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"synonyms {path}: not JSON: {error}") from error
    sets: Any = [[word, *others] if isinstance(others, list) else others for word, others in content.items()] \
        if isinstance(content, dict) else content
    if not isinstance(sets, list):
        raise ValueError(f"synonyms {path}: expected a list of lists of answers, or an object of lists")
    for number, answers in enumerate(sets):
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise ValueError(f"synonyms {path}: entry {number} is {json.dumps(answers, ensure_ascii=False)}; expected two or more "
                             "answers that say the same, as in [\"sofa\", \"couch\"]")
    return Synonyms(sets)
