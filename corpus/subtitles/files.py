"""Subtitle files beside a video: .srt, .vtt, and JSON with times, of Whisper and its kin, of YouTube, and plain lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omnivast.corpus.subtitles.cues import Cue, From, Subtitles, clean, language_of
from omnivast.data.annotations.sidecars import TIMED, Sidecars, read_cues

JSON = (".json", ".json3")
"""``NAME.json`` of Whisper, ``NAME.en.json3`` of yt-dlp. Others that are called so, such as a description of the video, are passed over."""
LISTS = ("segments", "chunks", "transcription", "events", "cues")
TEXT_KEYS = ("text", "word", "content", "transcript")
STARTS, ENDS, LENGTHS = ("start", "start_time", "begin", "from"), ("end", "end_time", "stop", "to"), ("duration", "dur")
CONFIDENCES = ("confidence", "probability", "score")


def sidecars(language: str) -> Sidecars:
    """Looks up the files of videos, those in ``language`` first."""
    return Sidecars(more=JSON, language=language)


def read_files(video: Path, files: Sequence[str]) -> Subtitles | None:
    """The subtitles of the first of these files beside ``video`` that has some; None where none has. Raises OSError."""
    for name in files:
        path = video.with_name(name)
        found = _timed(path) if path.suffix.lower() in TIMED else _json(path)
        if found is not None and found.cues:
            return found
    return None


def _timed(path: Path) -> Subtitles:
    cues = [Cue(cue.start, cue.end, "\n".join(cue.lines)) for cue in read_cues(path) or ()]
    middle = re.search(r"\.([A-Za-z]{2,3}(?:[_-][A-Za-z0-9]+)*)$", path.stem)
    begins = path.read_text(encoding="utf-8", errors="replace")[:500].lstrip("\ufeff")
    head = re.match(r"WEBVTT[^\n]*\n(?:[^\n]+\n)*?Language: *(\S+)", begins)
    language = middle[1] if middle else head[1] if head else None
    return Subtitles(clean(cues), language_of(language), cast(From, path.suffix.lower()[1:]), path.name)


def _json(path: Path) -> Subtitles | None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    found = cues_of_json(content)
    if found is None:
        return None
    middle = re.search(r"\.([A-Za-z]{2,3}(?:[_-][A-Za-z0-9]+)*)$", path.stem)
    language = language_of(found.language) or (language_of(middle[1]) if middle else None)
    return Subtitles(found.cues, language, "json", path.name)


# --------------------------------------------------------------------------------------------------------------- shapes


def cues_of_json(content: Any) -> Subtitles | None:
    """Segments with times in one of the shapes that are in use; None where this is none of them:

    - ``{"segments": [{"start": 0.0, "end": 1.2, "text": …, "avg_logprob": …}], "language": "en"}``: Whisper, WhisperX, faster-whisper;
    - ``{"chunks": [{"timestamp": [0.0, 1.2], "text": …}]}``: pipelines of transformers;
    - ``{"transcription": [{"offsets": {"from": 0, "to": 1200}, "text": …}], "result": {"language": "en"}}``: whisper.cpp;
    - ``{"events": [{"tStartMs": 0, "dDurationMs": 1200, "segs": [{"utf8": …}]}]}``: YouTube's json3;
    - ``[{"start": 0.0, "end": 1.2, "text": …}]``, or ``duration`` in place of ``end``: all that follows none of them.
    """
    language = None
    rows: Any = content
    if isinstance(content, dict):
        told = content.get("result")
        language = content.get("language") or (told.get("language") if isinstance(told, dict) else None)
        rows = next((content[key] for key in LISTS if isinstance(content.get(key), list)), None)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    cues = [cue for row in rows for cue in _cue(row)]
    if rows and not cues and not all("tStartMs" in row for row in rows):
        return None
    return Subtitles(clean(cues), language if isinstance(language, str) else None, "json")


def _cue(row: dict[str, Any]) -> Iterator[Cue]:
    """The cue of a segment; none for one without text or times."""
    if "tStartMs" in row:
        text = "".join(str(part.get("utf8", "")) for part in row.get("segs") or () if isinstance(part, dict))
        start = row["tStartMs"] / 1000
        if text.strip():
            yield Cue(start, start + row.get("dDurationMs", 0) / 1000, text)
        return
    said = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)
    times = _times(row)
    if said is not None and times is not None:
        yield Cue(*times, said, _confidence(row))


def _times(row: dict[str, Any]) -> tuple[float, float] | None:
    pair, offsets = row.get("timestamp"), row.get("offsets")
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int | float):
        return float(pair[0]), float(pair[1] if pair[1] is not None else pair[0])
    told, unit = (offsets, 1000.0) if isinstance(offsets, dict) else (row, 1.0)
    start, end, length = (_number(told, keys, unit) for keys in (STARTS, ENDS, LENGTHS))
    if start is None or end is None and length is None:
        return None
    return start, end if end is not None else start + (length or 0.0)


def _number(row: dict[str, Any], keys: Sequence[str], unit: float = 1) -> float | None:
    return next((row[key] / unit for key in keys if isinstance(row.get(key), int | float) and not isinstance(row[key], bool)), None)


def _confidence(row: dict[str, Any]) -> float | None:
    """0 to 1: as it is told, from the mean log-probability of a token, or the mean of the words'."""
    told = _number(row, CONFIDENCES)
    if told is None and (mean := _number(row, ("avg_logprob",))) is not None:
        told = math.exp(min(mean, 0.0))
    words = [value for word in row.get("words") or () if isinstance(word, dict) and (value := _number(word, CONFIDENCES)) is not None]
    if told is None and words:
        told = sum(words) / len(words)
    return told if told is not None and 0 <= told <= 1 else None
