"""A row of an annotation file: one JSON object, checked and mapped to one form, whatever its fields are called."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivast.config.conversation import Conversation
from omnivast.config.tasks import CaptionKind
from omnivast.data.media.containers import EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import check_id
from omnivast.data.spec import DataError

ID_KEYS = ("clip_id", "video_id", "image_id", "image", "id")
"""Under which a row may have the id of its clip."""
REFERENCE_ID_KEYS = ID_KEYS[:-1]
"""The same in files of COCO's and VQA's forms and in predictions, where ``id`` numbers the captions."""
CAPTION_KEYS = {
    "desc": CaptionKind.OMNI,
    "caption": CaptionKind.OMNI,
    "vast_cap": CaptionKind.OMNI,
    "vision_cap": CaptionKind.VISION,
    "audio_cap": CaptionKind.AUDIO,
}
QA_KEYS = ("question", "answer", "question_id", "question_type", "answer_type")
MEDIA_KEYS = ("video", "videos", "image", "images", "audio", "audios")
"""Under which a row of conversations may name the file of its clip, or a list of it."""
NEGATIVES = "negatives"
TOLD_KEYS = ("title", "description")
"""What is told of a clip besides its subtitle, which a text branch reads."""
FIELDS = (*ID_KEYS, *CAPTION_KEYS, NEGATIVES, "subtitle", *TOLD_KEYS, *QA_KEYS)


UNREAD = ("history",)
"""What a row may hold beside its fields: how a clip and its texts came to be."""


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
    answer_types: list[str]
    """Aligned with ``questions``, or empty; so are the ids and types above."""
    several_answers: list[list[tuple[str, float]]] = field(default_factory=list)
    """Of each question all answers that training learns at once, with their weights; empty where each has one (``answers``)."""
    chat: dict[str, Any] | None = None
    """Of a corpus of conversations: the whole JSON object of a row that holds one, which data/conversation.py reads."""
    negatives: list[str] = field(default_factory=list)
    """Rejected captions: what is worse said of the clip than its captions, which training for retrieval learns to tell from them."""
    title: str = ""
    description: str = ""


class RowReader:
    """JSON object → Row. Raises AnnotationErrors that say where."""

    def __init__(self, path: Path, ignored: frozenset[str], training: bool, ids_suffice: bool,
                 converse: Callable[[Mapping[str, Any], str], Conversation | None] | None = None) -> None:
        """``converse``: reads the conversation of a row, for messages named by the second argument, or None where it has captions; given
        where the file is one of conversations."""
        self._converse = converse
        self.blanks, self.first_blank = 0, ""
        """Blank captions, which are left out, and the row of the first."""
        self.training = training
        self._answered: tuple[bool, str] | None = None
        """Whether the questions so far have answers, and the row that says so."""
        self.path, self._ignored, self._ids_suffice = path, ignored, ids_suffice
        self._valid_shapes: set[tuple[str, ...]] = set()

    @property
    def settings(self) -> tuple[object, ...]:
        """The options that change which rows are read from a file."""
        return sorted(self._ignored), self.training, self._ids_suffice

    def read(self, index: int, item: Any) -> Row:
        """The row of one entry of the file's list."""
        where = f"{self.path}: row {index}"
        if self._ids_suffice and isinstance(item, (str, int)):
            item = {ID_KEYS[0]: item}
        if not isinstance(item, dict):
            expected = "an id or an object with one" if self._ids_suffice else "an object"
            raise AnnotationError(f"{where}: expected {expected}, found {typename(item)}")
        if self._converse is not None:
            return self._chat(item, where)
        clip_id = self._id(item, where)
        where = f"{where} (id '{clip_id}')"
        self._check_fields(item, where)
        item = {key: value for key, value in item.items() if key not in self._ignored}
        captions = {CAPTION_KEYS[key]: self._captions(value, key, where) for key, value in item.items() if key in CAPTION_KEYS}
        captions = {kind: texts for kind, texts in captions.items() if texts}
        subtitle = item.get("subtitle")
        if subtitle is not None and not isinstance(subtitle, str):
            raise AnnotationError(f"{where}: 'subtitle' must be a string, found {typename(subtitle)}")
        questions, answers, *others = (self.strings(item.get(key), key, where) for key in QA_KEYS)
        if isinstance(item.get("question"), str) and len(answers) > 1:
            questions, answers, *others = self._one_question(answers, questions, *others)
        self._check_answers(questions, answers, where)
        for key, values in zip(QA_KEYS[2:], others):
            if values and len(values) != len(questions):
                raise AnnotationError(f"{where}: {len(values)} value(s) of '{key}' for {len(questions)} question(s)")
        given = (subtitle or "") if "subtitle" in item else None
        negatives = self._negatives(item, captions, where)
        row = Row(clip_id, captions, given, questions, answers, others[0], others[1], others[2], negatives=negatives,
                  title=self._told(item, "title", where), description=self._told(item, "description", where))
        self._check_unicode(row, where)
        return row

    def _chat(self, item: dict[str, Any], where: str) -> Row:
        """A row of conversations: it may have any other fields too, which evaluators may know."""
        assert self._converse is not None
        item = {key: value for key, value in item.items() if key not in self._ignored}
        clip_id = self._media_id(item, where)
        where = f"{where} (id '{clip_id}')"
        subtitle = item.get("subtitle")
        if subtitle is not None and not isinstance(subtitle, str):
            raise AnnotationError(f"{where}: 'subtitle' must be a string, found {typename(subtitle)}")
        row = Row(clip_id, {}, (subtitle or "") if "subtitle" in item else None, [], [], [], [], [])
        if self._converse(item, where) is not None:
            row = dataclasses.replace(row, chat=item)
        else:
            captions = {CAPTION_KEYS[key]: self._captions(value, key, where) for key, value in item.items() if key in CAPTION_KEYS}
            row = dataclasses.replace(row, captions={kind: texts for kind, texts in captions.items() if texts})
            if not row.captions:
                raise AnnotationError(f"{where} has no conversation; expected one of messages, conversations, question, or a caption "
                                      f"({', '.join(CAPTION_KEYS)})")
        self._check_unicode(row, where)
        return row

    def _media_id(self, item: dict[str, Any], where: str) -> str:
        """The id of the clip, or the file that the row names, without its extension; "" for a row of text alone."""
        if any(key in item for key in ("clip_id", "video_id", "image_id")):
            return self._id({key: value for key, value in item.items() if key != "id"}, where)
        named = [value[0] if isinstance(value, list) and value else value for key in MEDIA_KEYS if (value := item.get(key))]
        stems = {_stem(value) for value in named if isinstance(value, str)}
        if len(stems) > 1 or not all(isinstance(value, str) for value in named):
            raise AnnotationError(f"{where}: expected the files of one clip, with names that differ in their extension alone; found "
                                  f"{', '.join(map(repr, named))}")
        return self._id({"clip_id": next(iter(stems))} if stems else item, where)

    def _check_answers(self, questions: list[str], answers: list[str], where: str) -> None:
        """Require one answer per question. Outside training a file may also have no answers at all, as VQAv2's test splits have, but
        then in no row."""
        if len(questions) != len(answers) and (answers or self.training):
            needed = ", which training needs" if not answers else "; expected as many of each"
            raise AnnotationError(f"{where}: {len(questions)} question(s) but {len(answers)} answer(s){needed}")
        if not questions:
            return
        self._answered = self._answered or (bool(answers), where)
        if self._answered[0] != bool(answers):
            own, other = ("no answer", "has one") if self._answered[0] else ("an answer", "has none")
            first = self._answered[1].removeprefix(f"{self.path}: ")
            raise AnnotationError(f"{where}: the question has {own}, but that of {first} {other}; expected answers in all rows or in none")

    def _check_unicode(self, row: Row, where: str) -> None:
        """JSON can escape half of a surrogate pair, which no file, log or tokenizer takes."""
        captions = [text for texts in row.captions.values() for text in texts]
        texts = [row.clip_id, row.subtitle or "", row.title, row.description, *captions, *row.negatives, *row.questions, *row.answers,
                 *row.question_ids, *row.question_types, *row.answer_types, json.dumps(row.chat, ensure_ascii=False)]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            shown = where.encode("ascii", "backslashreplace").decode()
            raise AnnotationError(f"{shown}: a text is not Unicode: it holds half of a surrogate pair") from None

    def _one_question(self, answers: list[str], *asked: list[str]) -> tuple[list[str], ...]:
        """One question that several people answered, as in VQAv2. Training draws one of their answers: the question stands here once
        with each. Evaluation asks once and compares with the answer given most often (VQAv2's ``multiple_choice_answer``)."""
        kept = answers if self.training else [max(answers, key=answers.count)]
        questions, *others = (values * len(kept) for values in asked)
        return questions, kept, *others

    def _id(self, item: dict[str, Any], where: str) -> str:
        keys = [key for key in ID_KEYS if key in item and key not in self._ignored]
        if not keys:
            raise AnnotationError(f"{where} has no id; expected one of {', '.join(ID_KEYS)}")
        value = item[keys[0]]
        other = next((key for key in keys[1:] if item[key] != value), None)
        if other is not None:
            raise AnnotationError(f"{where} has two ids: '{keys[0]}' {value!r} and '{other}' {item[other]!r}; put one in ignore_fields")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise AnnotationError(f"{where}: the id '{keys[0]}' must be a string, found {typename(value)}")
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
            if key not in FIELDS and key not in UNREAD and key not in self._ignored:
                near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'? " if near else f"valid are {', '.join(FIELDS)}; "
                raise AnnotationError(f'{where}: unknown field \'{key}\'; {hint}To leave it unread: "ignore_fields": ["{key}"]')
        omni = [key for key in shape if CAPTION_KEYS.get(key) is CaptionKind.OMNI and key not in self._ignored]
        if len(omni) > 1:
            raise AnnotationError(f"{where} has two captions, '{omni[0]}' and '{omni[1]}'; put one in ignore_fields")
        self._valid_shapes.add(shape)

    def _captions(self, value: Any, key: str, where: str) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        wrong = next((text for text in texts if not isinstance(text, str)), None) if isinstance(texts, list) else value
        if wrong is not None or not isinstance(texts, list) or None in texts:
            raise AnnotationError(f"{where}: '{key}' must be a string or a list of strings, found {typename(wrong)}")
        kept = [text for text in texts if text.strip()]
        if len(kept) < len(texts):
            self.blanks += len(texts) - len(kept)
            self.first_blank = self.first_blank or where.removeprefix(f"{self.path}: ")
        return kept

    def _told(self, item: dict[str, Any], key: str, where: str) -> str:
        value = item.get(key)
        if value is not None and not isinstance(value, str):
            raise AnnotationError(f"{where}: '{key}' must be a string, found {typename(value)}")
        return value or ""

    def _negatives(self, item: dict[str, Any], captions: Mapping[CaptionKind, list[str]], where: str) -> list[str]:
        """The rejected captions of a row."""
        if NEGATIVES not in item:
            return []
        negatives = self._captions(item[NEGATIVES], NEGATIVES, where)
        if not captions:
            raise AnnotationError(f"{where} has '{NEGATIVES}' but no caption that they are worse than; expected one of "
                                  f"{', '.join(CAPTION_KEYS)}")
        for text in negatives:
            if any(text in own for own in captions.values()):
                raise AnnotationError(f"{where}: '{text}' is a caption of the clip and one of its '{NEGATIVES}'; keep it in one of them")
        return negatives

    def strings(self, value: Any, key: str, where: str) -> list[str]:
        """None, a value or a list of values → strings. Numbers are written out (answers and ids are often numbers)."""
        values = [] if value is None else value if isinstance(value, list) else [value]
        for entry in values:
            plain = isinstance(entry, (str, int, float)) and not isinstance(entry, bool)
            if not plain or (isinstance(entry, float) and not math.isfinite(entry)):
                raise AnnotationError(f"{where}: '{key}' must be a string or a list of strings, found {typename(entry)}")
            if key in ("question", "answer") and not str(entry).strip():
                raise AnnotationError(f"{where}: '{key}' is empty")
        return [str(entry) for entry in values]


def id_of(row: Mapping[str, Any], keys: Sequence[str] = ID_KEYS) -> str | None:
    """The clip's id in a row that is not further checked: what the first of ``keys`` with a string or a whole number holds."""
    values = (row.get(key) for key in keys)
    return next((str(value) for value in values if isinstance(value, (str, int)) and not isinstance(value, bool)), None)


def typename(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{json.dumps(value)}, which pandas writes for an empty cell (write null, or leave the field out)"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _stem(file: str) -> str:
    """A media file's name, with its folder, without the extension of a medium."""
    stem, dot, extension = file.rpartition(".")
    return stem if dot and f".{extension.lower()}" in EXTENSIONS else file


KINDS = tuple(CaptionKind)


def pack(row: Row) -> bytes:
    """A row as compact JSON, the inverse of ``unpack``."""
    captions = [row.captions.get(kind) for kind in KINDS]
    asked = [row.questions, row.answers, row.question_ids, row.question_types, row.answer_types]
    # What other rows lack is left out of them: they stay as they were, and so do their marks.
    rest: list[Any] = [row.several_answers, row.chat, row.negatives, row.title, row.description]
    while rest and not rest[-1]:
        rest.pop()
    return json.dumps([row.clip_id, captions, row.subtitle, *asked, *rest]).encode()


def unpack(packed: bytes) -> Row:
    """The inverse of ``pack``."""
    clip_id, captions, *rest = json.loads(packed)
    return Row(clip_id, {kind: texts for kind, texts in zip(KINDS, captions) if texts}, *rest)
