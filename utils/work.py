"""What a device is given to do, noted operation by operation without doing it: matrix products by their shapes, and bytes that all other
operations read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

NO_WORK = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_", "_unsafe_view", "lift_fresh",
           "is_same_size", "_reshape_alias", "_local_scalar_dense")
"""Operations that touch no numbers, and are no views by their schema."""


class Product(NamedTuple):
    """``batch`` products (m, k) × (k, n), of numbers of ``width`` bytes; ``moved`` bytes are read and written in all."""

    batch: int
    m: int
    n: int
    k: int
    width: int
    moved: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


@dataclass
class Phase:
    """Of the forward or the backward pass."""

    products: Counter[Product] = field(default_factory=Counter)
    others: int = 0
    """Operations that are no products and no views."""
    moved: int = 0
    """Bytes that these read and write."""

    @property
    def flops(self) -> int:
        return sum(product.flops * count for product, count in self.products.items())


class Work(TorchDispatchMode):
    """Inside, operations are noted under ``forward`` and ``backward``."""

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward = Phase(), Phase()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and func.overloadpacket.__name__ not in NO_WORK and not _is_view(func):
            phase = self.backward if torch._C._current_graph_task_id() != -1 else self.forward
            given = list(_tensors([args, list((kwargs or {}).values())]))
            moved = sum(x.numel() * x.element_size() for x in [*given, *_tensors(out)])
            if product := _product(func, given, args, out, moved):
                phase.products[product] += 1
            else:
                phase.others, phase.moved = phase.others + 1, phase.moved + moved
        return out


def _is_view(func: Any) -> bool:
    return any(x.alias_info is not None and not x.alias_info.is_write for x in func._schema.returns)


def _product(func: Any, given: list[Tensor], args: Any, out: Any, moved: int) -> Product | None:
    """None for what is no product. Convolutions and attention, which are several, count as one of the same number of operations."""
    name = func.overloadpacket.__name__
    if name in ("mm", "addmm"):
        a, b = given[-2:]
        return Product(1, a.shape[0], b.shape[1], a.shape[1], a.element_size(), moved)
    if name in ("bmm", "baddbmm"):
        a, b = given[-2:]
        return Product(a.shape[0], a.shape[1], b.shape[2], a.shape[2], a.element_size(), moved)
    if "scaled_dot_product" in name:
        backward = "backward" in name
        q, k = given[1:3] if backward else given[:2]
        rows = q.shape[0] * q.shape[1]  # queries times keys and weights times values; backward, with the weights again, five of their size
        return Product(rows * (5 if backward else 2), q.shape[2], k.shape[2], q.shape[3], q.element_size(), moved)
    if func.overloadpacket in flop_registry and given:
        flops = flop_registry[func.overloadpacket](*args, out_val=out)
        return Product(1, max(1, flops // (2 * 512 * 512)), 512, 512, given[0].element_size(), moved)
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
