"""Between host and device.

What is planned stands in numpy arrays on the host; all of it goes to the device in one copy that nobody waits for. The other way costs a
synchronisation, in which the device runs dry: it goes through ``to_host`` alone, so that it can be counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

Index: TypeAlias = Any
"""Integers: a numpy array while they are planned on the host, an int64 tensor once they are sent."""
_T = TypeVar("_T")


@overload
def send(plan: np.ndarray, device: torch.device | str) -> Tensor: ...
@overload
def send(plan: list | tuple | dict, device: torch.device | str) -> Any: ...
@overload
def send(plan: _T, device: torch.device | str) -> _T: ...
def send(plan: Any, device: torch.device | str) -> Any:
    """``plan`` with an int64 tensor on ``device`` in the place of every numpy array of integers or booleans.

    Looks into dataclasses, lists, tuples and dicts, and leaves all other objects as they are. One buffer, one copy; the host goes on.
    """
    arrays = list(_arrays(plan))
    if not arrays:
        return plan
    buffer = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64, copy=False))
    parts = to_device(buffer, device).split([array.size for array in arrays])
    sent = iter([part.view(array.shape) for part, array in zip(parts, arrays)])
    return _replaced(plan, sent)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The host's ``tensor`` on ``device``; the host goes on."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()  # the copy from other memory waits for the device
    return tensor.to(device, non_blocking=True)


def on_host(tensor: Tensor | np.ndarray) -> np.ndarray:
    """The numbers of a tensor that lies on the host already."""
    with planning():
        return np.asarray(tensor)


@contextmanager
def planning() -> Iterator[None]:
    """The host's tensors have numbers inside, also within a FakeTensorMode, which is for those of the device."""
    with unset_fake_temporarily():
        yield


def to_host(tensor: Tensor) -> np.ndarray:
    """The numbers of ``tensor``, for which the host waits until the device has computed them; zeros of a fake one, which has none."""
    if isinstance(tensor, FakeTensor):
        return np.zeros(tensor.shape, np.dtype(str(tensor.dtype).removeprefix("torch.")))
    return tensor.cpu().numpy()


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    for part in _parts(value).values():
        yield from _arrays(part)


def _replaced(value: Any, sent: Iterator[Tensor]) -> Any:
    if isinstance(value, np.ndarray):
        return next(sent)
    before = _parts(value)
    parts = {key: _replaced(part, sent) for key, part in before.items()}
    if all(parts[key] is before[key] for key in parts):
        return value
    if isinstance(value, dict):
        return parts
    return type(value)(parts.values()) if isinstance(value, list | tuple) else dataclasses.replace(value, **parts)


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}
