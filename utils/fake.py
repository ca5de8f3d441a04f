"""Tensors that have a shape, a type and a device, but no numbers and no memory (torch's FakeTensorMode): of a GPU that is not there, or of
a size that would not fit."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_Module = TypeVar("_Module", bound=nn.Module)


def without_numbers(module: _Module, device: torch.device | str) -> _Module:
    """A copy of ``module`` whose tensors are fake ones on ``device``: parameters, buffers, and what its parts have as mere attributes;
    called within a FakeTensorMode. It shares all other attributes of ``module`` that are no modules."""
    memo: dict[int, Any] = {id(value): value for key, value in vars(module).items() if not key.startswith("_")}
    for parameter in module.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor):
                memo[id(value)] = torch.empty(value.shape, dtype=value.dtype, device=device)
    return copy.deepcopy(module, memo)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations inside make: ``now`` at the moment, and ``peak``, the most so far. Tensors in
    ``before`` and views of them are not counted. Storages that are emptied and filled again, as FSDP2 does, are followed."""

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known = weakref.WeakSet[Any](tensor.untyped_storage() for tensor in before)
        self._sizes = weakref.WeakKeyDictionary[Any, list[int]]()
        """The bytes of each storage that is counted, in a list that its end finds too."""

    def __enter__(self) -> LiveBytes:
        self._resize = resize = torch.UntypedStorage.resize_

        def followed(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            if (known := self._sizes.get(storage)) is not None:
                self._add(size - known[0])
                known[0] = size
            return result

        torch.UntypedStorage.resize_ = followed  # type: ignore[assignment, method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = self._sizes[storage] = [storage.nbytes()]
        self._add(size[0])
        weakref.finalize(storage, self._gone, size).atexit = False

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, size: list[int]) -> None:
        self.now -= size[0]
