"""Activations that the backward pass makes again, cheaply, from others that are kept anyway."""

from __future__ import annotations

import weakref
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


class _Ledger:
    """The recipes of tensors that are alive, by the address of their storage."""

    def __init__(self) -> None:
        self.recipes: dict[int, tuple[_Recipe, weakref.ref[Tensor]]] = {}

    def note(self, value: Tensor, make: Make) -> None:
        """Forgotten with the tensor: another may stand at its address then, and ``make`` holds what it reads."""
        place = value.untyped_storage().data_ptr()

        def forget(gone: weakref.ref[Tensor]) -> None:
            if place in self.recipes and self.recipes[place][1] is gone:
                del self.recipes[place]

        self.recipes[place] = _Recipe(make, value.device.type), weakref.ref(value, forget)

    def pack(self, saved: Tensor) -> Any:
        """What stands in the graph for a saved tensor: itself, or a recipe and the part of the storage that it was."""
        recipe, _ = self.recipes.get(saved.untyped_storage().data_ptr(), (None, None))
        if recipe is None or saved.numel() == 0:
            if (note := _note.get()) is not None:
                note(saved)
            return saved
        recipe.uses += 1
        return recipe, saved.shape, saved.stride(), saved.storage_offset()

    @staticmethod
    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        recipe, *layout = packed
        with torch.no_grad():
            return recipe.take().as_strided(*layout)


_ledger: ContextVar[_Ledger | None] = ContextVar("ledger", default=None)
_kept: ContextVar[bool] = ContextVar("kept", default=False)
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
    if torch.compiler.is_compiling() or _ledger.get() is not None or _kept.get() or not torch.is_grad_enabled():
        yield
        return
    ledger = _Ledger()
    token = _ledger.set(ledger)
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.pack, ledger.unpack):
            yield
    finally:
        _ledger.reset(token)


@contextmanager
def all_kept() -> Iterator[None]:
    """``remaking`` does nothing inside: for layers that are recomputed as a whole, whose inputs alone are to be kept."""
    kept, ledger = _kept.set(True), _ledger.set(None)
    try:
        yield
    finally:
        _kept.reset(kept)
        _ledger.reset(ledger)


def remade(make: Make, again: Make | None = None) -> Tensor:
    """What ``make`` makes. Inside ``remaking``, and while what is returned here is referenced, operations do not keep it or parts of
    it: ``again`` (without it, ``make``) makes it again for their backward pass.

    Both must give the same values in the same layout each time, from tensors that the graph keeps for other reasons. Parameters
    are not such: sharded ones are gone by then.
    """
    value = make()
    ledger = None if torch.compiler.is_compiling() else _ledger.get()
    if ledger is not None and value.requires_grad:
        ledger.note(value, again or make)
    return value


class GELU(nn.GELU):
    """Whose output is not kept."""

    def forward(self, x: Tensor) -> Tensor:
        return remade(partial(F.gelu, x, approximate=self.approximate))


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
        return remade(partial(super().forward, x), self._copied(x))

    def _copied(self, x: Tensor) -> Make | None:
        if torch.compiler.is_compiling() or _ledger.get() is None:
            return None
        weight, bias = (p if p is None else p.detach().clone() for p in (self.weight, self.bias))
        return partial(F.layer_norm, x, self.normalized_shape, weight, bias, self.eps)
