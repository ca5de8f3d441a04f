"""Prediction files and reference files of ``evaluation.score`` → entries as result files have them; everything is checked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations import rows
from omnivast.data.annotations.load import load_references, without_blanks
from omnivast.evaluation.inputs import is_result

SYSTEM = "scored"
"""The name under which an entry holds what is scored; result files have a group's name there."""
CAPTION_KEYS = [key for key, kind in rows.CAPTION_KEYS.items() if kind is CaptionKind.OMNI]
"""Keys under which a list of references may have a video's captions."""
FORMS = {
    "cap": '[{"video_id": …, "caption": …}, …]',
    "ret": '[{"caption": …, "ranked": [video ids]}, …] or [{"video_id": …, "ranked": [captions]}, …]',
    "qa": '[{"question_id": …, "answer": …}, …] or [{"video_id": …, "question": …, "answer": …}, …]',
}


class ScoreError(ValueError):
    """Files that cannot be scored; the message names the file and what was expected."""


@dataclass
class Joined:
    """Entries with ``clip_id`` and a prediction or ranks under :data:`SYSTEM`, and how many references have no prediction."""

    entries: list[dict[str, Any]]
    left_out: int = 0


def read_predictions(path: Path, task: str, group: str | None = None) -> list[dict[str, Any]]:
    """The rows of a prediction file, or of a result file's group in the same form."""
    value = read_json(path, ScoreError)
    if is_result(value):
        value = _of_result(value, path, task, group)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ScoreError(f"{path}: expected {FORMS[task]}")
    if not value:
        raise ScoreError(f"{path}: there is no prediction")
    return value


def captions(given: Sequence[Mapping[str, Any]], references: Path, *, subset: bool, path: Path) -> Joined:
    """One entry per clip, in the order of the references."""
    known = _captions_by_video(references)
    by_clip: dict[str, str] = {}
    for number, row in enumerate(given):
        clip_id, caption = _id(row, path, number), row.get("caption")
        if not isinstance(caption, str):
            raise ScoreError(f"{path}: prediction {number} (video '{clip_id}') has no 'caption'; expected {FORMS['cap']}")
        if clip_id in by_clip:
            raise ScoreError(f"{path}: video '{clip_id}' has two predictions; exactly one per video can be scored")
        by_clip[clip_id] = caption
    left_out = _check_same(by_clip, known, path, references, "video", subset)
    entries = [{"clip_id": clip_id, "references": texts, SYSTEM: by_clip[clip_id]}
               for clip_id, texts in known.items() if clip_id in by_clip]
    return Joined(entries, left_out)


def rankings(given: Sequence[Mapping[str, Any]], references: Path, *, subset: bool, path: Path) -> Joined:
    """One entry per query with its rank: ``itc_rank`` of texts, ``itc_v2t_rank`` of videos."""
    texts_of = _captions_by_video(references)
    videos_of: dict[str, list[str]] = {}
    for clip_id, texts in texts_of.items():
        for caption in dict.fromkeys(texts):
            videos_of.setdefault(caption, []).append(clip_id)
    entries: list[dict[str, Any]] = []
    queries: dict[str, Counter[str]] = {"caption": Counter(), "video": Counter()}
    for number, row in enumerate(given):
        text = row.get("caption")
        kind = "caption" if isinstance(text, str) else "video"
        query = str(text) if kind == "caption" else _id(row, path, number)
        known, candidates = (videos_of, texts_of) if kind == "caption" else (texts_of, videos_of)
        true = known.get(query)
        queries[kind][query] += 1
        if true is None:
            raise ScoreError(f"{path}: prediction {number}: {kind} '{query}' is not in {references}")
        rank = _rank(row, set(true), candidates, f"{path}: prediction {number} ({kind} '{query}')", references)
        name = "itc_rank" if kind == "caption" else "itc_v2t_rank"
        entries.append({"clip_id": true[0] if kind == "caption" else query, "text": text, SYSTEM: {name: rank}})
    left_out = 0
    counts = Counter(text for texts in texts_of.values() for text in texts)
    for kind, wanted, most in (("caption", videos_of, counts), ("video", texts_of, Counter(dict.fromkeys(texts_of, 1)))):
        if queries[kind]:
            left_out += _check_same(queries[kind], wanted, path, references, kind, subset)
            repeated = next((query for query, count in queries[kind].items() if count > most[query]), None)
            if repeated is not None:
                raise ScoreError(f"{path}: {kind} '{repeated}' is predicted {queries[kind][repeated]} times, but occurs {most[repeated]} "
                                 f"time(s) in {references}")
    return Joined(entries, left_out)


def answers(given: Sequence[Mapping[str, Any]], references: Path, *, subset: bool, path: Path) -> Joined:
    """One entry per question, in the order of the references. A question that a clip has twice, without ids to tell them apart, takes its
    predicted answers in their order, or one for all."""
    known = _questions(references)
    by_id: dict[str, list[dict[str, Any]]] = {}
    by_text: dict[str, list[dict[str, Any]]] = {}
    for entry in known:
        if entry.get("question_id"):
            by_id.setdefault(entry["question_id"], []).append(entry)
        if entry.get("question"):
            by_text.setdefault(f"{entry['clip_id']}: {entry['question']}", []).append(entry)
    given_to: dict[str, tuple[list[dict[str, Any]], list[str]]] = {}
    for number, row in enumerate(given):
        answer, question_id = row.get("answer"), row.get("question_id")
        if not isinstance(answer, (str, int, float)):
            raise ScoreError(f"{path}: prediction {number} has no 'answer'; expected {FORMS['qa']}")
        if question_id not in (None, "") and by_id:
            name, asked = f"question_id {question_id}", by_id.get(str(question_id))
        elif "question" not in row:
            raise ScoreError(f"{path}: prediction {number} names its question by 'question_id' alone, which {references} has not; expected "
                             "'video_id' and 'question'")
        else:
            name = f"{_id(row, path, number)}: {row.get('question')}"
            asked = by_text.get(name)
        if asked is None:
            raise ScoreError(f"{path}: prediction {number}: {name} is not in {references}")
        given_to.setdefault(name, (asked, []))[1].append(str(answer))
    answer_of: dict[int, str] = {}
    for name, (asked, said) in given_to.items():
        if len(said) not in (1, len(asked)):
            times = "once" if len(asked) == 1 else f"{len(asked)} times"
            raise ScoreError(f"{path}: {name} has {len(said)} answers, but stands {times} in {references}; exactly one per question can be "
                             "scored")
        for entry, answer in zip(asked, said * (len(asked) if len(said) == 1 else 1)):
            if id(entry) in answer_of:
                raise ScoreError(f"{path}: {name} has an answer by its question_id too; exactly one per question can be scored")
            answer_of[id(entry)] = answer
    missing = [entry for entry in known if id(entry) not in answer_of]
    if missing and not subset:
        raise ScoreError(f"{path}: {len(missing)} of {len(known)} questions of {references} have no answer, for example "
                         f"'{missing[0].get('question_id') or missing[0].get('question')}'; --subset scores the others alone")
    return Joined([{**entry, SYSTEM: answer_of[id(entry)]} for entry in known if id(entry) in answer_of], len(missing))


def _rank(row: Mapping[str, Any], true: set[str], known: Mapping[str, Any], where: str, references: Path) -> int:
    """The rank of the best true candidate, from 1. Ties count against it, and a candidate that is not listed comes after all listed
    ones."""
    ranked, scores = row.get("ranked"), row.get("scores")
    if not isinstance(ranked, list):
        raise ScoreError(f"{where} has no 'ranked'; expected {FORMS['ret']}")
    ranked = list(map(str, ranked))
    unknown = next((name for name in ranked if name not in known), None)
    if unknown is not None:
        raise ScoreError(f"{where} ranks '{unknown}', which is not in {references}")
    if len(set(ranked)) < len(ranked):
        raise ScoreError(f"{where} ranks '{Counter(ranked).most_common(1)[0][0]}' twice")
    first = next((n for n, name in enumerate(ranked) if name in true), None)
    if scores is None:
        # Best first, so that all before the first true one are false.
        return first + 1 if first is not None else len(known) - len(true) + 1
    if not isinstance(scores, list) or len(scores) != len(ranked) or not all(isinstance(s, (int, float)) and s == s for s in scores):
        raise ScoreError(f"{where}: expected as many numbers in 'scores' as 'ranked' has names")
    if first is None:
        return len(known) - len(true) + 1
    best = max(score for name, score in zip(ranked, scores) if name in true)
    return 1 + sum(score >= best and name not in true for name, score in zip(ranked, scores))


def _check_same(given: Iterable[str], known: Iterable[str], path: Path, references: Path, kind: str, subset: bool) -> int:
    """How many of the known ids have no prediction. Raises ScoreError if there are any (unless a subset is asked for), and for
    predictions of unknown ids."""
    given, known = dict.fromkeys(given), dict.fromkeys(known)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ScoreError(f"{path}: {len(unknown)} {kind}(s) are not in {references}, for example '{unknown[0]}'")
    missing = [name for name in known if name not in given]
    if missing and not subset:
        raise ScoreError(f"{path}: {len(missing)} of {len(known)} {kind}s of {references} have no prediction, for example '{missing[0]}'; "
                         "--subset scores the others alone")
    return len(missing)


def _captions_by_video(references: Path) -> dict[str, list[str]]:
    """COCO-style references, or an annotation list with a caption or a list of them per video."""
    value = read_json(references, ScoreError)
    if isinstance(value, dict):
        return load_references(references)
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(value if isinstance(value, list) else ()):
        texts = next((row[key] for key in CAPTION_KEYS if key in row), None) if isinstance(row, dict) else None
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ScoreError(f"{references}: row {number} has no caption; expected one of {', '.join(CAPTION_KEYS)}")
        captions.setdefault(_id(row, references, number), []).extend(texts)
    if not captions:
        raise ScoreError(f'{references}: expected reference captions as {{"annotations": [{{"video_id", "caption"}}, …]}} or a list of '
                         "rows with captions")
    return without_blanks(captions, references)


def _questions(references: Path) -> list[dict[str, Any]]:
    """Entries with ``clip_id``, ``answer`` and, where known, ``answers``, ``question``, ``question_id``, ``type``, ``answer_type``."""
    value = read_json(references, ScoreError)
    asked_rows = value.get("annotations") if isinstance(value, dict) else value
    if not isinstance(asked_rows, list) or not asked_rows or not all(isinstance(row, dict) for row in asked_rows):
        raise ScoreError(f"{references}: expected a list of rows with questions and answers, or VQAv2's {{\"annotations\": […]}}")
    entries = []
    for number, row in enumerate(asked_rows):
        clip_id, where = _id(row, references, number), f"{references}: row {number}"
        people = row.get("answers")
        if people is not None:
            people = [one.get("answer") if isinstance(one, dict) else one for one in people] if isinstance(people, list) else [None]
            if not all(isinstance(one, (str, int, float)) for one in people):
                raise ScoreError(f"{where}: 'answers' must be a list of strings, or of objects with 'answer'")
            people = list(map(str, people))
        asked, answered = row.get("question"), row.get("answer")
        if isinstance(answered, list) and not isinstance(asked, list):
            people = list(map(str, answered))
        if people:
            usual = str(row.get("multiple_choice_answer", max(people, key=people.count)))
            parts: list[tuple[Any, str]] = [(asked, usual)]
        elif isinstance(asked, list) and isinstance(answered, list) and len(asked) == len(answered):
            parts = list(zip(asked, map(str, answered)))
        elif isinstance(answered, (str, int, float)) and not isinstance(asked, list):
            parts = [(asked, str(answered))]
        else:
            raise ScoreError(f"{where}: expected an answer for every question")
        for number_in_row, (question, answer) in enumerate(parts):
            entry: dict[str, Any] = {"clip_id": clip_id, "answer": answer}
            for name, key in (("question_id", "question_id"), ("type", "question_type"), ("answer_type", "answer_type")):
                value = row.get(key, row.get(name))
                value = value[number_in_row] if isinstance(value, list) and len(value) == len(parts) else value
                if value not in (None, ""):
                    entry[name] = str(value)
            if question is not None:
                entry["question"] = str(question)
            if people and len(people) > 1:
                entry["answers"] = people
            entries.append(entry)
    return entries


def _of_result(result: Mapping[str, Any], path: Path, task: str, group: str | None) -> list[dict[str, Any]]:
    """A result file's predictions in the form of a prediction file."""
    groups, objective = list(result["protocol"].get("groups") or ()), result["protocol"].get("objective")
    if task == "ret" or objective != task:
        raise ScoreError(f"{path} is a result file of '{objective}', which holds its own metrics; --task {task} expects {FORMS[task]}")
    if group is None and len(groups) != 1:
        raise ScoreError(f"{path} has the groups {', '.join(groups)}; choose one with --group")
    if group is not None and group not in groups:
        raise ScoreError(f"{path} has no group '{group}'; it has {', '.join(groups)}")
    name = "caption" if task == "cap" else "answer"
    chosen = group or groups[0]
    without = next((entry["clip_id"] for entry in result["predictions"] if not isinstance(entry.get(chosen), str)), None)
    if without is not None:
        raise ScoreError(f"{path}: clip '{without}' has no {name} of group '{chosen}'")
    return [{**{key: entry[key] for key in ("question", "question_id") if key in entry}, "video_id": entry["clip_id"], name: entry[chosen]}
            for entry in result["predictions"]]


def _id(row: Mapping[str, Any], path: Path, number: int) -> str:
    clip_id = rows.id_of(row, rows.REFERENCE_ID_KEYS)
    if clip_id is None:
        raise ScoreError(f"{path}: row {number} has no id; expected one of {', '.join(rows.REFERENCE_ID_KEYS)}")
    return clip_id
