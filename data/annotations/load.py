"""Annotation files: a JSON list of objects, read, checked against the task, and kept compactly in memory, or large ones on disk.

Everything wrong is an ``AnnotationError`` before training starts; it names the file, the row, the id and what was expected.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.config.conversation import Conversation
from omnivast.config.files import parse_json, read_bytes, read_json
from omnivast.config.tasks import OF_CAPTIONS, CaptionKind, Modality, Objective, Task
from omnivast.data.annotations.columns import load_mapped
from omnivast.data.annotations.rows import CAPTION_KEYS, REFERENCE_ID_KEYS, AnnotationError, RowReader, id_of, typename
from omnivast.data.annotations.table import Annotations
from omnivast.data.conversation import is_conversation, read_conversation

MAPPED_FROM = 64 * 2**20
"""Bytes of an annotation file from which its rows are kept in a memory-mapped file (``columns``) instead of in memory."""

logger = logging.getLogger("omnivast")


def load_annotations(
    path: str | Path, task: Task, *, training: bool, ignore_fields: Sequence[str] = (), captions_optional: bool = False
) -> Annotations:
    """Read an annotation file and check every row against the task.

    ``captions_optional``: rows without a caption are fine for captioning (labelling one's own clips, or references come from
    elsewhere), and so is an id in place of a row. Raises AnnotationError.
    """
    path = Path(path)
    converse = partial(_conversation, task) if Objective.CHAT in task.objectives else None
    reader = RowReader(path, frozenset(ignore_fields), training=training, ids_suffice=captions_optional, converse=converse)
    if _is_long_list(path) and converse is None:
        annotations: Annotations = load_mapped(path, reader)
    else:
        annotations = _load_whole(path, reader)
    check_rows(annotations, reader, task, captions_optional)
    return annotations


def _conversation(task: Task, item: Mapping[str, Any], where: str) -> Conversation | None:
    """The conversation of a row, None for one of captions. Raises AnnotationError for one about a track that the task does not read."""
    if not is_conversation(item):
        return None
    conversation = read_conversation(item, where, task.modalities)
    exact = item.get("modality") is not None  # else a subtitle that the row has is given where the task asks for it
    foreign = [m for m in Modality if m in conversation.modalities and m not in task.modalities and (exact or m is not Modality.SUBTITLE)]
    if foreign:
        raise AnnotationError(f"{where} is about {foreign[0].word}, which task '{task}' does not read; add {foreign[0].value} to its group")
    return conversation


def check_rows(annotations: Annotations, reader: RowReader, task: Task, captions_optional: bool) -> None:
    """Check all rows against the task, and log what ``reader`` left out of them. Raises AnnotationError."""
    if reader.blanks:
        logger.warning("%s: %d blank caption(s) are left out%s", reader.path, reader.blanks,
                       f", the first in {reader.first_blank}" if reader.first_blank else "")
    _check_task(annotations, task, captions_optional)
    _check_duplicates(annotations, task, reader.training)


def _is_long_list(path: Path) -> bool:
    """Whether the file is a list that is too large to keep in memory. A file that is no list is read whole, and refused then."""
    try:
        if path.stat().st_size < MAPPED_FROM:
            return False
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8-sig", "replace").lstrip(" \t\n\r").startswith("[")
    except OSError:
        return False


def _load_whole(path: Path, reader: RowReader) -> Annotations:
    content = read_bytes(path, AnnotationError, what="annotation file")
    items = parse_json(content, path, AnnotationError, expected="a JSON list of objects")
    if isinstance(items, dict) and "annotations" in items:
        raise AnnotationError(f"{path}: this is a COCO-style reference file; give it as 'annfile', and as 'txt' a JSON list of objects")
    if not isinstance(items, list):
        raise AnnotationError(f"{path}: expected a JSON list of objects, found {typename(items)}")
    if not items:
        raise AnnotationError(f"{path}: the list is empty")
    return Annotations(path, hashlib.sha256(content).hexdigest(), (reader.read(i, item) for i, item in enumerate(items)))


def load_references(path: str | Path) -> dict[str, list[str]]:
    """A COCO-style file ``{"annotations": [{"video_id": …, "caption": …}]}``, or the list alone → clip id → reference captions.

    The id may be under any of the annotation files' id keys but ``id``, which in COCO numbers the captions. Raises AnnotationError.
    """
    path = Path(path)
    value = read_json(path, AnnotationError, what="annotation file", expected="reference captions")
    items = value.get("annotations") if isinstance(value, dict) else value or None
    if not isinstance(items, list):
        raise AnnotationError(f'{path}: expected reference captions as {{"annotations": [{{"video_id": …, "caption": …}}, …]}}')
    references: dict[str, list[str]] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise AnnotationError(f"{path}: annotation {index}: expected an object, found {typename(item)}")
        clip_id = id_of(item, REFERENCE_ID_KEYS)
        if clip_id is None:
            raise AnnotationError(f"{path}: annotation {index} has no id; expected one of {', '.join(REFERENCE_ID_KEYS)}")
        captions = item.get("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
            raise AnnotationError(f"{path}: annotation {index} (id '{clip_id}') has no caption; expected 'caption': a string")
        references.setdefault(clip_id, []).extend(captions)
    return without_blanks(references, path)


def without_blanks(references: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    """The references without blank captions, whose number is logged. Raises AnnotationError for a clip that has only blank ones."""
    kept = {clip_id: [text for text in texts if text.strip()] for clip_id, texts in references.items()}
    bare = next((clip_id for clip_id, texts in kept.items() if not texts), None)
    if bare is not None:
        raise AnnotationError(f"{path}: clip '{bare}' has only blank reference captions; give it one, or leave the clip out")
    if blanks := sum(map(len, references.values())) - sum(map(len, kept.values())):
        logger.warning("%s: %d blank reference caption(s) are left out", path, blanks)
    return kept


def _check_task(annotations: Annotations, task: Task, captions_optional: bool) -> None:
    objectives = (Objective.RETRIEVAL,) if captions_optional else OF_CAPTIONS
    kinds = {group.caption_kind for objective in objectives for group in task.groups(objective)}
    needs_qa = Objective.QA in task.objectives
    index = annotations.first_lacking(kinds, needs_qa) if kinds or needs_qa else None
    if index is not None:
        row = annotations[index]
        where = f"{annotations.path}: row {index} (id '{row.clip_id}')"
        missing = [kind for kind in kinds if kind not in row.captions and CaptionKind.OMNI not in row.captions]
        if missing:
            keys = [key for key, kind in CAPTION_KEYS.items() if kind in (missing[0], CaptionKind.OMNI)]
            raise AnnotationError(f"{where} has no caption for task '{task}'; expected one of {', '.join(keys)}")
        raise AnnotationError(f"{where} has no question and answer, which task '{task}' needs")
    if Modality.SUBTITLE in task.modalities and not annotations.with_subtitle:
        raise AnnotationError(
            f"{annotations.path}: dataset without the modality that its task needs: task '{task}' has a group with s (subtitle), "
            "but no row has a 'subtitle'"
        )


def _check_duplicates(annotations: Annotations, task: Task, training: bool) -> None:
    """Refuse clips that occur twice in an evaluation set, where each would count as a wrong answer for the other. In training, rows that
    are repeated exactly are only logged: released files with a row per caption have some, because two people described a clip in the
    same words."""
    with_captions = any(task.groups(objective) for objective in OF_CAPTIONS)
    if training and (repeats := annotations.repeats()):
        count, index, earlier = repeats
        logger.warning("%s: %d of %d rows repeat another exactly; the first is row %d (id '%s'), which repeats row %d",
                       annotations.path, count, len(annotations), index, annotations[index].clip_id, earlier)
    if not training and with_captions and (repeated := annotations.repeated_id()):
        index, earlier = repeated
        raise AnnotationError(
            f"{annotations.path}: row {index}: duplicate id '{annotations[index].clip_id}' (first in row {earlier}); give a clip one row, "
            "with a list of captions"
        )
