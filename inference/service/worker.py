"""A thread that works with the model, and the bounded queue before it.

Requests that arrive while it is busy wait together: the texts of all that wait are embedded in one forward pass. What finds the queue full
is refused at once, so that a service under too much load stays as fast as it is for those whom it serves.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")

logger = logging.getLogger("omnivast")


class BusyError(Exception):
    """The queue is full; come back later."""


@dataclass(frozen=True)
class _Job:
    use: Callable[..., Any]
    texts: Sequence[str] | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def told(self, result: Any, error: BaseException | None = None) -> None:
        """Hand the result to whoever waits for it; nobody may."""
        def tell() -> None:
            if not self.future.done():
                self.future.set_result(result) if error is None else self.future.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            logger.debug("%s: nobody waits for a result any more", threading.current_thread().name)


class Worker:
    """``room``: jobs that may wait. ``embed``: texts → what they are compared by, a list as long as the texts. ``gather``: seconds for
    which a job with texts waits for others. ``batch``: texts after which it waits for no more."""

    def __init__(self, name: str, *, room: int, embed: Callable[[Sequence[str]], Sequence[Any]] | None = None, gather: float = 0.002,
                 batch: int = 32) -> None:
        self._embed, self._gather, self._batch = embed, gather, batch
        self._queue: queue.Queue[_Job | None] = queue.Queue(room)
        self.batches = self.texts = 0
        """Forward passes of texts so far, and the texts in them."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._queue.qsize()

    async def run(self, use: Callable[[], Result]) -> Result:
        """``use()``, in the thread. Raises BusyError."""
        return await self._put(use, None)

    async def with_texts(self, texts: Sequence[str], use: Callable[[Sequence[Any]], Result]) -> Result:
        """``use(what the texts are compared by)``, in the thread. Raises BusyError."""
        return await self._put(use, texts)

    async def _put(self, use: Callable[..., Result], texts: Sequence[str] | None) -> Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        try:
            self._queue.put_nowait(_Job(use, texts, loop, future))
        except queue.Full:
            raise BusyError from None
        return await future

    def stop(self, seconds: float = 1.0) -> None:
        """Take no more jobs, and wait that long for the one that runs."""
        self._ended.set()
        try:
            self._queue.put_nowait(None)  # it may be waiting for a job
        except queue.Full:
            logger.debug("%s: ends after the job that runs", self._thread.name)
        self._thread.join(seconds)

    # ---------------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        while not self._ended.is_set():
            job = self._queue.get()
            if job is None:
                continue
            for one, rows in self._embedded(self._gathered(job)):
                if one.future.cancelled():
                    continue
                try:
                    result = one.use() if one.texts is None else one.use(rows)
                except BaseException as error:  # whatever it is: whoever waits is told, and the thread goes on
                    one.told(None, error)
                else:
                    one.told(result)

    def _gathered(self, job: _Job) -> list[_Job]:
        jobs, until = [job], time.monotonic() + self._gather
        while self._embed is not None and sum(len(one.texts or ()) for one in jobs) < self._batch and len(jobs) < self._batch:
            try:
                other = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if other is not None:
                jobs.append(other)
        return jobs

    def _embedded(self, jobs: Sequence[_Job]) -> list[tuple[_Job, Sequence[Any]]]:
        """The jobs with the rows of their texts."""
        texts = [text for job in jobs for text in job.texts or ()]
        if not texts or self._embed is None:
            return [(job, ()) for job in jobs]
        try:
            rows = iter(self._embed(texts))
        except BaseException as error:
            for job in jobs:
                job.told(None, error)
            return []
        self.batches += 1
        self.texts += len(texts)
        return [(job, [next(rows) for _ in job.texts or ()]) for job in jobs]
