"""Texts as rows of token ids: who sees whom, and which tokens are computed.

Letters: N rows (texts), L tokens of the longest, T real tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from omnivast.model.text.memory import CrossPass


@dataclass
class Layout:
    """Rows of token ids and who sees whom.

    ids, positions: (N, L) int64; real: (N, L) bool, the tokens that are computed; attend: (N, L, L) bool, [n, i, j] where
    token i sees token j. Every real token must see at least one.
    """

    ids: Tensor
    real: Tensor
    attend: Tensor
    positions: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, causal: bool = False, compute_padding: bool = False) -> Layout:
        """Sentences (N, L) with mask (N, L): bidirectional or causal; ``compute_padding`` gives padded tokens outputs too."""
        n, length = ids.shape
        attend = mask[:, None, :].expand(n, length, length)
        if causal:
            attend = attend & torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        positions = torch.arange(length, device=ids.device).expand(n, length)
        return cls(ids, torch.ones_like(mask) if compute_padding else mask, attend, positions)

    @classmethod
    def question_answer(cls, question: Tensor, question_mask: Tensor, answer: Tensor, answer_mask: Tensor, offset: int) -> Layout:
        """A question and its answer in one row: question tokens see the question, answer tokens the question and the answer so
        far. The answer's positions begin at ``offset`` (the length that the release pads questions to)."""
        ids, real = torch.cat([question, answer], 1), torch.cat([question_mask, answer_mask], 1)
        n, length = ids.shape
        start = question.shape[1]
        attend = real[:, None, :] & torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        attend[:, :start, :start] = question_mask[:, None, :]
        positions = torch.arange(length, device=ids.device)
        positions = torch.where(positions < start, positions, positions - start + offset)
        return cls(ids, real, attend, positions.expand(n, length))

    @classmethod
    def stepwise(cls, texts: Tensor, mask: Tensor, cls_id: int, mask_id: int) -> Layout:
        """What generation sees, for all its steps at once: [CLS] and the text (N, L) but for its last token, causal, and behind
        them a [MASK] in the place of every token, which sees what stands before that token, and itself. Rows are 2 L long; the
        hidden state at L + i predicts token i. mask: (N, L), True at tokens, which stand to the left."""
        n, length = texts.shape
        before = torch.cat([torch.full_like(texts[:, :1], cls_id), texts[:, :-1]], 1)
        sees = torch.ones(length, length, dtype=torch.bool, device=texts.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=texts.device)
        attend = torch.cat([torch.cat([sees, torch.zeros_like(itself)], 1), torch.cat([sees, itself], 1)])
        real = torch.cat([mask, mask], 1)
        places = torch.arange(length, device=texts.device)
        return cls(torch.cat([before, torch.full_like(texts, mask_id)], 1), real, attend & real[:, None, :],
                   torch.cat([places, places + 1]).expand(n, 2 * length))

    @staticmethod
    def stack(parts: Sequence[Layout]) -> Layout:
        """The rows of several layouts, one after the other, padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        longest = max(p.ids.shape[1] for p in parts)
        pads = [longest - p.ids.shape[1] for p in parts]
        return Layout(torch.cat([F.pad(p.ids, (0, k)) for p, k in zip(parts, pads)]),
                      torch.cat([F.pad(p.real, (0, k)) for p, k in zip(parts, pads)]),
                      torch.cat([_pad_square(p.attend, k) for p, k in zip(parts, pads)]),
                      torch.cat([F.pad(p.positions, (0, k)) for p, k in zip(parts, pads)]))


def _pad_square(attend: Tensor, spare: int) -> Tensor:
    """(n, L, L) → (n, L + spare, L + spare). Added queries see the first token: one that sees nothing would give NaN."""
    padded = F.pad(attend, (0, spare, 0, spare))
    padded[:, attend.shape[1]:, 0] = True
    return padded


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros(count, rows.shape[1]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.index_select(0, index), None, None


class _SpreadParts(torch.autograd.Function):
    """Of rows (k, parts · width), each part alone. Their gradients are gathered one by one: those of slices would be put together on
    the whole grid first."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, count: int, width: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(index)
        ctx.set_materialize_grads(False)
        return rows.new_zeros(count, rows.shape[1]).index_copy_(0, index, rows).split(width, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        (index,) = ctx.saved_tensors
        known = next((g for g in gradients if g is not None), None)
        if known is None:
            return None, None, None, None
        total = known.new_empty(len(index), len(gradients) * known.shape[1])
        for part, gradient in zip(total.split(known.shape[1], 1), gradients):
            part.copy_(gradient.index_select(0, index)) if gradient is not None else part.zero_()
        return total, None, None, None


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, index, gradient), None


def spread(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """(k, C) → (count, C): the rows at ``index`` (k,), each named once, and zeros elsewhere. torch's index_copy would keep the
    rows for its backward pass."""
    return _Spread.apply(rows, index, count)


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """(n, C) → (k, C): the rows at ``index`` (k,), each named once, so that gradients are copied back and need not be summed."""
    return _Pick.apply(rows, index)


@dataclass
class Packing:
    """Where the T real tokens stand in the (N, L) grid."""

    shape: tuple[int, int]
    index: Tensor | None
    """(T,) into N · L; None when every token is real."""

    @property
    def tokens(self) -> int:
        """T."""
        return self.shape[0] * self.shape[1] if self.index is None else len(self.index)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, C) → (N, L, C), zeros elsewhere."""
        n, length = self.shape
        if self.index is None:
            return packed.view(n, length, -1)
        return spread(packed, self.index, n * length).view(n, length, -1)

    def pad_parts(self, packed: Tensor, width: int) -> list[Tensor]:
        """(T, parts · width) → parts, each (N, L, width), that stand beside each other as ``pad`` places them."""
        if self.index is None:
            return list(self.pad(packed).split(width, -1))
        return [part.unflatten(0, self.shape) for part in _SpreadParts.apply(packed, self.index, self.shape[0] * self.shape[1], width)]

    def pack(self, padded: Tensor) -> Tensor:
        """(N, L, C) → (T, C)."""
        flat = padded.reshape(-1, padded.shape[-1])
        return flat if self.index is None else pick(flat, self.index)


@dataclass
class Wanted:
    """The W tokens whose final states are read: the queries of the last block.

    real: (N, L) bool, where they stand; grid: that as a packing. index: (W,) into the T real tokens. packing: the W tokens moved
    to the left of an (N, most of a row) grid, on which attend (N, 1, most, L) says what they see.
    """

    real: Tensor
    grid: Packing
    index: Tensor
    packing: Packing
    attend: Tensor
    counts: Tensor
    """(N,) wanted tokens of each row, on the CPU."""

    @classmethod
    def of(cls, layout: Layout, packing: Packing, wanted: Tensor) -> Wanted:
        """From ``wanted`` (N, L) bool, to which the first token of every row is added."""
        real = wanted & layout.real
        real[:, 0] = True
        n, length = real.shape
        index = (real.flatten() if packing.index is None else real.flatten()[packing.index]).nonzero().squeeze(1)
        counts = real.sum(1).cpu()
        most = int(counts.max())
        row, column = real.nonzero().unbind(1)
        place = row * most + (real.cumsum(1) - 1)[row, column]
        columns = torch.zeros(n * most, dtype=torch.long, device=real.device).index_copy(0, place, column).view(n, most, 1)
        attend = layout.attend.gather(1, columns.expand(n, most, length))[:, None]
        return cls(real, Packing((n, length), row * length + column), index, Packing((n, most), place), attend, counts)

    def shorten(self, passes: Sequence[CrossPass]) -> list[CrossPass]:
        """The passes with the lengths of their rows on the narrower grid."""
        return [replace(p, length=int(self.counts[p.start:p.stop].max())) for p in passes]
