"""Activations that the backward pass computes again, cheaply, from others that are kept anyway.

    plain autograd                           with remaking():  y = remade(F.gelu, x);  z = linear(y)

    x ── GELU ──▶ y ── Linear ──▶ z          x ── GELU ──▶ y ── Linear ──▶ z
      │             │                          │             │
    kept x        kept y                     kept x        kept (recipe, shape, strides, offset)
                                               ▲                 │
                                               └─── "gelu(x)" ───┘

In the forward pass ``remade`` attaches the recipe, "gelu(x)", to the *storage* of y. When an operation saves y, or any view of y, for
its backward pass, ``_pack`` finds the recipe there and keeps it in place of the numbers, with the shape of the view.

In the backward pass ``_unpack`` follows the recipe, and cuts the view out of its result. If n operations saved y, the first of them
computes it, the others get the same tensor, and it is freed after the n-th.
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
    """How a tensor is computed again, under the autocast that was on when the recipe was made.

    uses: how many operations have saved the tensor. taken: how many of them have asked for it in this backward pass.
    """

    def __init__(self, make: Make, kind: str) -> None:
        self.make, self.kind = make, kind
        self.dtype, self.enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self.uses, self.taken = 0, 0
        self.made: Tensor | None = None

    def take(self) -> Tensor:
        """The tensor: computed at the first of ``uses`` calls, then kept up to the last, so that it is computed once."""
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
    """What autograd keeps in the place of a saved tensor: the tensor, or the recipe of its storage and which view of it it was."""
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
"""Whether the code runs inside ``remaking``."""
_kept: ContextVar[bool] = ContextVar("kept", default=False)
"""Whether the code runs inside ``all_kept``."""
_note: ContextVar[Callable[[Tensor], object] | None] = ContextVar("note", default=None)
"""What ``noting`` was given, inside it."""


@contextmanager
def noting(note: Callable[[Tensor], object]) -> Iterator[None]:
    """Call ``note`` with every tensor that operations inside keep for their backward pass, also with those inside ``remaking``."""

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
    """Operations inside keep the recipe of a tensor that ``remade`` returned, instead of the tensor.

    Inside another ``remaking`` this does nothing. Hooks on saved tensors that are set inside go first, so that layers inside torch's
    activation checkpointing are recomputed by it alone.
    """
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
    """Switch ``remaking`` off inside: for layers that are recomputed as a whole, of which nothing but the input is to be kept."""
    kept, active = _kept.set(True), _active.set(False)
    try:
        yield
    finally:
        _kept.reset(kept)
        _active.reset(active)


def remade(make: Callable[..., Tensor], *sources: Tensor, again: Callable[..., Tensor] | None = None) -> Tensor:
    """``make(*sources)``, which operations inside ``remaking`` do not keep: their backward pass computes it again from the sources, by
    ``again`` if given, else by ``make``. A view of a source is not computed again.

    Both must give the same values in the same memory layout each time. The sources should be tensors that the graph keeps for other
    reasons, and not parameters: sharded ones are freed before the backward pass.
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
    """torch's GELU, with an output that is computed again instead of kept."""

    def forward(self, x: Tensor) -> Tensor:
        return remade(partial(F.gelu, approximate=self.approximate), x)


class _QuickGELU(torch.autograd.Function):
    """x · σ(1.702 x), of which plain autograd would also keep the sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(1.702 * x)
        return gradient * share + 1.702 * torch.ops.aten.sigmoid_backward(gradient * x, share)


class QuickGELU(nn.Module):
    """The GELU of OpenAI's CLIP, with an output that is computed again instead of kept."""

    def __init__(self, inplace: bool = False) -> None:
        """``inplace`` is what timm gives to activations; it is not followed."""
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return remade(_QuickGELU.apply, x)


def keeping_less(module: _Module, norms: bool = False) -> _Module:
    """The same module, with every torch GELU in it, and with ``norms`` every torch LayerNorm, replaced by one whose output is not kept.
    Nothing may write into the output of such a LayerNorm."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.GELU:
                setattr(parent, name, GELU(child.approximate))
            elif norms and type(child) is nn.LayerNorm:
                own = LayerNorm(list(child.normalized_shape), child.eps, device="meta")
                own.weight, own.bias = child.weight, child.bias
                setattr(parent, name, own)
    return module


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, with an output that is computed again, from the input that its backward pass keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return remade(super().forward, x, again=self._copied())

    def _copied(self) -> Callable[[Tensor], Tensor] | None:
        """The same function with copies of weight and bias, which sharding frees before the backward pass; None where not needed."""
        if torch.compiler.is_compiling() or not _active.get():
            return None
        weight, bias = (p if p is None else p.detach().clone() for p in (self.weight, self.bias))
        return partial(F.layer_norm, normalized_shape=self.normalized_shape, weight=weight, bias=bias, eps=self.eps)
