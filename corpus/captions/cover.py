"""Which teachers to keep: a greedy set cover over clips whose captions people judged (Panda-70M, supplement: 8 of 31 kept, by which 76.8 %
of clips had a good caption, against 84.7 % by all)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.data.spec import DataError

GOOD = {"1", "true", "yes", "y", "good"}
BAD = {"0", "false", "no", "n", "bad", ""}


class JudgementError(DataError):
    """A file of judgements that cannot be read; the message says where and what was expected."""


@dataclass(frozen=True)
class Chosen:
    """A teacher, in the order of choice."""

    name: str
    good: float
    """The share of all clips of which its caption was good."""
    adds: float
    """The share of all clips of which its caption was good and that of no teacher before."""
    covered: float
    """The share of all clips of which this or a teacher before was good."""


def cover(good: Mapping[str, set[str]], clips: int, most: int | None = None) -> list[Chosen]:
    """Teacher → the clips of which its caption was good: teachers, each the one that adds most to those before, until none adds any or
    there are ``most``. Among equals the one that is good more often, then the first by name."""
    found: list[Chosen] = []
    covered: set[str] = set()
    left = dict(good)
    while left and (most is None or len(found) < most):
        name = min(left, key=lambda name: (-len(left[name] - covered), -len(left[name]), name))
        own = left.pop(name)
        if not own - covered:
            break
        adds = len(own - covered)
        covered |= own
        found.append(Chosen(name, len(own) / clips, adds / clips, len(covered) / clips))
    return found


def read_judgements(path: Path) -> tuple[dict[str, set[str]], int]:
    """(teacher → clips of which its caption was judged good, how many clips were judged), of a file that is

    - .csv: a column of clips, then one for each teacher with 1 or 0;
    - .json or .jsonl: of each clip ``{"clip": …, "good": [names of teachers]}``, or ``{"clip": …, "teacher": true, "another": false}``.

    Raises JudgementError, OSError.
    """
    rows = _table(path) if path.suffix.lower() == ".csv" else _objects(path)
    good: dict[str, set[str]] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        where = f"{path}, clip {number}"
        clip = next((str(row.pop(key)) for key in ("clip", "clip_id", "id") if key in row), None)
        if clip is None:
            raise JudgementError(f"{where}: names no clip; expected a column 'clip'")
        if clip in seen:
            raise JudgementError(f"{where}: '{clip}' was judged before")
        seen.add(clip)
        for name, verdict in _verdicts(row, where).items():
            own = good.setdefault(name, set())
            if verdict:
                own.add(clip)
    if not seen or not good:
        raise JudgementError(f"{path}: holds no judgement")
    return good, len(seen)


def _verdicts(row: dict[str, Any], where: str) -> dict[str, bool]:
    if "good" in row:
        names = row["good"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise JudgementError(f"{where}: 'good' is {json.dumps(names)}; expected a list of teachers")
        return dict.fromkeys(names, True)
    found = {}
    for name, value in row.items():
        word = str(value).strip().lower()
        if word not in GOOD | BAD:
            raise JudgementError(f"{where}: {name} is {json.dumps(value)}; expected 1 (a good caption) or 0")
        found[name] = word in GOOD
    return found


def _table(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise JudgementError(f"{path}, clip {number}: another number of columns than the first line")
    return rows


def _objects(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix.lower() == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise JudgementError(f"{path}: no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise JudgementError(f"{path}: expected a list of objects, one for each clip")
    return rows
