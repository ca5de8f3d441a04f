"""The kind of device that a computation is for. Some code paths are for CPUs alone; inside ``pretending`` a CPU takes those of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_pretended: ContextVar[str | None] = ContextVar("pretended", default=None)


def device_kind(tensor: Tensor) -> str:
    """The kind of device that code is to assume for a tensor: that of its device or, within :func:`pretending`, the pretended one."""
    return kind_of(tensor.device)


def kind_of(device: torch.device) -> str:
    """The same for a device."""
    return _pretended.get() or device.type


@contextmanager
def pretending(kind: str) -> Iterator[None]:
    """Inside, everything is computed as on a device of this kind, wherever it lies."""
    token = _pretended.set(kind)
    try:
        yield
    finally:
        _pretended.reset(token)
