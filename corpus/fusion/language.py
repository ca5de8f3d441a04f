"""Words of captions and the names of things in them, by rules: no tagger, no model, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from omnivast.corpus.fusion import vocabulary as known

CLAUSES = frozenset(["while", "and", "as", "when", "where", "whereas", "but", "then"])
"""Words, beside marks, at which a clause begins."""
_COLOUR = "|".join(sorted(known.COLOURS))
_BOTH_COLOURS = re.compile(rf"\b({_COLOUR}) and (?=(?:{_COLOUR})\b)")


@dataclass(frozen=True)
class Token:
    """A word of a text."""

    word: str
    stem: str
    place: int
    """Which word it is of the text."""
    clause: int

    @property
    def content(self) -> bool:
        """Whether it says something of its own."""
        return self.word not in known.FUNCTION


@dataclass(frozen=True)
class Phrase:
    """The name of a thing: "a large | dog", "a slice of pizza"."""

    stems: tuple[str, ...]
    words: tuple[str, ...]
    place: int
    """Of its first word, without an article."""
    article: str
    """Before it; empty without one."""
    where: bool
    """It stands behind "on", "before" and the like."""
    about: bool = False
    """It stands behind "about"."""


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """One form for "moves", "moving" and "moved", for "dog" and "dogs"."""
    word = known.SAME.get(word, word)
    if word in known.NOT_FORMS or len(word) < 4:
        return word
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            if ending == "es" and not re.search("(s|x|z|ch|sh|o)es$", word):
                continue
            word = word[: -len(ending)]
            if ending in ("ing", "ed") and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    word = re.sub("(ie|y)$", "i", word)
    word = known.SAME.get(word, word)
    return word.removesuffix("e") if len(word) > 3 else word


def tokens(text: str) -> list[Token]:
    """The words of a text in lower case, without the marks between them."""
    found: list[Token] = []
    clause = 0
    text = _BOTH_COLOURS.sub(r"\1 ", text.lower().replace("’", "'").replace("-", " "))
    for part in re.findall(r"[a-z0-9]+(?:'[a-z]+)?|[.,;:!?]", text):
        if not part[0].isalnum():
            clause += 1
            continue
        if part in CLAUSES:
            clause += 1
        word = part.removesuffix("'s") if part not in known.FUNCTION else part
        found.append(Token(word, stem(word), len(found), clause))
    return found


def phrases(words: Sequence[Token]) -> Iterator[Phrase]:
    """The names of things in a text, in order."""
    place = 0
    while place < len(words):
        start = place
        while place < len(words) and words[place].clause == words[start].clause and _names(words, start, place):
            place += 1
        own = list(words[start:place])
        if not own:
            place += 1
            continue
        before = [token.word for token in words[max(0, start - 4) : start]]
        article = before.pop() if before and before[-1] in known.DETERMINERS else ""
        lead = before[-1] if before else ""
        if own[-1].word in known.NEUTRAL or _only_describes(own, article, words[place : place + 1]):
            continue
        if place + 1 < len(words) and words[place].word == "of" and own[0].word not in known.NUMBERS:
            more, end = _more(words, place + 1)
            if more:
                own, place = own + more, end
        # "in front of a wall": a place too.
        yield Phrase(tuple(token.stem for token in own), tuple(token.word for token in own), start, article,
                     lead in known.PLACES or before[-2:] == ["front", "of"], lead == "about")


def _only_describes(own: Sequence[Token], article: str, behind: Sequence[Token]) -> bool:
    """Whether these are a colour or a number of something that is no thing: "a red" of "a red wall", but not "an orange"."""
    if not all(token.word in known.COLOURS | known.NUMBERS for token in own):
        return False
    return article not in known.ARTICLES or any(token.word in known.NEUTRAL for token in behind)


def _names(words: Sequence[Token], start: int, place: int) -> bool:
    """Whether a word begins, or goes on with, the name that begins at ``start``."""
    word = words[place].word
    if not words[place].content or word in known.NEGATIONS or word in ("left", "right", "up", "down"):
        return False
    if word.endswith("ly") and word not in known.LIKE_ADVERBS:
        return False
    if place == start:
        before = words[place - 1].word if place else ""
        return before in known.DETERMINERS or (word not in known.VERBS and before not in known.PRONOUNS)
    if word in known.VERBS or word in known.NUMBERS or (word in known.NEUTRAL and word != "background"):
        return False
    return not word.endswith("ing") or word in known.NOT_FORMS


def _more(words: Sequence[Token], place: int) -> tuple[list[Token], int]:
    """What follows "of", and where it ends."""
    if words[place].word in known.DETERMINERS:
        place += 1
    start = place
    while place < len(words) and words[place].clause == words[start].clause and _names(words, start, place):
        place += 1
    return list(words[start:place]), place


def places(words: Sequence[Token], stems: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where these stems stand side by side, function words aside: the first word, and the one behind the last."""
    own = [token for token in words if token.content]
    for first in range(len(own) - len(stems) + 1):
        if all(_agrees(own[first + n].stem, wanted) for n, wanted in enumerate(stems)):
            yield own[first].place, own[first + len(stems) - 1].place + 1


def contains(words: Sequence[Token], stems: Sequence[str]) -> int | None:
    """The first such place; None where there is none."""
    return next((first for first, _ in places(words, stems)), None)


def _agrees(said: str, wanted: str) -> bool:
    return said == wanted or (said == "person" and wanted in known.PERSONS)
