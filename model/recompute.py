"""Activations that the backward pass makes again, cheaply, from others that are kept anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_kept: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def all_kept() -> Iterator[None]:
    """``remade`` does nothing inside: for layers that are recomputed as a whole, whose inputs alone are to be kept."""
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


@contextmanager
def remade(*makes: Callable[[], Tensor]) -> Iterator[list[Tensor]]:
    """Gives what each of ``makes`` makes. What is done with it inside does not keep it for the backward pass, which makes it again.

    Each must give the same values in the same layout each time, from tensors that the graph keeps for other reasons. Contexts
    must not be nested: torch asks the innermost alone.
    """
    values = [make() for make in makes]
    if _kept.get() or not torch.is_grad_enabled():
        yield values
        return
    places = {value.untyped_storage().data_ptr(): make for value, make in zip(values, makes)}

    def pack(saved: Tensor) -> Any:
        make = places.get(saved.untyped_storage().data_ptr())
        return saved if make is None else (make, saved.shape, saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        make, *layout = packed
        with torch.no_grad():
            return make().as_strided(*layout)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield values
