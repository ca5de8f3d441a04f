"""Matching scores of chosen (text, clip) pairs: memories projected once per chunk of clips, pairs spread evenly over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from omnivast.config.tasks import Group
from omnivast.model.interface import Model

PAIR_TOKENS = 8192
"""Text tokens, with padding, of the pairs matched at once."""
MEMORY_TOKENS = 32768
"""Condition tokens of the clips whose keys and values are held at once."""


class PairMatcher:
    """Scores pairs against this process's clips.

    Args:
        model: offers ``memory`` and ``match``.
        features: the clips' features on the CPU, in chunks; clip n of this process is row n of their concatenation.
        device: where the model is.
    """

    def __init__(
        self,
        model: Model,
        features: Iterable[Any],
        device: torch.device | str,
        *,
        pair_tokens: int = PAIR_TOKENS,
        memory_tokens: int = MEMORY_TOKENS,
    ) -> None:
        self.model, self.features, self.device = model, features, device
        self.pair_tokens, self.memory_tokens = pair_tokens, memory_tokens

    def margins(
        self,
        pairs: Mapping[Group, tuple[np.ndarray, np.ndarray]],
        texts: Mapping[Group, Sequence[Sequence[int]]],
        advance: Callable[[int], Any] = lambda count: None,
        scored: Callable[[Group, np.ndarray, np.ndarray], Any] = lambda group, chosen, scores: None,
    ) -> dict[Group, np.ndarray]:
        """(P,) float64 matching margin of every pair of every group.

        Args:
            pairs: per group, (P,) text numbers and (P,) numbers of this process's clips.
            texts: per group, the token ids of every text, without padding.
            advance: told how many pairs were done, for a progress bar.
            scored: told, chunk by chunk of the clips, the numbers of a group's pairs and their margins.
        """
        scores = {group: np.full(len(clips), np.nan) for group, (_, clips) in pairs.items()}
        wanted = np.unique(np.concatenate([clips for _, clips in pairs.values()])) if pairs else np.empty(0, dtype=np.int64)
        for chunk, rows in self._memory_chunks(wanted):
            memory = self.model.memory(chunk.to(self.device))
            for group, (text_numbers, clip_numbers) in pairs.items():
                chosen = np.flatnonzero(np.isin(clip_numbers, rows))
                local = np.searchsorted(rows, clip_numbers[chosen])
                pair_texts = [texts[group][number] for number in text_numbers[chosen]]
                for batch in pair_batches([len(ids) for ids in pair_texts], local, self.pair_tokens):
                    ids, mask = padded([pair_texts[n] for n in batch])
                    memory_rows = torch.from_numpy(local[batch])
                    margins = self.model.match(memory, group, ids, mask, memory_rows)
                    scores[group][chosen[batch]] = margins.double().cpu().numpy()
                    advance(len(batch))
                if len(chosen):
                    scored(group, chosen, scores[group][chosen])
        return scores

    def _memory_chunks(self, wanted: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Features of the wanted clips, few enough for one memory, and their sorted clip numbers."""
        first = 0
        for features in self.features:
            here = wanted[(wanted >= first) & (wanted < first + len(features))]
            step = max(1, self.memory_tokens // max(1, features.tokens))
            for start in range(0, len(here), step):
                rows = here[start : start + step]
                yield features.rows(torch.from_numpy(rows - first)), rows
            first += len(features)


def pair_batches(lengths: Sequence[int], rows: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Numbers of pairs in batches of at most ``budget`` padded tokens (or one pair), sorted by memory row.

    A batch holds as many texts of one row as of any other wherever possible, so that the text model can stack the texts of a
    row against its memory without copying it; the texts of a row are taken longest first, so that a batch has similar lengths.

    Args:
        lengths: (P,) tokens of each pair's text.
        rows: (P,) memory row of each pair.
    """
    if not len(rows):
        return
    tokens = np.asarray(lengths, dtype=np.int64)
    order = np.lexsort((-tokens, rows))
    counts = np.unique(rows, return_counts=True)[1]
    per_row = np.repeat(counts, counts)
    nth = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, budget // (len(counts) * int(tokens.max())))
    whole = nth < per_row // width * width
    for block in range(int(counts.max()) // width):
        yield from _within(order[whole & (nth // width == block)], tokens, budget)
    rest = np.flatnonzero(~whole)
    similar = rest[np.argsort(-(per_row[rest] % width), kind="stable")]
    for batch in _within(order[similar], tokens, budget):
        yield batch[np.argsort(rows[batch], kind="stable")]


def _within(pairs: np.ndarray, tokens: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Consecutive parts of at most ``budget`` padded tokens."""
    size = max(1, budget // int(tokens[pairs].max())) if len(pairs) else 1
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, L) int64 ids padded with 0 to the longest, and (P, L) bool mask, True at tokens."""
    length = max(map(len, texts))
    ids = torch.zeros((len(texts), length), dtype=torch.long)
    mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        mask[row, : len(tokens)] = True
    return ids, mask
