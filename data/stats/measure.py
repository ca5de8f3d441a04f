"""What annotation files hold: clips, texts and their lengths, words, audio concepts, and what is missing, empty or repeated.

Everything is counted while a file is read once; what stays in memory is the vocabulary, and 32 bytes per text.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.spec import TextLengths
from omnivast.data.stats.concepts import ConceptDetector, words_of
from omnivast.data.stats.layouts import Entry, read_entries
from omnivast.utils.log import Progress, progress

TOP = 10
AT_ONCE = 4096
"""Texts that are tokenized at once."""
NO_LIMIT = 10**6
CAPTIONS = {kind: f"{kind.value} captions" for kind in CaptionKind}
TEXTS = (*CAPTIONS.values(), "subtitles", "questions")
"""The kinds of texts, as figures and tables name them."""


def limits_of(lengths: TextLengths) -> dict[str, int]:
    """Most tokens of each kind of text."""
    captions = {CAPTIONS[kind]: limit for kind, limit in lengths.caption.items()}
    return {**captions, "subtitles": lengths.subtitle, "questions": lengths.question}


class CanEncode(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of each text, at most so many."""


def measure(path: str | Path, detector: ConceptDetector, *, top: int = TOP, tokenizer: CanEncode | None = None,
            lengths: Callable[[bool], TextLengths] | None = None, only: Collection[str] | None = None) -> dict[str, Any]:
    """The figures of one annotation file, as JSON holds them.

    Args:
        top: how many of the most frequent words, concepts and answers are listed.
        tokenizer: with it the lengths in tokens are counted as well.
        lengths: the most tokens of each kind of text, given whether a file has several kinds of captions (``InputSpec.lengths``): texts
            above them are counted.
        only: ids of clips; others are left out.

    Returns:
        ``file``, ``rows``, ``clips`` (different ids), ``texts`` (kind → figures, see ``_Texts.figures``; those of questions with figures
        of their answers) and ``unread_fields`` (field → rows).

    Raises:
        AnnotationError: the file cannot be read, or has no entry.
    """
    path = Path(path)
    corpus = _Corpus(detector, tokenizer)
    bar: Progress[Any] = progress(path.stat().st_size >> 20 if path.is_file() else None, path.name, unit="MiB")
    read = 0

    def seen(chunk: bytes) -> None:
        nonlocal read
        read += len(chunk)
        bar.update((read >> 20) - bar.count)

    with bar:
        for entry in read_entries(path, seen):
            if only is None or entry.clip_id in only:
                corpus.add(entry)
    if not corpus.rows:
        raise AnnotationError(f"{path}: " + ("the list is empty" if only is None else f"none of its clips is among the {len(only)} ids"))
    return {"file": str(path), **corpus.figures(top, lengths)}


class _Corpus:
    """Counts over all entries of a file."""

    def __init__(self, detector: ConceptDetector, tokenizer: CanEncode | None) -> None:
        self.rows = 0
        self._clips = array("q")
        self._texts = {kind: _Texts(detector, tokenizer) for kind in TEXTS}
        self._answers: Counter[str] = Counter()
        self._unanswered = 0
        self._unread: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        self.rows += 1
        clip = hash(entry.clip_id)
        self._clips.append(clip)
        for kind, texts in entry.captions.items():
            self._texts[CAPTIONS[kind]].add(clip, texts)
        # A clip without speech has an empty subtitle in many files: that is none, and no fault.
        if (entry.subtitle or "").strip():
            self._texts["subtitles"].add(clip, [entry.subtitle or ""])
        self._texts["questions"].add(clip, entry.questions)
        self._answers.update(answer.strip().lower() for answer in entry.answers)
        self._unanswered += entry.unanswered
        self._unread.update(set(entry.unread))

    def figures(self, top: int, lengths: Callable[[bool], TextLengths] | None) -> dict[str, Any]:
        present = {kind: found for kind, found in self._texts.items() if found.count or found.empty}
        limits = limits_of(lengths(len(present.keys() & set(CAPTIONS.values())) > 1)) if lengths else {}
        texts = {kind: found.figures(top, limits.get(kind, NO_LIMIT)) for kind, found in present.items()}
        if "questions" in texts:
            texts["questions"].update(answers=self._answers.total(), different_answers=len(self._answers), unanswered=self._unanswered,
                                      top_answers=self._answers.most_common(top))
        return {"rows": self.rows, "clips": _different(self._clips), "texts": texts, "unread_fields": dict(self._unread.most_common())}


class _Texts:
    """Counts over all texts of one kind."""

    def __init__(self, detector: ConceptDetector, tokenizer: CanEncode | None) -> None:
        self.count = self.empty = 0
        """Texts, and beside them those without a letter or digit."""
        self._detector, self._tokenizer = detector, tokenizer
        self._words: Counter[str] = Counter()
        self._concepts: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        self._waiting: list[str] = []
        self._clips, self._hashes, self._hashes_in_clip = array("q"), array("q"), array("q")
        """Of each text: its clip, its words, and both, 64 bits each, so that repeats are found without keeping the texts."""

    def add(self, clip: int, texts: Iterable[str]) -> None:
        """``clip``: a hash of the clip's id."""
        for text in texts:
            words = words_of(text)
            if not words:
                self.empty += 1
                continue
            self.count += 1
            self._words.update(words)
            self._concepts.update(self._detector.find(words))
            self._lengths[len(words)] += 1
            self._clips.append(clip)
            self._hashes.append(hash(" ".join(words)))
            self._hashes_in_clip.append(hash((clip, self._hashes[-1])))
            if self._tokenizer is not None:
                self._waiting.append(text)
                if len(self._waiting) == AT_ONCE:
                    self._tokenize()

    def _tokenize(self) -> None:
        if self._tokenizer is not None and self._waiting:
            self._tokens.update(map(len, self._tokenizer.encode(self._waiting, NO_LIMIT)))
            self._waiting = []

    def figures(self, top: int, limit: int) -> dict[str, Any]:
        """``words`` and ``tokens``: figures of their ``_spread``; ``acd``: detected concepts per 100 words; a text is ``repeated`` if an
        earlier one has the same words, in the same clip or in any."""
        self._tokenize()
        clips, per_clip = np.unique(np.frombuffer(self._clips, dtype=np.int64), return_counts=True)
        words, concepts = self._words.total(), self._concepts.total()
        figures: dict[str, Any] = {
            "count": self.count, "empty": self.empty, "clips": len(clips),
            "per_clip": {"mean": _ratio(self.count, len(clips)), "fewest": int(per_clip.min(initial=self.count)),
                         "most": int(per_clip.max(initial=0))},
            "repeated": self.count - _different(self._hashes),
            "repeated_in_clip": self.count - _different(self._hashes_in_clip),
            "words": _spread(self._lengths),
            "vocabulary": len(self._words),
            "concepts": concepts, "different_concepts": len(self._concepts), "acd": _ratio(100 * concepts, words),
            "top_words": self._words.most_common(top), "top_concepts": self._concepts.most_common(top),
        }
        if self._tokens:
            cut = sum(count for length, count in self._tokens.items() if length > limit)
            figures["tokens"] = {**_spread(self._tokens), "limit": limit, "cut": cut}
        return figures


def _spread(lengths: Counter[int]) -> dict[str, Any]:
    """Of the lengths of texts: their sum, mean, the length that half and 95 % of them do not exceed, the longest, and all of them."""
    total = sum(length * count for length, count in lengths.items())
    return {"total": total, "mean": _ratio(total, lengths.total()), "median": quantile(lengths, 0.5), "p95": quantile(lengths, 0.95),
            "longest": max(lengths, default=0), "lengths": {str(length): lengths[length] for length in sorted(lengths)}}


def quantile(lengths: Counter[int], share: float) -> int:
    """The shortest length that this share of the texts does not exceed; 0 for no texts."""
    left, length = share * lengths.total(), 0
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 0:
            break
    return length


def _different(hashes: array[int]) -> int:
    return len(np.unique(np.frombuffer(hashes, dtype=np.int64)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
