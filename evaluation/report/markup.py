"""Text as HTML, with places where a line may break."""

from __future__ import annotations

import re
import unicodedata
from html import escape

LONGEST_WORD = 16
"""Words longer than this may be broken across lines; every column has room for this many characters."""


def html_text(text: str) -> str:
    """The text as HTML, where a line may break within long words (paths, hashes, names): after a sign, or at the latest after
    ``LONGEST_WORD`` characters. So every column can be as wide as its longest word, even in a narrow window."""
    return "".join("<wbr>".join(map(escape, _pieces(part))) for part in re.split(r"(\s+)", text))


def _pieces(word: str) -> list[str]:
    """A word cut where a line may break in it; a short one whole. Nothing is parted from the accents and joiners that belong to it."""
    if len(word) <= LONGEST_WORD:
        return [word]
    pieces = [""]
    for character in word:
        joined = pieces[-1].endswith("\u200d") or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")
        if not joined and (len(pieces[-1]) >= LONGEST_WORD or (pieces[-1][-1:] in set("/\\_.-:,;=&?|@+") and character.isalnum())):
            pieces.append("")
        pieces[-1] += character
    return pieces
