"""Annotation files of every layout that is read, as entries of one form; one after the other, so that files may be larger than memory.

- A list of rows, as for training and tests (``annotations/rows.py``), or of ids alone.
- COCO's ``{"annotations": [{"video_id", "caption"}, …]}``.
- A text mapper, as VALOR has it: ``{id: caption, or list of captions, or list of {"question", "answer"}}``.

Less is required than for a training, since faults are what one looks for: empty texts are kept, and fields that are not read are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omnivast.config.files import why_not_json
from omnivast.config.paths import looked_up
from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations import json_stream
from omnivast.data.annotations.rows import CAPTION_KEYS, FIELDS, ID_KEYS, REFERENCE_ID_KEYS, AnnotationError, id_of, typename

EXPECTED = ('a list of rows with an id and captions or questions, as for a training; {"annotations": [{"video_id": …, "caption": …}, …]}, '
            "as COCO has it; or {id: caption, list of captions, or list of questions with answers}, as VALOR's text mapper")
OF_MAPPED_QUESTIONS = ("question", "answer", "question_id", "answer_weights")
COCO_LISTS = ("annotations", "images", "videos")


@dataclass(frozen=True)
class Entry:
    """What one row, or one key of a text mapper, says of a clip."""

    clip_id: str
    captions: Mapping[CaptionKind, Sequence[str]]
    subtitle: str | None = None
    questions: Sequence[str] = ()
    answers: Sequence[str] = ()
    unanswered: int = 0
    """Questions without an answer."""
    unread: Sequence[str] = ()
    """Fields that are not known, and not read."""


def read_entries(path: Path, seen: Callable[[bytes], None] = lambda chunk: None) -> Iterator[Entry]:
    """The entries of a file; ``seen`` is called with each chunk of bytes that is read. Raises AnnotationError."""
    try:
        with open(path, "rb") as file:
            yield from _read(file, path, seen)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file{looked_up(path)}") from None
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise AnnotationError(f"{path}: cannot be read: {reason}") from None
    except AnnotationError:
        raise
    except (ValueError, RecursionError) as error:
        lines = str(error).startswith("Extra data: line 2 ")
        hint = "; one object per line is JSON Lines: write one list of them" if lines else ""
        raise AnnotationError(f"{path}: not JSON: {why_not_json(error)}{hint}") from None


def _read(file: BinaryIO, path: Path, seen: Callable[[bytes], None]) -> Iterator[Entry]:
    sign = json_stream.first_sign(file)
    if sign == "[":
        for index, item in enumerate(json_stream.entries(file, seen)):
            yield _row(item, f"{path}: row {index}")
    elif sign == "{":
        yield from _object(file, path, seen)
    elif not sign:
        raise AnnotationError(f"{path}: the file is empty; expected {EXPECTED}")
    else:  # another JSON value, or none: reading it says what is wrong with it
        next(json_stream.entries(file, seen))


def _object(file: BinaryIO, path: Path, seen: Callable[[bytes], None]) -> Iterator[Entry]:
    """COCO's object has one list of annotations among other members, which are not looked at; in a text mapper every member is a clip."""
    mapped, coco = False, 0
    others: list[str] = []
    for key, value in json_stream.members(file, COCO_LISTS, seen):
        if key == "annotations" and not mapped:
            yield _annotation(value, f"{path}: annotation {coco}")
            coco += 1
        elif coco or key in ("info", "licenses", "type", *COCO_LISTS):
            others.append(key)
        elif not mapped and key in FIELDS:
            raise _unknown(path, f"one object with '{key}' instead of a list of such")
        else:
            yield _member(key, value, path)
            mapped = True
    if not mapped and not coco:
        raise _unknown(path, f"an object with {', '.join(dict.fromkeys(others)) or 'nothing in it'}")


def _row(item: Any, where: str) -> Entry:
    if isinstance(item, (str, int)) and not isinstance(item, bool):
        return Entry(str(item), {})
    clip_id = _id_of(item, ID_KEYS, where)
    where = f"{where} (id '{clip_id}')"
    captions: dict[CaptionKind, list[str]] = {}
    for key, kind in CAPTION_KEYS.items():
        if item.get(key) is not None:
            captions.setdefault(kind, []).extend(_texts(item[key], f"{where}: '{key}'"))
    subtitle = item.get("subtitle")
    if subtitle is not None and not isinstance(subtitle, str):
        raise AnnotationError(f"{where}: 'subtitle' must be a string, found {typename(subtitle)}")
    questions = _texts(item.get("question"), f"{where}: 'question'")
    answers = _texts(item.get("answer"), f"{where}: 'answer'")
    # One question may have many answers, of as many people; several questions have one each.
    unanswered = max(0, len(questions) - len(answers))
    return Entry(clip_id, captions, subtitle, questions, answers, unanswered, [key for key in item if key not in FIELDS])


def _annotation(item: Any, where: str) -> Entry:
    clip_id = _id_of(item, REFERENCE_ID_KEYS, where)
    if "caption" not in item:
        raise AnnotationError(f"{where} (id '{clip_id}') has no 'caption'; found {', '.join(item)}")
    captions = _texts(item["caption"], f"{where} (id '{clip_id}'): 'caption'")
    return Entry(clip_id, {CaptionKind.OMNI: captions}, unread=[key for key in item if key not in FIELDS])


def _member(key: str, value: Any, path: Path) -> Entry:
    """One clip of a text mapper."""
    asked = [value] if isinstance(value, dict) else value
    if isinstance(asked, list) and asked and all(isinstance(entry, dict) for entry in asked):
        wrong = next((entry for entry in asked if not isinstance(entry.get("question"), str) or id_of(entry) is not None), None)
        if wrong is not None:
            raise _unknown(path, f"'{key}' holds an object with {', '.join(wrong) or 'nothing'}")
        answers = [_texts(entry.get("answer"), f"{path}: '{key}': 'answer'") for entry in asked]
        return Entry(key, {}, None, [entry["question"] for entry in asked], [answer for own in answers for answer in own],
                     sum(not own for own in answers), [name for entry in asked for name in entry if name not in OF_MAPPED_QUESTIONS])
    if not isinstance(value, (str, list)):
        raise _unknown(path, f"'{key}' is {typename(value)}")
    return Entry(key, {CaptionKind.OMNI: _texts(value, f"{path}: '{key}'")})


def _unknown(path: Path, found: str) -> AnnotationError:
    return AnnotationError(f"{path}: unknown layout, {found}; expected {EXPECTED}")


def _id_of(item: Any, keys: Sequence[str], where: str) -> str:
    if not isinstance(item, dict):
        raise AnnotationError(f"{where}: expected an object, found {typename(item)}")
    clip_id = id_of(item, keys)
    if clip_id is None:
        raise AnnotationError(f"{where} has no id; found {', '.join(item) or 'nothing'}; expected one of {', '.join(keys)}")
    return clip_id


def _texts(value: Any, what: str) -> list[str]:
    """A text, a list of texts or null → texts. Numbers are written out, as answers often are some."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    wrong = next((entry for entry in values if isinstance(entry, bool) or not isinstance(entry, (str, int, float))), None)
    if wrong is not None or None in values:
        raise AnnotationError(f"{what} must be a string or a list of strings, found {typename(wrong)}")
    return [str(entry) for entry in values]
