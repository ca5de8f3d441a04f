"""VALOR's annotation files: a JSON list of ids, and an object id → its texts.

    ids_path   ["video0", "video1", …]
    txt        {"video0": "a caption", "video1": ["a caption", "another"]}, or, for questions,
               {"video0": [{"question": "what runs?", "answer": "a dog", "question_id": 7},
                           {"question": "where?", "answer": ["sea", "beach"], "answer_weights": [1.0, 0.3]}]}

A row is a clip, however many texts it has; texts of other clips are left unread.
"""

from __future__ import annotations

import bisect
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.files import parse_json, read_bytes
from omnivast.config.tasks import Objective, Task
from omnivast.config.words import did_you_mean
from omnivast.data.annotations.load import check_rows
from omnivast.data.annotations.rows import ID_KEYS, QA_KEYS, AnnotationError, Row, RowReader, typename
from omnivast.data.annotations.table import Annotations

NEIGHBOURS = 50
"""So many ids before and behind an unknown one are looked at for the nearest."""
WEIGHTS = "answer_weights"

logger = logging.getLogger("omnivast")


def load_by_id(ids_path: str | Path, txt: str | Path, task: Task, *, training: bool, first_alone: bool = False,
               ignore_fields: Sequence[str] = (), captions_optional: bool = False) -> Annotations:
    """Read VALOR's annotation files and check every row against the task.

    Args:
        first_alone: of a clip with several captions only the first counts.
        captions_optional: an id may be without texts where the task has captions (references come from elsewhere).

    Raises:
        AnnotationError: that names the file, the id, and what was expected.
    """
    ids_file, texts_file = Path(ids_path), Path(txt)
    ids_content = read_bytes(ids_file, AnnotationError, what="list of ids")
    texts_content = read_bytes(texts_file, AnnotationError, what="file of texts")
    ids = _ids(parse_json(ids_content, ids_file, AnnotationError, expected="a JSON list of ids"), ids_file)
    texts = parse_json(texts_content, texts_file, AnnotationError, expected="a JSON object of texts by id")
    if not isinstance(texts, dict):
        hint = "; a list of objects is read as type annoindexed, without ids_path" if isinstance(texts, list) else ""
        raise AnnotationError(f"{texts_file}: expected a JSON object, id → caption, captions, or questions; found {typename(texts)}{hint}")
    optional = captions_optional and not task.groups(Objective.QA)
    _check_known(ids, texts, ids_file, texts_file, optional)
    reader = RowReader(texts_file, frozenset(ignore_fields), training=training, ids_suffice=optional)
    asked = bool(task.groups(Objective.QA))
    digest = hashlib.sha256(ids_content)
    digest.update(texts_content)
    rows = _Rows(reader, ids, texts, asked, first_alone and not training)
    annotations = Annotations(ids_file, digest.hexdigest(), rows)
    if rows.unasked:
        logger.warning("%s: %d of the %d clips of %s have no question and are left out, '%s' first", texts_file, len(rows.unasked),
                       len(ids), ids_file, rows.unasked[0])
    if not len(annotations):
        raise AnnotationError(f"{texts_file}: none of the {len(ids)} clips of {ids_file} has a question, which task '{task}' needs")
    check_rows(annotations, reader, task, captions_optional)
    return annotations


def _ids(value: Any, path: Path) -> list[str]:
    if not isinstance(value, list):
        raise AnnotationError(f'{path}: expected a JSON list of ids, such as ["video0", "video1"], found {typename(value)}')
    if not value:
        raise AnnotationError(f"{path}: the list is empty")
    wrong = next((place for place, entry in enumerate(value) if isinstance(entry, bool) or not isinstance(entry, (str, int))), None)
    if wrong is not None:
        hint = "; a list of objects is the txt of type annoindexed" if isinstance(value[wrong], dict) else ""
        raise AnnotationError(f"{path}: entry {wrong}: expected an id, found {typename(value[wrong])}{hint}")
    return [str(entry) for entry in value]


def _check_known(ids: list[str], texts: Mapping[str, Any], ids_path: Path, path: Path, optional: bool) -> None:
    missing = [clip_id for clip_id in ids if clip_id not in texts]
    if missing and not (optional and len(missing) < len(ids)):
        raise AnnotationError(f"{path}: has no texts for {len(missing)} of the {len(ids)} clips of {ids_path}, '{missing[0]}' first."
                              f"{_nearest(missing[0], texts)}")


def _nearest(clip_id: str, texts: Mapping[str, Any]) -> str:
    known = sorted(texts)
    place = bisect.bisect_left(known, clip_id)
    return did_you_mean(clip_id, known if len(known) < 100 * NEIGHBOURS else known[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS])


class _Rows:
    """The rows of the ids, in order; ``unasked`` are those that have an empty list in place of questions."""

    def __init__(self, reader: RowReader, ids: list[str], texts: Mapping[str, Any], asked: bool, first_alone: bool) -> None:
        self.reader, self.ids, self.texts, self.asked, self.first_alone = reader, ids, texts, asked, first_alone
        self.unasked: list[str] = []

    def __iter__(self) -> Iterator[Row]:
        for index, clip_id in enumerate(self.ids):
            found = self.texts.get(clip_id)
            if self.asked and found == []:
                self.unasked.append(clip_id)
            elif self.asked:
                yield self._questions(index, clip_id, found)
            else:
                found = found[:1] if self.first_alone and isinstance(found, list) else found
                yield self.reader.read(index, {ID_KEYS[0]: clip_id, **({} if found is None else {"caption": found})})

    def _questions(self, index: int, clip_id: str, value: Any) -> Row:
        where = f"{self.reader.path}: '{clip_id}'"
        if not isinstance(value, list):
            raise AnnotationError(f"{where}: expected a list of questions, each an object with 'question' and 'answer', found "
                                  f"{typename(value)}")
        columns: dict[str, list[Any]] = {key: [] for key in QA_KEYS}
        several = []
        for number, entry in enumerate(value):
            place = f"{where}, question {number}"
            if not isinstance(entry, dict) or "question" not in entry:
                raise AnnotationError(f"{place}: expected an object with 'question' and 'answer', found "
                                      f"{'no question' if isinstance(entry, dict) else typename(entry)}")
            answers = self._weighed(entry, place)
            several.append(answers)
            columns["question"].append(entry["question"])
            if answers:
                columns["answer"].append(max(answers, key=lambda pair: pair[1])[0])
            for key in QA_KEYS[2:]:
                if key in entry:
                    columns[key].append(entry[key])
        row = self.reader.read(index, {ID_KEYS[0]: clip_id, **{key: values for key, values in columns.items() if values}})
        if self.reader.training and any(isinstance(entry.get("answer"), list) for entry in value):
            row.several_answers.extend(several)
        return row

    def _weighed(self, entry: Mapping[str, Any], where: str) -> list[tuple[str, float]]:
        """The answers to a question, each with its weight; [] for a question of a test without answers."""
        answer, weights = entry.get("answer"), entry.get(WEIGHTS)
        if answer in (None, "", []) and not self.reader.training:
            return []
        answers = self.reader.strings(answer, "answer", where)
        if not isinstance(answer, list):
            return [(text, 1.0) for text in answers]
        if weights is None and not self.reader.training:
            return [(text, float(answers.count(text))) for text in answers]
        numbers = weights if isinstance(weights, list) and all(type(w) in (int, float) and 0 <= w < math.inf for w in weights) else None
        if numbers is None or not answers or len(numbers) != len(answers):
            found = f"{len(numbers)} of them" if numbers else typename(weights)
            raise AnnotationError(f"{where}: expected in '{WEIGHTS}' a number for each of its {len(answers)} answers, found {found}")
        return [(text, float(weight)) for text, weight in zip(answers, numbers)]
