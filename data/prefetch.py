"""Batches on their way to the GPU: the next one is copied while the current one is computed with. On the CPU nothing is to be done."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from omnivast.data.batch import Batch

AHEAD = 1
"""Batches that wait on the GPU, beside the one that is computed with and the one being copied."""
_CHECK = 0.2
"""Seconds after which a thread that cannot go on looks whether it is still wanted."""

Ready = Callable[[], Batch]
"""Called by the thread that computes: the batch, once it may be used there."""


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches in their order, each with its tensors on ``device``."""
    return Prefetched(_read_on(device, batches), _Copier(device)) if device.type == "cuda" else batches


def _read_on(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
    """``batches``, taken by a thread whose device is ``device``. A thread begins with the machine's first one: page-locked memory of all
    processes would be had through it, and each would take memory there."""
    torch.cuda.set_device(device)
    yield from batches


class Prefetched(Iterator[Batch]):
    """Takes batches in a background thread, so that neither waiting for them nor copying them holds up the computation."""

    def __init__(self, batches: Iterator[Batch], start: Callable[[Batch], Ready]) -> None:
        """``start`` is called in the thread, and begins to bring a batch to where it is needed."""
        self._queue: queue.Queue[Ready | BaseException] = queue.Queue(AHEAD)
        stop = threading.Event()
        self.close = weakref.finalize(self, stop.set)
        """Ends the thread; also happens when this iterator is dropped, and when the program ends."""
        self._ended = False
        threading.Thread(target=_fill, args=(self._queue, stop, batches, start), name="prefetch", daemon=True).start()

    def __next__(self) -> Batch:
        if self._ended:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._ended = True
            raise item
        return item()


def _fill(out: queue.Queue[Ready | BaseException], stop: threading.Event, batches: Iterator[Batch], start: Callable[[Batch], Ready]
          ) -> None:
    """Holds no reference to the iterator that it fills, so that this one can be dropped."""
    item: Ready | BaseException | None = None
    while not stop.is_set() and not isinstance(item, BaseException):
        try:
            item = start(next(batches))
        except BaseException as error:  # StopIteration too: what ends the batches ends them for the other thread
            item = error
        while not stop.is_set():
            try:
                out.put(item, timeout=_CHECK)
                break
            except queue.Full:
                continue


class _Copier:
    """Copies batches to the GPU on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Ready:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            copied = batch.to(self._device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)

        def ready() -> Batch:
            current: Any = torch.cuda.current_stream(self._device)
            current.wait_event(done)

            def used(tensor: Tensor) -> Tensor:
                tensor.record_stream(current)  # its memory is not given away while the computation may read it
                return tensor

            return copied.map_media(used)

        return ready
