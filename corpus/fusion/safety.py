"""Names of people become "person", and texts with words of a list are left out."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from omnivast.corpus.plan import BuildError

UNSAFE, NAMES = "unsafe.txt", "names.txt"
TITLES = ("Mr", "Mrs", "Ms", "Miss", "Mister", "Dr", "Doctor", "Prof", "Professor", "Sir", "Madam", "Lady", "Lord", "Uncle", "Aunt",
          "President", "Captain", "Saint")
_NAMED = r"[A-Z][\w’'-]*[\w]"
_INTRODUCED = re.compile(rf"\b((?:my|his|her|your|our) name is|(?:I am|I'm|I’m|is|was|are) (?:called|named)|named|called) "
                         rf"({_NAMED}(?: {_NAMED})*)")
_TITLED = re.compile(rf"\b(?:{'|'.join(TITLES)})\.? {_NAMED}(?: {_NAMED})*")
_BEFORE = re.compile(r"\b(a|an|the|my|his|her|our|their|your|this|that|young|old|little|dear|poor|late) $", re.I)


class Words:
    """Words and phrases of a file: one a line, ``*`` at the end of one for any ending, ``#`` before a remark."""

    def __init__(self, path: Path | None, standard: str) -> None:
        """``path``: None takes the list that comes with the project. Raises BuildError."""
        try:
            text = (files("omnivast.corpus.fusion") / "words" / standard).read_text("utf-8") if path is None else path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BuildError(f"the list of words {path or standard} cannot be read: {error}") from None
        self.lines = sorted({line for raw in text.splitlines() if (line := raw.split("#")[0].strip())})
        each = "|".join(r"\s+".join(map(re.escape, line.rstrip("*").split())) + r"\w*" * line.endswith("*") for line in self.lines)
        self._pattern = re.compile(rf"(?<!\w)(?:{each})(?!\w)", re.I) if self.lines else None

    def found(self, text: str) -> str | None:
        """The first such word of a text."""
        match = self._pattern.search(text) if self._pattern else None
        return match.group().lower() if match else None


@lru_cache(maxsize=8)
def words_of(path: Path | None, standard: str) -> Words:
    return Words(path, standard)


def without_names(text: str, names: Path | None = None) -> str:
    """"Then John Smith and Dr. Lee met John's dog" → "Then a person and a person met a person's dog".

    By rules: what follows a title or "my name is", and given names of a list, capitalised, with capitalised words behind them. Names
    that are not in the list, and those in texts without capitals, are not found.
    """
    text = _TITLED.sub(_person, text)
    text = _INTRODUCED.sub(lambda found: f"{found[1]} a person", text)
    return _given(names).sub(_person, text)


@lru_cache(maxsize=8)
def _given(names: Path | None) -> re.Pattern[str]:
    listed = words_of(names, NAMES).lines
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, listed)) or '(?!)'})\b(?: {_NAMED})*")


def _person(found: re.Match[str]) -> str:
    """With an article where none stands before it; a genitive stays one."""
    genitive = "'s" if re.search("['’]s$", found.group()) else ""
    before = found.string[: found.start()]
    if _BEFORE.search(before):
        return f"person{genitive}"
    opens = not before.strip() or before.rstrip()[-1] in ".!?"
    return f"{'A' if opens else 'a'} person{genitive}"
