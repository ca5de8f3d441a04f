"""Texts as rows of token ids: who sees whom, and which tokens are computed. All of it stands on the host, in numpy arrays.

Letters: N rows (texts), L tokens of the longest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnivast.utils.transfer import on_host

Grid: TypeAlias = NDArray[Any] | Tensor
"""An (N, L) array on the host, or a tensor on the CPU."""


@dataclass
class Layout:
    """Rows of token ids and who sees whom.

    ids, positions: (N, L) integers. real: (N, L) bool, the tokens that are computed. Token i of row n sees the tokens j < reach[n, i]
    that are visible[n, j], and itself where it is visible; each must see at least one::

        a sentence          causal              a question ? ? and its answer a a
            a b c d             a b c d             ? ? a a
        a   x x x x         a   x . . .         ?   x x . .     reach 2
        b   x x x x         b   x x . .         ?   x x . .           2
        c   x x x x         c   x x x .         a   x x x .           3
        d   x x x x         d   x x x x         a   x x x x           4
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    real: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    reach: NDArray[np.int64]
    prompt: NDArray[np.bool_] | None = None
    """(N, L), True at the tokens of a prompt, where the model tells them from those of a text; None: there are none."""

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def length(self) -> int:
        """L."""
        return self.ids.shape[1]

    @classmethod
    def of(cls, ids: Grid, mask: Grid, causal: bool = False, compute_padding: bool = False) -> Layout:
        """Sentences (N, L) with mask (N, L): bidirectional or causal; ``compute_padding`` gives padded tokens outputs too."""
        words, visible = on_host(ids), on_host(mask).astype(bool)
        columns = np.arange(words.shape[1])
        reach = columns + 1 if causal else np.full_like(columns, len(columns))
        real = np.ones_like(visible) if compute_padding else visible
        return cls(words, _rows(columns, words), real, visible, _rows(reach, words))

    @classmethod
    def question_answer(cls, question: Grid, question_mask: Grid, answer: Grid, answer_mask: Grid, offset: int) -> Layout:
        """A question and its answer in one row. Question tokens see the whole question; answer tokens see the question and the answer up
        to themselves.

        The answer's positions begin at ``offset``, the length to which the release pads questions.
        """
        ids = np.concatenate([on_host(question), on_host(answer)], 1)
        real = np.concatenate([on_host(question_mask).astype(bool), on_host(answer_mask).astype(bool)], 1)
        start, columns = question.shape[1], np.arange(ids.shape[1])
        positions = np.where(columns < start, columns, columns - start + offset)
        return cls(ids, _rows(positions, ids), real, real, _rows(np.maximum(columns + 1, start), ids))

    @classmethod
    def prompted(cls, prompt: Grid, prompt_mask: Grid, text: Grid, text_mask: Grid, causal: bool = False) -> Layout:
        """A prompt (N, P) and a text (N, L) in one row, each with positions from 0. The text sees the prompt; the prompt sees the text
        where it is bidirectional, not where it is causal."""
        row = cls.question_answer(prompt, prompt_mask, text, text_mask, 0)
        columns = np.arange(row.length)
        reach = row.reach if causal else _rows(np.full_like(columns, row.length), row.ids)
        return dataclasses.replace(row, reach=reach, prompt=_rows(columns < prompt.shape[1], row.ids))

    @classmethod
    def stepwise(cls, texts: Grid, mask: Grid, cls_id: int, mask_id: int) -> Layout:
        """Everything that generation sees, step by step, in one row per text.

        The left half of a row is [CLS] and the text without its last token, causal. The right half has one [MASK] per token to predict,
        which sees the tokens that stand before the predicted one, and itself. Rows are 2 L long; the hidden state at L + i predicts token
        i.

        mask: (N, L), True at tokens, which stand to the left.
        """
        words = on_host(texts)
        before = np.concatenate([np.full_like(words[:, :1], cls_id), words[:, :-1]], 1)
        ids = np.concatenate([before, np.full_like(words, mask_id)], 1)
        real, places = np.concatenate([on_host(mask).astype(bool)] * 2, 1), np.arange(words.shape[1])
        return cls(ids, _rows(np.concatenate([places, places + 1]), ids), real, real, _rows(np.concatenate([places + 1] * 2), ids))

    def behind(self, prompt: Grid, prompt_mask: Grid) -> Layout:
        """The same rows, each behind a prompt (N, P) that it sees and that sees nothing of it, with positions of its own from 0."""
        ids, mask = on_host(prompt), on_host(prompt_mask).astype(bool)
        width = ids.shape[1]

        def joined(own: NDArray[Any], then: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([own, then], 1)

        first = joined(np.ones_like(mask), np.zeros_like(self.real))
        return Layout(joined(ids, self.ids), joined(_rows(np.arange(width), ids), self.positions), joined(mask, self.real),
                      joined(mask, self.visible), joined(np.full_like(ids, width), self.reach + width), first)

    @staticmethod
    def stack(parts: Sequence[Layout]) -> Layout:
        """The rows of several layouts, one after the other, padded to the longest. A padded token sees the first token of its row,
        because a query that sees nothing would give NaN."""
        longest = max(part.length for part in parts)

        def joined(name: str, fill: int) -> NDArray:
            return np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1])), constant_values=fill)
                                   for x in (getattr(part, name) for part in parts)])

        if len(parts) == 1:
            return parts[0]
        if any(part.prompt is not None for part in parts):
            parts = [part if part.prompt is not None else dataclasses.replace(part, prompt=np.zeros_like(part.real)) for part in parts]
            prompt = joined("prompt", 0)
        else:
            prompt = None
        return Layout(joined("ids", 0), joined("positions", 0), joined("real", 0), joined("visible", 0), joined("reach", 1), prompt)


def _rows(row: NDArray[Any], like: NDArray[np.int64]) -> NDArray[Any]:
    """The same row (L,) for each of the N rows of ``like``."""
    return np.broadcast_to(row, like.shape)
