"""What is said when, as all sources of subtitles give it: cues, their language and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from omnivast.data.annotations.sidecars import joined

From = Literal["srt", "vtt", "json", "track", "speech"]
NOTES = re.compile(r"[♪♫♬#*\s]*|[\[(（【][^\])）】]*[\])）】]")
"""Cues that are no words: marks of music, and what is told in brackets, such as ``[Applause]``."""
THREE_LETTERS = {"alb": "sq", "arm": "hy", "baq": "eu", "ben": "bn", "bul": "bg", "bur": "my", "cat": "ca", "ces": "cs", "chi": "zh",
                 "cze": "cs", "dan": "da", "deu": "de", "dut": "nl", "ell": "el", "eng": "en", "est": "et", "fas": "fa", "fin": "fi",
                 "fra": "fr", "fre": "fr", "geo": "ka", "ger": "de", "gre": "el", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu",
                 "ice": "is", "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv", "lit": "lt", "mac": "mk",
                 "may": "ms", "msa": "ms", "nld": "nl", "nor": "no", "per": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro",
                 "rus": "ru", "slk": "sk", "slo": "sk", "slv": "sl", "spa": "es", "srp": "sr", "swe": "sv", "tam": "ta", "tel": "te",
                 "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "wel": "cy", "zho": "zh"}
"""Codes of ISO 639-2, as containers have them, by those of ISO 639-1, as all else has them."""


@dataclass(frozen=True)
class Cue:
    """Words from ``start`` to ``end``, in seconds of the video."""

    start: float
    end: float
    text: str
    confidence: float | None = None
    """0 to 1; None where the source does not say."""

    def to_json(self) -> dict[str, Any]:
        return {"start": round(self.start, 3), "end": round(self.end, 3), "text": self.text,
                "confidence": None if self.confidence is None else round(self.confidence, 4)}


@dataclass(frozen=True)
class Subtitles:
    """Of one video."""

    cues: list[Cue] = field(default_factory=list)
    language: str | None = None
    source: From | None = None
    """Where they come from; None: there are none."""
    detail: str | None = None
    """The name of the file, the number of the track, or the recogniser."""

    def to_json(self) -> dict[str, Any]:
        return {"cues": [cue.to_json() for cue in self.cues], "language": self.language, "from": self.source, "detail": self.detail}


def clean(cues: Iterable[Cue]) -> list[Cue]:
    """Cues with words, in the order of their times, their texts without marks and line breaks."""
    found = []
    for cue in cues:
        text = joined([re.sub("[♪♫♬]", " ", line) for line in cue.text.splitlines()])
        if text and not NOTES.fullmatch(text) and cue.end >= cue.start >= 0:
            found.append(Cue(cue.start, cue.end, text, cue.confidence))
    return sorted(found, key=lambda cue: (cue.start, cue.end))


def language_of(code: str | None) -> str | None:
    """``eng``, ``en-US``, ``en_orig`` → ``en``; "und" and "" → None."""
    short = re.split("[-_]", (code or "").lower())[0]
    return THREE_LETTERS.get(short, short) if short not in ("", "und", "mul", "zxx") else None
