"""Annotation files: a JSON list of objects, read, checked against the task, and kept compactly.

Everything wrong is an ``AnnotationError`` before training starts; it names the file, the row, the id and what was expected.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.tasks import CaptionKind, Modality, Objective, Task
from data.media import MediaError, check_id
from data.spec import DataError

ID_KEYS = ("clip_id", "video_id", "image_id", "image", "id")
CAPTION_KEYS = {
    "desc": CaptionKind.OMNI,
    "caption": CaptionKind.OMNI,
    "vast_cap": CaptionKind.OMNI,
    "vision_cap": CaptionKind.VISION,
    "audio_cap": CaptionKind.AUDIO,
}
QA_KEYS = ("question", "answer", "question_id", "question_type")
FIELDS = (*ID_KEYS, *CAPTION_KEYS, "subtitle", *QA_KEYS)

logger = logging.getLogger("omnivast")


class AnnotationError(DataError):
    """An annotation file that cannot be used."""


@dataclass(frozen=True)
class Row:
    """One clip (or one question about a clip) of an annotation file, its fields mapped to one form."""

    clip_id: str
    captions: dict[CaptionKind, list[str]]
    """Only the kinds that the row has."""
    subtitle: str | None
    """None where the row has no such field."""
    questions: list[str]
    answers: list[str]
    question_ids: list[str]
    question_types: list[str]
    """As many as questions, or none."""


class Annotations(Sequence[Row]):
    """The rows of one file, packed into one buffer (no Python object per row, so that worker processes share its pages)."""

    def __init__(self, path: Path, sha256: str, rows: Iterable[Row]) -> None:
        self.path, self.sha256 = path, sha256
        kinds: set[CaptionKind] = set()
        parts: list[bytes] = []
        self.with_subtitle = self.caption_count = self.question_count = 0
        for row in rows:
            kinds.update(row.captions)
            self.with_subtitle += row.subtitle is not None
            self.caption_count += len(row.captions.get(CaptionKind.OMNI) or next(iter(row.captions.values()), ()))
            self.question_count += len(row.questions)
            parts.append(_pack(row))
        self.kinds = frozenset(kinds)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    @property
    def several_kinds(self) -> bool:
        """Whether there are vision or audio captions beside the omni caption, as in VAST-27M."""
        return len(self.kinds) > 1

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        start = self._ends[index - 1] if index else 0
        return _unpack(self._bytes[start : self._ends[index]].tobytes())

    def ids(self) -> list[str]:
        """The clip id of every row, in order."""
        return [self[i].clip_id for i in range(len(self))]


def load_annotations(
    path: str | Path, task: Task, *, training: bool, ignore_fields: Sequence[str] = (), captions_optional: bool = False
) -> Annotations:
    """Read an annotation file and check every row against the task.

    ``captions_optional``: rows without a caption are fine for captioning (labelling one's own clips, or references come from
    elsewhere), and so is an id in place of a row. Raises AnnotationError.
    """
    path = Path(path)
    items, digest = _read_json(path)
    if isinstance(items, dict) and "annotations" in items:
        raise AnnotationError(f"{path}: this is a COCO-style reference file; give it as 'annfile', and as 'txt' a JSON list of objects")
    if not isinstance(items, list):
        raise AnnotationError(f"{path}: expected a JSON list of objects, found {_typename(items)}")
    if not items:
        raise AnnotationError(f"{path}: the list is empty")
    reader = _RowReader(path, frozenset(ignore_fields), training=training, ids_suffice=captions_optional)
    annotations = Annotations(path, digest, (reader.read(i, item) for i, item in enumerate(items)))
    if reader.blanks:
        logger.warning("%s: %d blank caption(s) are left out", path, reader.blanks)
    _check_task(annotations, task, captions_optional)
    _check_duplicates(annotations, task, training)
    return annotations


def load_references(path: str | Path) -> dict[str, list[str]]:
    """A COCO-style file ``{"annotations": [{"video_id": …, "caption": …}]}`` → clip id → reference captions.

    The id may be under any of the annotation files' id keys but ``id``, which in COCO numbers the captions. Raises AnnotationError.
    """
    path = Path(path)
    value, _ = _read_json(path)
    items = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise AnnotationError(f'{path}: expected reference captions as {{"annotations": [{{"video_id": …, "caption": …}}, …]}}')
    references: dict[str, list[str]] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise AnnotationError(f"{path}: annotation {index}: expected an object, found {_typename(item)}")
        key = next((k for k in ID_KEYS if k in item and k != "id"), None)
        if key is None or not isinstance(item[key], (str, int)):
            raise AnnotationError(f"{path}: annotation {index} has no id; expected one of {', '.join(ID_KEYS[:-1])}")
        captions = item.get("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not captions or not all(isinstance(c, str) and c.strip() for c in captions):
            raise AnnotationError(f"{path}: annotation {index} (id '{item[key]}') has no caption; expected 'caption': a string")
        references.setdefault(str(item[key]), []).extend(captions)
    return references


# ------------------------------------------------------------------------------------------------------------ one row


class _RowReader:
    """JSON object → Row, with errors that say where."""

    def __init__(self, path: Path, ignored: frozenset[str], training: bool, ids_suffice: bool) -> None:
        self.blanks = 0
        self._path, self._ignored, self._training, self._ids_suffice = path, ignored, training, ids_suffice
        self._valid_shapes: set[tuple[str, ...]] = set()

    def read(self, index: int, item: Any) -> Row:
        where = f"{self._path}: row {index}"
        if self._ids_suffice and isinstance(item, (str, int)):
            item = {ID_KEYS[0]: item}
        if not isinstance(item, dict):
            expected = "an id or an object with one" if self._ids_suffice else "an object"
            raise AnnotationError(f"{where}: expected {expected}, found {_typename(item)}")
        clip_id = self._id(item, where)
        where = f"{where} (id '{clip_id}')"
        self._check_fields(item, where)
        item = {key: value for key, value in item.items() if key not in self._ignored}
        captions = {CAPTION_KEYS[key]: self._captions(value, key, where) for key, value in item.items() if key in CAPTION_KEYS}
        captions = {kind: texts for kind, texts in captions.items() if texts}
        subtitle = item.get("subtitle")
        if subtitle is not None and not isinstance(subtitle, str):
            raise AnnotationError(f"{where}: 'subtitle' must be a string, found {_typename(subtitle)}")
        questions, answers, ids, types = (self._strings(item.get(key), key, where) for key in QA_KEYS)
        if isinstance(item.get("question"), str) and len(answers) > 1:
            questions, answers, ids, types = self._one_question(answers, questions, ids, types)
        if len(questions) != len(answers):
            raise AnnotationError(f"{where}: {len(questions)} question(s) but {len(answers)} answer(s); expected as many of each")
        for key, values in (("question_id", ids), ("question_type", types)):
            if values and len(values) != len(questions):
                raise AnnotationError(f"{where}: {len(values)} value(s) of '{key}' for {len(questions)} question(s)")
        given = (subtitle or "") if "subtitle" in item else None
        return Row(clip_id, captions, given, questions, answers, ids, types)

    def _one_question(self, answers: list[str], *asked: list[str]) -> tuple[list[str], list[str], list[str], list[str]]:
        """One question that several people answered, as in VQAv2. Training draws one of their answers: the question stands here once
        with each. Evaluation asks once and compares with the answer given most often (VQAv2's ``multiple_choice_answer``)."""
        kept = answers if self._training else [max(answers, key=answers.count)]
        questions, ids, types = (values * len(kept) for values in asked)
        return questions, kept, ids, types

    def _id(self, item: dict[str, Any], where: str) -> str:
        keys = [key for key in ID_KEYS if key in item and key not in self._ignored]
        if not keys:
            raise AnnotationError(f"{where} has no id; expected one of {', '.join(ID_KEYS)}")
        value = item[keys[0]]
        other = next((key for key in keys[1:] if item[key] != value), None)
        if other is not None:
            raise AnnotationError(f"{where} has two ids: '{keys[0]}' {value!r} and '{other}' {item[other]!r}; put one in ignore_fields")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise AnnotationError(f"{where}: the id '{keys[0]}' must be a string, found {_typename(value)}")
        try:
            check_id(str(value))
        except MediaError as error:
            raise AnnotationError(f"{where}: id '{value}': {error.reason}") from None
        return str(value)

    def _check_fields(self, item: dict[str, Any], where: str) -> None:
        shape = tuple(item)
        if shape in self._valid_shapes:
            return
        for key in shape:
            if key not in FIELDS and key not in self._ignored:
                near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'? " if near else f"valid are {', '.join(FIELDS)}; "
                raise AnnotationError(f'{where}: unknown field \'{key}\'; {hint}To leave it unread: "ignore_fields": ["{key}"]')
        omni = [key for key in shape if CAPTION_KEYS.get(key) is CaptionKind.OMNI and key not in self._ignored]
        if len(omni) > 1:
            raise AnnotationError(f"{where} has two captions, '{omni[0]}' and '{omni[1]}'; put one in ignore_fields")
        self._valid_shapes.add(shape)

    def _captions(self, value: Any, key: str, where: str) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise AnnotationError(f"{where}: '{key}' must be a string or a list of strings, found {_typename(value)}")
        kept = [text for text in texts if text.strip()]
        self.blanks += len(texts) - len(kept)
        return kept

    def _strings(self, value: Any, key: str, where: str) -> list[str]:
        """None, a value or a list of values → strings. Numbers are written out (answers and ids are often numbers)."""
        values = [] if value is None else value if isinstance(value, list) else [value]
        for entry in values:
            if isinstance(entry, bool) or not isinstance(entry, (str, int, float)):
                raise AnnotationError(f"{where}: '{key}' must be a string or a list of strings, found {_typename(entry)}")
            if key in ("question", "answer") and not str(entry).strip():
                raise AnnotationError(f"{where}: '{key}' is empty")
        return [str(entry) for entry in values]


# ---------------------------------------------------------------------------------------------------------- whole files


def _check_task(annotations: Annotations, task: Task, captions_optional: bool) -> None:
    objectives = [Objective.RETRIEVAL] if captions_optional else [Objective.RETRIEVAL, Objective.CAPTION]
    kinds = {group.caption_kind for objective in objectives for group in task.groups(objective)}
    needs_qa = Objective.QA in task.objectives
    for index, row in enumerate(annotations if kinds or needs_qa else ()):
        where = f"{annotations.path}: row {index} (id '{row.clip_id}')"
        missing = [kind for kind in kinds if kind not in row.captions and CaptionKind.OMNI not in row.captions]
        if missing:
            keys = [key for key, kind in CAPTION_KEYS.items() if kind in (missing[0], CaptionKind.OMNI)]
            raise AnnotationError(f"{where} has no caption for task '{task}'; expected one of {', '.join(keys)}")
        if needs_qa and not row.questions:
            raise AnnotationError(f"{where} has no question and answer, which task '{task}' needs")
    if Modality.SUBTITLE in task.modalities and not annotations.with_subtitle:
        raise AnnotationError(
            f"{annotations.path}: dataset without the modality that its task needs: task '{task}' has a group with s (subtitle), "
            "but no row has a 'subtitle'"
        )


def _check_duplicates(annotations: Annotations, task: Task, training: bool) -> None:
    """In evaluation a clip would be its own wrong answer. In training a row repeated exactly is only said: released files with a row
    per caption have some, because two people described a clip in the same words."""
    with_captions = any(task.groups(objective) for objective in (Objective.RETRIEVAL, Objective.CAPTION))
    if training:
        seen: dict[bytes, int] = {}
        repeats = [(index, earlier) for index, row in enumerate(annotations)
                   if (earlier := seen.setdefault(hashlib.blake2b(_pack(row), digest_size=16).digest(), index)) != index]
        if repeats:
            index, earlier = repeats[0]
            logger.warning("%s: %d of %d rows repeat another exactly; the first is row %d (id '%s'), which repeats row %d",
                           annotations.path, len(repeats), len(annotations), index, annotations[index].clip_id, earlier)
    elif with_captions:
        first: dict[str, int] = {}
        for index, clip_id in enumerate(annotations.ids()):
            if clip_id in first:
                raise AnnotationError(
                    f"{annotations.path}: row {index}: duplicate id '{clip_id}' (first in row {first[clip_id]}); give a clip one row, "
                    "with a list of captions"
                )
            first[clip_id] = index


def _read_json(path: Path) -> tuple[Any, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return json.loads(content), hashlib.sha256(content).hexdigest()
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from None


def _typename(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


_KINDS = tuple(CaptionKind)


def _pack(row: Row) -> bytes:
    captions = [row.captions.get(kind) for kind in _KINDS]
    return json.dumps([row.clip_id, captions, row.subtitle, row.questions, row.answers, row.question_ids, row.question_types]).encode()


def _unpack(packed: bytes) -> Row:
    clip_id, captions, *rest = json.loads(packed)
    return Row(clip_id, {kind: texts for kind, texts in zip(_KINDS, captions) if texts}, *rest)
