"""Activations that the backward pass makes again, cheaply, from others that are kept anyway.

    x ── GELU ──▶ y ── Linear ──▶ z          plain autograd keeps x (GELU reads it) and y (Linear reads it) for the backward pass

    with remaking():
        y = remade(F.gelu, x)                the recipe of y is written on its storage
        z = linear(y)                        autograd asks what to keep of y (or of a view of it): the recipe and the view's shape

In the backward pass Linear asks for y: it is made from x, handed to all that read it, and let go. Only x was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[], Tensor]
_Module = TypeVar("_Module", bound=nn.Module)


class _Recipe:
    """How a tensor is made again, under the autocast of now. All that read it in a backward pass get the same one, which is let go
    with the last of them."""

    def __init__(self, make: Make, kind: str) -> None:
        self.make, self.kind = make, kind
        self.dtype, self.enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self.uses, self.taken = 0, 0
        self.made: Tensor | None = None

    def take(self) -> Tensor:
        made = self.made
        if made is None:
            with torch.no_grad(), torch.autocast(self.kind, dtype=self.dtype, enabled=self.enabled, cache_enabled=False):
                made = self.make()
        self.taken = (self.taken + 1) % self.uses
        self.made = made if self.taken else None
        return made


def _recipe_of(tensor: Tensor) -> _Recipe | None:
    return getattr(tensor.untyped_storage(), "recipe", None)


def _pack(saved: Tensor) -> Any:
    """What stands in the graph for a saved tensor: itself, or a recipe and the part of the storage that it was."""
    recipe = _recipe_of(saved)
    if recipe is None or saved.numel() == 0:
        if (note := _note.get()) is not None:
            note(saved)
        return saved
    recipe.uses += 1
    return recipe, saved.shape, saved.stride(), saved.storage_offset()


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    recipe, *layout = packed
    with torch.no_grad():
        return recipe.take().as_strided(*layout)


_active: ContextVar[bool] = ContextVar("active", default=False)
"""Whether a ``remaking`` is open."""
_kept: ContextVar[bool] = ContextVar("kept", default=False)
"""Whether an ``all_kept`` is."""
_note: ContextVar[Callable[[Tensor], object] | None] = ContextVar("note", default=None)


@contextmanager
def noting(note: Callable[[Tensor], object]) -> Iterator[None]:
    """``note`` is told of every tensor that operations inside keep for their backward pass, inside ``remaking`` too."""

    def pack(saved: Tensor) -> Tensor:
        note(saved)
        return saved

    token = _note.set(note)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            yield
    finally:
        _note.reset(token)


@contextmanager
def remaking() -> Iterator[None]:
    """What ``remade`` gives inside is not kept by operations inside that would keep it for their backward pass. Inside another
    ``remaking`` this does nothing. Hooks on saved tensors inside it go first: what torch's checkpoints recompute is theirs."""
    if torch.compiler.is_compiling() or _active.get() or _kept.get() or not torch.is_grad_enabled():
        yield
        return
    token = _active.set(True)
    try:
        with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _active.reset(token)


@contextmanager
def all_kept() -> Iterator[None]:
    """``remaking`` does nothing inside: for layers that are recomputed as a whole, whose inputs alone are to be kept."""
    kept, active = _kept.set(True), _active.set(False)
    try:
        yield
    finally:
        _kept.reset(kept)
        _active.reset(active)


def remade(make: Callable[..., Tensor], *sources: Tensor, again: Callable[..., Tensor] | None = None) -> Tensor:
    """``make(*sources)``. Inside ``remaking``, operations do not keep it or parts of it: ``again`` (without it, ``make``) makes it
    again from the sources for their backward pass. A view of a source is not made again.

    Both must give the same values in the same layout each time, from tensors that the graph keeps for other reasons. Parameters
    are not such: sharded ones are gone by then.
    """
    value = make(*sources)
    # The compiler first: what it reads, it compiles for, and layers would be compiled once with and once without an open ``remaking``.
    if not torch.compiler.is_compiling() and _active.get() and value.requires_grad:
        storage: Any = value.untyped_storage()
        if all(source.untyped_storage() is not storage for source in sources):
            # torch keeps the Python object of a storage as long as the storage, so that what is written on it goes with it.
            storage.recipe = _Recipe(partial(again or make, *sources), value.device.type)
    return value


class GELU(nn.GELU):
    """Whose output is not kept."""

    def forward(self, x: Tensor) -> Tensor:
        return remade(partial(F.gelu, approximate=self.approximate), x)


def keeping_less(module: _Module) -> _Module:
    """The same module, with every torch GELU in it replaced by one whose output is not kept."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.GELU:
                setattr(parent, name, GELU(child.approximate))
    return module


class LayerNorm(nn.LayerNorm):
    """Whose output is not kept: its backward pass keeps its input."""

    def forward(self, x: Tensor) -> Tensor:
        return remade(super().forward, x, again=self._copied())

    def _copied(self) -> Callable[[Tensor], Tensor] | None:
        if torch.compiler.is_compiling() or not _active.get():
            return None
        weight, bias = (p if p is None else p.detach().clone() for p in (self.weight, self.bias))
        return partial(F.layer_norm, normalized_shape=self.normalized_shape, weight=weight, bias=bias, eps=self.eps)
