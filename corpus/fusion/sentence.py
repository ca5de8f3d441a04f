"""What is written where the language model does not: the captions side by side."""

from __future__ import annotations

from collections.abc import Iterator

from omnivast.corpus.fusion.check import problems
from omnivast.corpus.fusion.language import contains, tokens
from omnivast.corpus.fusion.sources import Facts, Kind
from omnivast.corpus.fusion.vocabulary import HEARD, SAID, SEEN

QUOTED = 30
"""Words of a subtitle that are repeated, around what has to be named."""


def sentence(facts: Facts) -> str | None:
    """The first pair of captions, the likeliest first, that passes the check with the subtitle behind it; None where none does."""
    return next((text for text in _sentences(facts) if not problems(text, facts)), None)


def _sentences(facts: Facts) -> Iterator[str]:
    said = facts.kinds.get(SAID)
    for seen in _texts(facts.kinds.get(SEEN)):
        for heard in _texts(facts.kinds.get(HEARD)):
            parts = [seen] if seen else []
            parts += [f"in the audio: {heard}"] if heard else []
            parts += [f"someone says: {_quoted(said)}"] if said else []
            yield _opened("; ".join(map(_bare, parts))) + "."


def _texts(kind: Kind | None) -> tuple[str, ...]:
    return kind.texts if kind else ("",)


def _bare(text: str) -> str:
    return text.strip().rstrip(".!;, ")


def _opened(text: str) -> str:
    return text[:1].upper() + text[1:]


def _quoted(said: Kind) -> str:
    """A long subtitle is cut to what stands around the first thing that has to be named."""
    words = said.texts[0].split()
    if len(words) <= QUOTED:
        return _bare(said.texts[0])
    place = contains(tokens(said.texts[0]), said.needed[0].stems) if said.needed else 0
    first = max(0, min((place or 0) - QUOTED // 2, len(words) - QUOTED))
    return _bare(" ".join(words[first : first + QUOTED]))
