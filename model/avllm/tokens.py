"""Tokenising a string piece by piece, so that the pieces' ids, one after the other, are those of the whole.

Two habits of tokenizers are in the way. SentencePiece's (Llama 2, Vicuna) put a blank before whatever they are given, also before a piece
from the middle. And all of them read ``</s>`` in a text as the special token, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_ANCHORS = ("\n", "0", "|")
"""What is put before a piece, and taken off again, where the tokenizer would put a blank before it."""


class PieceTokenizer:
    """A tokenizer of transformers, by pieces."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        for token in tokenizer.all_special_tokens:
            added.setdefault(token, tokenizer.convert_tokens_to_ids(token))
        self.added = {token: number for token, number in added.items() if token}
        """Tokens that are one, whatever stands around them → their ids."""
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special = special | set(tokenizer.all_special_tokens)
        """Those of them that stand for no text."""
        longest_first = sorted(self.added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self.unknown: int | None = tokenizer.unk_token_id
        self.prefixes = tokenizer.convert_ids_to_tokens(self._plainly("a"))[:1] in (["▁a"], ["▁"])
        """Whether it puts a blank before a text."""
        self.start: str = tokenizer.bos_token if tokenizer.bos_token and tokenizer.bos_token_id in tokenizer("a").input_ids else ""
        """The token that it begins texts with; "" for none."""
        self._known: dict[tuple[str, bool], list[int]] = {}

    def ids(self, text: str, *, spoken: bool = False, first: bool = False) -> list[int]:
        """Ids of a piece.

        Args:
            spoken: whether a row says it: special tokens in it are read as letters.
            first: whether it begins a text, where the tokenizer's own blank belongs.
        """
        if spoken:
            return self._segment(text, first)
        key = (text, first)
        if key not in self._known:
            ids: list[int] = []
            for part in self._added.split(text) if self._added else [text]:
                if part in self.added:
                    ids.append(self.added[part])
                elif part:
                    ids += self._segment(part, (first and not ids) or self.begins(ids) and bool(ids))
            self._known[key] = ids
        return list(self._known[key])

    def begins(self, ids: Sequence[int], *other: int) -> bool:
        """Whether what follows these ids begins a text: nothing stands before it, or the token that texts begin with; ``other`` aside."""
        before = [number for number in ids[-2:] if number not in other]
        return (not before and len(ids) < 2) or (bool(before) and before[-1] == self.tokenizer.bos_token_id != self.tokenizer.eos_token_id)

    def through_special(self, text: str) -> str | None:
        """The beginning of a text up to the first special token in it, with that; None where there is none."""
        for found in self._added.finditer(text) if self._added else ():
            if found.group() in self.special:
                return text[: found.end()]
        return None

    def _segment(self, text: str, first: bool) -> list[int]:
        """Ids of a text without special tokens."""
        if not text:
            return []
        if not self.prefixes or first:
            return self._plainly(text)
        if text.startswith(" ") and len(text) > 1 and not text[1].isspace():
            return self._plainly(text[1:])  # its blank is the one that the tokenizer puts there
        for anchor in _ANCHORS:
            before, both = self._plainly(anchor), self._plainly(anchor + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        raise ValueError(f"the tokenizer joins {text!r} with whatever stands before it")

    def _plainly(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
