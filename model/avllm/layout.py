"""Where the words and the media of conversations stand in the language model's input.

    ids of a conversation      <s> USER: MEDIA What is it? ASSISTANT: an owl </s>
    in the input               <s> USER: [t t t t][s s s s s s][a a] What is it? ASSISTANT: an owl </s>

N conversations, L columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omnivast.model.avllm.template import MEDIA
from omnivast.utils.transfer import on_host, send


@dataclass(frozen=True)
class Layout:
    """The places of a batch's conversations, on the host."""

    ids: Tensor
    """(N, L) int64: words; 0 where media, or nothing, stand."""
    filled: Tensor
    """(N, L) bool: where words or media stand."""
    learnt: Tensor
    """(N, L) bool: words that are predicted, each at the place before it."""
    parts: dict[str, tuple[Tensor, Tensor]]
    """Part → the conversations that have it, and the columns at which it begins: (n,) int64 each."""


def lay_out(sequences: Sequence[Sequence[int]], parts: Sequence[Mapping[str, int]], supervised: Sequence[Sequence[bool]] | None = None,
            *, left: bool = False) -> Layout:
    """Places for conversations of unequal lengths.

    Args:
        sequences: (N) ids, with MEDIA once where the media stand.
        parts: (N) the parts that each has, in their order → how many tokens they take.
        supervised: (N) which of the ids are learnt; None: none are.
        left: whether shorter ones begin later, so that all end at the last column; else all begin at the first.

    Raises:
        ValueError: a conversation has media and no place for them, or several.
    """
    for number, (ids, own) in enumerate(zip(sequences, parts)):
        if (places := list(ids).count(MEDIA)) > 1 or (own and not places):
            raise ValueError(f"conversation {number} has {places} places for its media ({', '.join(own) or 'none'}); expected one")
    lengths = [len(ids) - list(ids).count(MEDIA) + sum(own.values()) for ids, own in zip(sequences, parts)]
    longest = max(lengths, default=0)
    grid = torch.zeros(len(sequences), longest, dtype=torch.int64)
    filled, learnt = torch.zeros_like(grid, dtype=torch.bool), torch.zeros_like(grid, dtype=torch.bool)
    begun: dict[str, list[tuple[int, int]]] = {}
    for row, (ids, own, length) in enumerate(zip(sequences, parts, lengths)):
        column = longest - length if left else 0
        filled[row, column : column + length] = True
        split = list(ids).index(MEDIA) if MEDIA in ids else len(ids)
        for start, stop in ((0, split), (split + 1, len(ids))):
            words = ids[start:stop]
            grid[row, column : column + len(words)] = torch.tensor(words, dtype=torch.int64)
            if supervised is not None:
                learnt[row, column : column + len(words)] = torch.tensor(supervised[row][start:stop], dtype=torch.bool)
            column += len(words)
            if start == 0:
                for part, tokens in own.items():
                    begun.setdefault(part, []).append((row, column))
                    column += tokens
    begins = {part: torch.tensor(found, dtype=torch.int64).T for part, found in begun.items()}
    return Layout(grid, filled, learnt, {part: (found[0], found[1]) for part, found in begins.items()})


def scattered(words: Tensor, layout: Layout, tokens: Mapping[str, Tensor]) -> Tensor:
    """The input of the language model: embedded words (N, L, D) with the media's ``tokens``, part → (n, tokens, D), in their places.

    Raises ValueError where a part has tokens of more or fewer conversations than have it.
    """
    for part, own in tokens.items():
        rows, columns = map(on_host, layout.parts[part]) if part in layout.parts else (np.zeros(0, np.int64), np.zeros(0, np.int64))
        if len(rows) != len(own):
            raise ValueError(f"{len(own)} conversations have {part} tokens, but there are places for those of {len(rows)}")
        places = send((rows[:, None], columns[:, None] + np.arange(own.shape[1])), words.device)
        words = words.index_put(places, own.to(words.dtype))
    return words


def passes(lengths: Sequence[int], spare: float = 0.2) -> list[list[int]]:
    """Numbers of conversations that go through the language model together: the longest first, with those that leave at most a share
    ``spare`` of its columns empty; then the longest of the others; and so on. Those about sound alone are often ten times shorter than
    those with pictures."""
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    together: list[list[int]] = []
    for number in order:
        if together and lengths[number] >= (1 - spare) * lengths[together[-1][0]]:
            together[-1].append(number)
        else:
            together.append([number])
    return together
