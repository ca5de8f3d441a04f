"""How a batch travels from the process that reads it to the one that computes.

Its tensors lie one behind the other in one anonymous file in memory (``memfd``), which is mapped where it arrives: one open file per
batch, no copy, and nothing in /dev/shm, which is small in containers. Where there are no such files, they travel through the pipe.
All that can fail is done by the reading process itself: what a queue's own thread cannot send is lost without a word, and waited for
for ever.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: where a tensor may begin."""


class Parcel:
    """A packed object, which can be sent through a queue, and opened once."""

    def __init__(self, value: Any) -> None:
        """Any object that can be pickled; its tensors are on the CPU."""
        buffer = io.BytesIO()
        packer = _Packer(buffer)
        packer.dump(value)
        self._words, self._size = buffer.getvalue(), packer.size
        self._content = _share(packer.tensors, packer.size) if packer.size else b""

    def open(self) -> Any:
        """The object. Raises ConnectionError and EOFError where the process that packed it is no more, OSError where no file can be
        opened."""
        return _Unpacker(io.BytesIO(self._words), self._map()).load()

    def pin_memory(self) -> Any:
        """The object with its tensors in page-locked memory (called by the DataLoader)."""
        value = self.open()
        return value.pin_memory() if hasattr(value, "pin_memory") else value

    def _map(self) -> bytearray | mmap.mmap:
        if isinstance(self._content, (bytes, bytearray)):
            return bytearray(self._content)
        try:
            descriptor = self._content.detach()
        except FileNotFoundError:
            raise ConnectionError("it has left no address") from None
        try:
            return mmap.mmap(descriptor, self._size)
        finally:
            os.close(descriptor)


class _Packer(pickle.Pickler):
    """Pickles an object without its tensors, for each of which stands its type, shape and first byte."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[int, Tensor]] = []
        self.size = 0
        self._places: dict[int, Any] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._places:
            start = -(-self.size // ALIGNMENT) * ALIGNMENT
            self._places[id(value)] = (value.dtype, tuple(value.shape), start)
            self.tensors.append((start, value))
            self.size = start + value.nbytes
        return self._places[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, content: bytearray | mmap.mmap) -> None:
        super().__init__(file)
        self._content = content
        self._tensors: dict[int, Tensor] = {}

    def persistent_load(self, place: tuple[torch.dtype, Sequence[int], int]) -> Tensor:
        dtype, shape, start = place
        count = int(torch.Size(shape).numel())
        if not count:
            return torch.empty(shape, dtype=dtype)
        if start not in self._tensors:
            self._tensors[start] = torch.frombuffer(self._content, dtype=dtype, count=count, offset=start).view(shape)
        return self._tensors[start]


def _share(tensors: Sequence[tuple[int, Tensor]], size: int) -> Any:
    """The tensors' bytes in a file that another process can get at, or as bytes where none can be made."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError), open(os.memfd_create("batch"), "wb", buffering=0) as file:
            file.truncate(size)
            for start, tensor in tensors:
                file.seek(start)
                _write(file, tensor)
            return reduction.DupFd(file.fileno())
    content = bytearray(size)
    for start, tensor in tensors:
        content[start : start + tensor.nbytes] = _bytes(tensor)
    return content


def _write(file: io.FileIO, tensor: Tensor) -> None:
    left = _bytes(tensor)
    while len(left):
        left = left[file.write(left):]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
