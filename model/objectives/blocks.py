"""Losses over a table of similarities that is too large to be held: block by block of its rows.

Each of the b local pairs is compared with the global batch of B. The table (b, B), and what softmax and its gradient make of it, grow with
the square of the batch on one process, to gigabytes at 16,384 pairs. But every loss here is a mean over rows, and a hard negative belongs
to one row. So rows are taken a few at a time; of each block the loss alone is kept, and the backward pass computes the block again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TABLE = 2**22
"""Most similarities that are held at once: those of 2,048 pairs with each other. A smaller table is one block, and nothing is computed
again."""


def row_blocks(rows: int, columns: int, table: int | None = None) -> list[slice]:
    """Slices of about the same size that cover the rows, each with at most ``table`` (TABLE) numbers, but at least one row."""
    count = min(rows, -(-rows // max(1, (table or TABLE) // columns)))
    return [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]


def mean_over_blocks(of_rows: Callable[[slice], tuple[Tensor, ...]], rows: int, columns: int) -> tuple[Tensor, ...]:
    """What ``of_rows`` gives of all rows: first a loss, the mean over its rows, then any tensors with an entry for each row.

    ``of_rows`` must give the same when it is called again, in the backward pass.
    """
    blocks = row_blocks(rows, columns)
    if len(blocks) == 1:
        return of_rows(slice(0, rows))
    found = [checkpoint(of_rows, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    losses, *others = zip(*found)
    shares = [(block.stop - block.start) / rows for block in blocks]
    loss = torch.stack([share * loss for share, loss in zip(shares, losses)]).sum()
    return loss, *(torch.cat(parts) for parts in others)


def rows_of(x: Tensor, rows: slice) -> Tensor:
    """The rows of a block; ``x`` itself where these are all."""
    return x if rows == slice(0, len(x)) else x[rows]
