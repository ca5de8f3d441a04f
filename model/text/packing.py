"""Between the grid of all tokens and the rows of those that are computed.

Letters: N rows (texts), L tokens of the longest, T real tokens of all rows, C numbers of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnivast.utils.transfer import Index


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
    """Splits rows (k, parts · width) into their parts, each (k, width).

    The backward pass gathers the gradient of each part by itself; with ordinary slices autograd would first put them together on the
    whole grid.
    """

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
    """Where the T real tokens stand in the (N, L) grid::

        row 0   a b c .
        row 1   d e . .         pack  →   a b c d e f g h i     (T, C)
        row 2   f g h i       ←  pad      index 0 1 2 4 5 8 9 10 11
    """

    shape: tuple[int, int]
    index: Index | None
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
