"""A WordPiece vocabulary trained on the texts of a corpus, laid out as BERT's: special tokens below 106, real ones from there on."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

FIRST_TOKEN = 106
"""Ids from here on are words and pieces; random replacement in masking draws among them."""
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "?!.,'-"


def train_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """At most ``size`` tokens, the token of id i at place i.

    After the special tokens come characters (alone and as continuation ``##x``, so that no lower-case word is unknown), then the
    words of ``texts`` whole, most frequent first, then pieces of words merged pair by pair as in byte-pair encoding, as far as there
    is room. Ties are broken by the alphabet, so the same texts give the same vocabulary everywhere (the trainers of common libraries
    depend on the order of a hash table). Raises ValueError when ``size`` leaves no room for the characters.
    """
    unused = (f"[unused{n}]" for n in range(FIRST_TOKEN))
    tokens = [_SPECIAL.get(place) or next(unused) for place in range(FIRST_TOKEN)]
    tokens += [*_PUNCTUATION, *_CHARACTERS, *(f"##{c}" for c in _CHARACTERS)]
    if size < len(tokens):
        raise ValueError(f"a vocabulary of {size} is too small: special tokens and characters alone are {len(tokens)}")
    counts = Counter(word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))
    known = set(tokens)
    for piece in itertools.chain(_by_frequency(counts), _merged_pieces(counts)):
        if len(tokens) == size:
            break
        if piece not in known:
            known.add(piece)
            tokens.append(piece)
    return tokens


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda word: (-counts[word], word))


def _merged_pieces(counts: Counter[str]) -> Iterator[str]:
    """Pieces in the order in which merging the most frequent neighbours makes them, until no pair is left."""
    words = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in counts}
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            return
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = left + right[2:]
        yield merged
        for pieces in words.values():
            place = 0
            while place < len(pieces) - 1:
                if pieces[place] == left and pieces[place + 1] == right:
                    pieces[place:place + 2] = [merged]
                place += 1
