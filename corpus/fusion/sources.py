"""What captions of a clip agree on, and what is said in it: the facts that a fused caption has to name, and the words that it may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from omnivast.corpus.fusion import vocabulary as known
from omnivast.corpus.fusion.language import Phrase, Token, contains, phrases, tokens
from omnivast.corpus.fusion.vocabulary import HEARD, SAID, SEEN

KINDS = (SEEN, HEARD, SAID)
LONG = 12
"""Words of a subtitle above which one of several of its things has to be named, one more for each ``MORE`` words."""
MORE = 8


@dataclass(frozen=True)
class Kind:
    """What is known by one sense."""

    texts: tuple[str, ...]
    """That count, the one most like the others first."""
    needed: tuple[Phrase, ...]
    """One of these has to be named; none where there is no text, or no thing in it."""
    words: frozenset[str]
    """Stems that may be used."""
    pairs: frozenset[tuple[str, str]]
    """Words that stand side by side."""
    outvoted: tuple[str, ...] = ()
    """Captions that contradict the others."""
    disagreement: bool = False
    """No two say the same."""


@dataclass(frozen=True)
class Facts:
    """What is known of a clip."""

    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def words(self) -> frozenset[str]:
        return frozenset().union(*(kind.words for kind in self.kinds.values()))


def facts_of(vision: Sequence[str], audio: Sequence[str], subtitle: str) -> Facts:
    """The facts of a clip's captions and subtitle."""
    kinds = {SEEN: _agreed(vision), HEARD: _agreed(audio), SAID: _spoken(subtitle)}
    return Facts({name: kind for name, kind in kinds.items() if kind.texts})


def _agreed(texts: Sequence[str]) -> Kind:
    """A thing counts when more than half of the captions name it; a caption that does not name the first such thing is outvoted."""
    read = [tokens(text) for text in texts]
    most = len(texts) // 2 + 1
    common = sorted(_common(read, most), key=lambda found: (found[0].where, -found[1], -len(found[0].stems)))
    if not common:
        return Kind(tuple(texts), (), frozenset(), frozenset(), disagreement=len(texts) > 1)
    thing = common[0][0]
    counted = [number for number, words in enumerate(read) if contains(words, thing.stems) is not None]
    kept = sorted(counted, key=lambda number: -_likeness(read, number, counted))
    banned = _contradicted([read[number] for number in kept], thing)
    words = frozenset(token.stem for number in kept for token in read[number] if token.content) - banned
    return Kind(tuple(texts[number] for number in kept), (thing,), words, _pairs(read[number] for number in kept),
                tuple(text for number, text in enumerate(texts) if number not in counted))


def _common(read: Sequence[Sequence[Token]], most: int) -> list[tuple[Phrase, int]]:
    """Things, by the most words that so many captions have ("red flag" and not "flag" where most say so), and how many do."""
    found: dict[tuple[str, ...], tuple[Phrase, int]] = {}
    for words in read:
        for phrase in phrases(words):
            for first in range(len(phrase.stems)):
                shorter = Phrase(phrase.stems[first:], phrase.words[first:], phrase.place + first, phrase.article, phrase.where)
                by = sum(contains(other, shorter.stems) is not None for other in read)
                if by >= most:
                    before = found.get(shorter.stems)
                    if before is None or before[0].where > shorter.where:
                        found[shorter.stems] = (shorter, by)
                    break
    return [one for stems, one in found.items() if not any(other != stems and other[-len(stems) :] == stems for other in found)]


def _likeness(read: Sequence[Sequence[Token]], number: int, others: Iterable[int]) -> int:
    """How many words of a caption the others have too."""
    own = {token.stem for token in read[number] if token.content}
    return sum(len(own & {token.stem for token in read[other]}) for other in others if other != number)


def _contradicted(read: Sequence[Sequence[Token]], thing: Phrase) -> frozenset[str]:
    """Of words that exclude each other, colours for instance, those that not most captions have; all where none has more than another."""
    banned: set[str] = set()
    for group in known.EXCLUSIVE:
        said: dict[str, frozenset[int]] = {}
        for number, words in enumerate(read):
            for stem in {token.stem for token in words if token.word in group} - set(thing.stems):
                said[stem] = said.get(stem, frozenset()) | {number}
        top = max(map(len, said.values()), default=0)
        first = {numbers for numbers in said.values() if len(numbers) == top}
        banned.update(stem for stem, numbers in said.items() if len(numbers) < top or len(first) > 1)
    return frozenset(banned)


def _spoken(subtitle: str) -> Kind:
    """What is said is known from one text: what it is about has to be named, of a long one something that it is about."""
    words = tokens(subtitle)
    if not words:
        return Kind((), (), frozenset(), frozenset())
    count = 1 + max(0, len(words) - LONG) // MORE
    things = sorted(phrases(words), key=lambda phrase: (_weight(phrase), phrase.place), reverse=True)
    stems = frozenset(token.stem for token in words if token.content)
    return Kind((subtitle,), tuple(things[:count]), stems, _pairs([words]))


def _weight(phrase: Phrase) -> int:
    """A thing that is talked about, one that is new, one that is known, then all else; numbers of something come last."""
    if phrase.words[0] in known.NUMBERS:
        return 0
    if phrase.about:
        return 4
    return {"a": 3, "an": 3, "the": 2}.get(phrase.article, 1)


def _pairs(read: Iterable[Sequence[Token]]) -> frozenset[tuple[str, str]]:
    """Stems of words that say something, side by side."""
    return frozenset((one.stem, other.stem) for words in read for one, other in pairwise(words) if one.content and other.content)
