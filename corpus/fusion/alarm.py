"""Stops a run whose language model has gone wrong: thousands of captions that are all the same, for instance, which nobody reads."""

from __future__ import annotations

from collections import Counter, deque

from omnivast.corpus.engine.workers import StageError
from omnivast.corpus.fusion.check import empty, refuses

WINDOW = 100
"""Last replies that are looked at."""
LEAST = 20
"""Replies before which nothing is said."""
SHARE = 0.3
"""Of the replies in the window that may be empty, or refusals, or all the same."""


class FusionAlarmError(StageError):
    """Too many replies of one bad kind; ``texts``: those."""

    def __init__(self, message: str, texts: set[str]) -> None:
        super().__init__(message)
        self.texts = texts


class Alarm:
    """Looks at every reply of one process."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=WINDOW)

    def note(self, text: str) -> None:
        """Raises FusionAlarmError."""
        self._last.append(text)
        if len(self._last) < LEAST:
            return
        empties = [text for text in self._last if empty(text)]
        refusals = [text for text in self._last if refuses(text)]
        common = Counter(text for text in self._last if not empty(text)).most_common(1)
        repeated = [text for text, count in common for _ in range(count)]
        for name, texts in (("empty", empties), ("refusals", refusals), ("the same", repeated)):
            if len(texts) > SHARE * len(self._last):
                raise FusionAlarmError(f"of the last {len(self._last)} replies of the language model {len(texts)} are {name}"
                                       f"{f' ({texts[0][:120]!r})' if texts[0].strip() else ''}: the run stops; what passed the check is "
                                       "kept, and the same command asks for these again", set(texts))
