"""Whether a caption says what its sources say, all of what they agree on, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from omnivast.corpus.fusion import vocabulary as known
from omnivast.corpus.fusion.language import Phrase, Token, contains, places, tokens
from omnivast.corpus.fusion.sources import KINDS, Facts
from omnivast.corpus.fusion.vocabulary import SAID, SEEN

SHORTEST, LONGEST = 5, 80
"""Words of a caption."""
REPEATED = 4
"""So many words in a row, twice, are a loop."""
REFUSALS = re.compile(r"^(i'?m sorry|sorry|i (can'?t|cannot|can not|am unable|am not able|won'?t)|as an ai|unfortunately)", re.I)
LABELS = re.compile(r"^\W*(seen|heard|said|caption|sentence|answer|output|note)\s*:|\n|<\||https?:", re.I)
SENSES = {stem.stem: kind for kind, words in known.CUES.items() for stem in tokens(" ".join(sorted(words)))}
NEUTRAL = frozenset(token.stem for token in tokens(" ".join(sorted(known.NEUTRAL))))


def empty(text: str) -> bool:
    return not re.search(r"\w", text)


def refuses(text: str) -> bool:
    return REFUSALS.match(text.strip()) is not None


def problems(text: str, facts: Facts) -> list[str]:
    """What is wrong with a caption, by kind: "lacks audio", "no source: kitchen"; none where it can be taken."""
    if empty(text):
        return ["empty"]
    if refuses(text):
        return ["refusal"]
    words = tokens(text)
    if LABELS.search(text.strip()):
        return ["form"]
    if not SHORTEST <= len(words) <= LONGEST:
        return [f"length: {len(words)} words"]
    found = ["repeats itself"] if _loops(words) else []
    found += [f"lacks {name}" for name in KINDS if name in facts.kinds and not _named(words, facts.kinds[name].needed)]
    found += [f"no source: {word}" for word in _unsourced(words, facts)]
    found += [f"no source: {one} {other}" for one, other in _new_pairs(words, facts)]
    return found + [f"sense: {phrase}" for phrase in _by_the_wrong_sense(words, facts)]


def _loops(words: Sequence[Token]) -> bool:
    runs = [tuple(token.word for token in words[first : first + REPEATED]) for first in range(len(words) - REPEATED + 1)]
    return len(set(runs)) < len(runs)


def _named(words: Sequence[Token], needed: Sequence[Phrase]) -> bool:
    return not needed or any(contains(words, phrase.stems) is not None for phrase in needed)


def _unsourced(words: Sequence[Token], facts: Facts) -> list[str]:
    """Words that say something and that no source has."""
    allowed = facts.words | NEUTRAL
    persons = "person" in allowed or any(stem in known.PERSONS for stem in facts.words)
    return [token.word for token in words
            if token.content and token.stem not in allowed and not (token.stem == "person" and persons)]


def _new_pairs(words: Sequence[Token], facts: Facts) -> list[tuple[str, str]]:
    """Words before the name of a thing that do not stand there in any source, "a red cow" of a cow before a red wall; and colours of what
    is seen that only something heard or talked about has."""
    there = frozenset().union(*(kind.pairs for kind in facts.kinds.values()))
    things = {phrase.stems[0] for kind in facts.kinds.values() for phrase in kind.needed}
    seen = facts.kinds[SEEN].words if SEEN in facts.kinds else frozenset()
    return [(one.word, other.word) for one, other in pairwise(words)
            if one.content and one.clause == other.clause and one.stem not in NEUTRAL and (one.stem, other.stem) not in there
            and (other.stem in things or (one.word in known.COLOURS and one.stem not in seen))]


def _by_the_wrong_sense(words: Sequence[Token], facts: Facts) -> list[str]:
    """Things that are said to be seen though they are heard, and the like. A thing that two senses know may be either."""
    found = []
    for name, kind in facts.kinds.items():
        for phrase in kind.needed:
            others = [other for key, other in facts.kinds.items() if key != name]
            if any(set(phrase.stems) <= other.words for other in others):
                continue
            senses = {_sense(words, first, end, facts) for first, end in places(words, phrase.stems)}
            # What is only said has to be told as said, each time.
            if senses - ({SAID} if name == SAID else {None, name}):
                found.append(" ".join(phrase.words))
    return found


def _sense(words: Sequence[Token], first: int, end: int, facts: Facts) -> str | None:
    """By which sense a thing is said to be known: by the nearest word that tells it, "heard" behind it or "the sound of" before it."""
    behind = [(token.place - end, sense) for token in words[end:] if token.clause == words[first].clause
              and (sense := _tells(token, facts)) and _of_what_is_before(words, token, facts)]
    before = [(first - token.place, sense) for token in words[:first]
              if (sense := _tells(token, facts)) and (token.clause == words[first].clause or sense == SAID)
              and not _of_what_is_before(words, token, facts)]
    near = sorted(behind)[:1] + sorted(before)[:1]
    return min(near)[1] if near else None


def _tells(token: Token, facts: Facts) -> str | None:
    """The sense that a word is of: by itself, or since only what is known by that sense has the word."""
    if token.stem in SENSES:
        # "someone says: we walked far to look at a fox": the look is part of what is said.
        quoted = SAID in facts.kinds and token.stem in facts.kinds[SAID].words and SENSES[token.stem] != SAID
        return None if quoted else SENSES[token.stem]
    having = [name for name, kind in facts.kinds.items() if token.stem in kind.words]
    named = {stem for kind in facts.kinds.values() for phrase in kind.needed for stem in phrase.stems}
    return SEEN if token.content and having == [SEEN] and token.stem not in named else None


def _of_what_is_before(words: Sequence[Token], token: Token, facts: Facts) -> bool:
    """Whether such a word is about what stands before it: "is heard", "appears", "makes a noise", "moves left"."""
    if token.stem not in SENSES:
        return True
    behind = [other.word for other in words[token.place + 1 :] if other.clause == token.clause]
    if len(behind) > 1 and behind[0] == "about":  # "are told about a fox", but not "a fox is talked about"
        return False
    before = [other.word for other in words[max(0, token.place - 3) : token.place]]
    if before and before[-1] in known.DETERMINERS:
        return len(before) > 1 and (before[-2] in known.BE or before[-2].startswith(("make", "making", "made")))
    if any(word in known.BE for word in before[-2:]) and token.word not in ("showing", "saying", "talking", "speaking", "telling"):
        return True
    return token.word in known.OF_THEMSELVES and not (before and before[-1] == "of")
