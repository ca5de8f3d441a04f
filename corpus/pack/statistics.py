"""What is in a corpus, in numbers: lengths, captions, sources, and what was lost on the way."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row, read_rows
from omnivast.corpus.pack.rows import FIELD_OF, OMNI, ROWS
from omnivast.utils.files import write_atomically

KINDS = {**FIELD_OF, "omni": OMNI, "subtitle": "subtitle"}
"""Kind of text → the field of a row that has it."""
STAGE_WORDS = {"read": "reading", "clips": "choosing clips", "cut": "cutting", "captions": "captioning", "fuse": "fusing"}
"""Stage → what is done there, in the order in which things are lost."""
BINS = 16


class Tally:
    """Values that are counted one by one; equal ones take no more room."""

    def __init__(self, least_step: float = 1.0) -> None:
        """``least_step``: of a histogram, 1 for whole numbers."""
        self.counts: Counter[float] = Counter()
        self._least_step = least_step

    def add(self, value: float) -> None:
        self.counts[value] += 1

    def summary(self) -> dict[str, float] | None:
        """count, sum, mean, least, median, most; None for none."""
        if not self.counts:
            return None
        count, total = sum(self.counts.values()), sum(value * times for value, times in self.counts.items())
        return {"count": count, "sum": round(total, 3), "mean": round(total / count, 3), "least": min(self.counts),
                "median": self._at((count - 1) // 2), "most": max(self.counts)}

    def histogram(self, bins: int = BINS) -> list[tuple[float, float, int]]:
        """(from, to, how many), about ``bins`` of them; each holds what is less than its end."""
        if not self.counts:
            return []
        step = _round_step(max(self._least_step, (max(self.counts) - min(self.counts)) / bins))
        found: Counter[int] = Counter()
        for value, times in self.counts.items():
            found[math.floor(value / step + 1e-9)] += times
        return [(round(n * step, 6), round((n + 1) * step, 6), found[n]) for n in range(min(found), max(found) + 1)]

    def _at(self, place: int) -> float:
        for value in sorted(self.counts):
            place -= self.counts[value]
            if place < 0:
                return value
        return max(self.counts)


def _round_step(wish: float) -> float:
    """The next round number from ``wish`` on: 1, 2 or 5 times a power of ten, from 0.1 on."""
    return next(step for power in range(-1, 12) for m in (1, 2, 5) if (step := m * 10.0**power) >= wish * 0.999)


def statistics(output: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Of ``rows.jsonl``, and of ``summary``, what the build says. One pass; memory grows with the number of sources and of different
    captions' hashes, not of rows."""
    seconds, texts, of_source = Tally(0.1), {kind: _Texts() for kind in KINDS}, Counter[str]()
    lost, teachers, fusion, tries, modalities = Counter[tuple[str, str]](), dict[str, _Teacher](), Counter[str](), Tally(), Counter[str]()
    clips = 0
    for row in read_rows(output / ROWS):
        history = row["history"]
        for caption in history.get("captions", ()):
            teachers.setdefault(_teacher(caption), _Teacher()).add(caption.get("score"))
        if "fuse" in history:
            fusion[history["fuse"].get("how", "failed")] += 1
            tries.add(history["fuse"].get("tries") or 0)
        if "lost" in history:
            lost[history["lost"]["stage"], history["lost"]["reason"]] += 1
            continue
        clips += 1
        of_source[row["history"]["source"]] += 1
        modalities[history["modalities"]] += 1
        seconds.add(round(history["end"] - history["start"], 1))
        for kind, field in KINDS.items():
            texts[kind].add(row.get(field))
    spread = Tally()
    for count in of_source.values():
        spread.add(count)
    return {
        "clips": clips, "sources": summary["sources"], "sources_with_clips": len(of_source), "seconds": seconds.summary(),
        "seconds_histogram": seconds.histogram(), "texts": {kind: own.summary() for kind, own in texts.items() if own.texts},
        "clips_per_source": spread.summary(), "clips_per_source_histogram": spread.histogram(),
        "modalities": dict(sorted(modalities.items())), "teachers": {name: teachers[name].summary() for name in sorted(teachers)},
        "fusion": {"how": dict(sorted(fusion.items())), "tries": tries.summary()} if fusion else None,
        "lost": _all_lost(summary, lost)}


def _all_lost(summary: dict[str, Any], lost: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """What was lost at each stage: of what, why, and how many."""
    found = [("read", "source", reason, count) for reason, count in summary["unreadable_by_reason"].items()]
    found += [("clips", "clip", reason, count) for reason, count in summary["dropped"].items()]
    found += [(stage, "clip", reason, count) for (stage, reason), count in sorted(lost.items())]
    place = {stage: number for number, stage in enumerate(STAGE_WORDS)}
    found.sort(key=lambda row: (place.get(row[0], len(place)), -row[3], row[2]))
    return [dict(zip(("stage", "what", "reason", "count"), row)) for row in found if row[3]]


class _Texts:
    """The texts of a kind."""

    def __init__(self) -> None:
        self.words, self.texts, self.clips = Tally(), 0, 0
        self._seen: Counter[bytes] = Counter()
        self._most: tuple[int, str] = (0, "")

    def add(self, value: str | Sequence[str] | None) -> None:
        texts = [text for text in ([value] if isinstance(value, str) else value or ()) if text]
        self.clips += bool(texts)
        for text in texts:
            self.texts += 1
            self.words.add(len(text.split()))
            key = _hash(text)
            self._seen[key] += 1
            if self._seen[key] > self._most[0]:
                self._most = self._seen[key], text

    def summary(self) -> dict[str, Any]:
        """How many, in how many clips, their words, how many are different, and the one that is repeated most."""
        return {"texts": self.texts, "clips": self.clips, "words": self.words.summary(), "words_histogram": self.words.histogram(),
                "different": len(self._seen), "most_repeated": {"times": self._most[0], "text": self._most[1]}}


class _Teacher:
    def __init__(self) -> None:
        self.captions, self._scores = 0, Tally(0.1)

    def add(self, score: float | None) -> None:
        self.captions += 1
        if score is not None:
            self._scores.add(round(float(score), 3))

    def summary(self) -> dict[str, Any]:
        return {"captions": self.captions, "score": self._scores.summary()}


def _teacher(caption: Row) -> str:
    """Kind, name, model and prompt in a line."""
    named = [caption["kind"], caption.get("by"), caption.get("model"), caption.get("prompt") and f"prompt {caption['prompt'][:12]}"]
    return " · ".join(str(part) for part in dict.fromkeys(named) if part)


def _hash(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def write_statistics(output: Path, found: dict[str, Any]) -> Path:
    return write_atomically(output / "statistics.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
