"""Ends a group of processes when one of them hangs, which would hold up all others without a word.

The processes of a group tell each other how far they are. When nothing moves any more, all of them log who is behind and exit, so that
the launcher can start the group again.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType

import torch.distributed as dist

from omnivast.utils import distributed

logger = logging.getLogger("omnivast")
EXIT_STATUS = 75
"""Exit status of every process of a group that hangs: EX_TEMPFAIL, "try again"."""
LONGEST_INTERVAL = 10.0
"""Seconds between two looks."""
PATIENCE = 3
"""In an uneven phase, the group may be silent for this many times as long."""
GRACE = 5.0
"""Seconds in which processes that have reported wait for the others to do so: the first to go takes the others' connections along."""


@dataclass
class Place:
    """How far a process is. ``count`` numbers what it has begun: all processes begin the same things in the same order."""

    count: int = 0
    step: int = 0
    phase: str = "starting"
    beat: int = 0
    """Counts up as long as the process lives, whatever its main thread does."""
    host: str = ""
    pid: int = 0


_running: Watchdog | None = None


class Watchdog:
    """Within ``with``, a thread watches over the calls of :meth:`at`, on every process of the group; ``minutes`` 0 watches nothing, and
    a process alone is not watched.

    When a process has not called ``at`` for ``minutes``, or, in an uneven phase, no process has called ``at`` or ``going_on`` for
    ``PATIENCE`` times as long, every process that still lives logs which are behind, at which step and in which phase, and exits with
    ``EXIT_STATUS``; those behind also write where they hang to stderr. A process that is stopped or whose interpreter is blocked cannot
    exit itself; the others name it.
    """

    _number = 0

    def __init__(self, minutes: float) -> None:
        self.limit = 60.0 * minutes
        self.place = Place(host=socket.gethostname(), pid=os.getpid())
        self.since = time.monotonic()
        self.watched = self.uneven = False
        self.moves = 0
        """Calls of ``at`` and ``going_on``."""
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def at(self, step: int, phase: str, *, uneven: bool = False) -> None:
        """This process begins ``phase`` of ``step``. All processes call this in the same order. ``uneven``: some have more to do in it than
        others, and say that they are ``going_on``."""
        self.place = Place(self.place.count + 1, step, phase, self.place.beat, self.place.host, self.place.pid)
        self.since, self.watched, self.uneven = time.monotonic(), True, uneven
        self.moves += 1

    def __enter__(self) -> Watchdog:
        global _running
        _running = self
        if self.limit > 0 and distributed.world_size() > 1:
            Watchdog._number += 1
            # A second connection: the main thread may hang while it holds the group's.
            store = dist.distributed_c10d._get_default_store().clone()
            self.store = dist.PrefixStore(f"watchdog{Watchdog._number}", store)
            self.interval = min(self.limit / 5, LONGEST_INTERVAL)
            self._publish()
            self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        global _running
        _running = None
        self.over.set()
        if self.thread is not None:
            self.thread.join(timeout=LONGEST_INTERVAL)

    def _watch(self) -> None:
        told, counted, total = True, 0, 0
        while not self.over.wait(self.interval):
            hangs = self.watched and time.monotonic() - self.since > self.limit * (PATIENCE if self.uneven else 1)
            try:
                self._publish()
                moves, before = self.moves, total
                total, counted = self.store.add("moves", moves - counted), moves
                if self.uneven and total != before:
                    self.since, hangs = time.monotonic(), False
                hangs = hangs or self.store.check(["hang"])
            except RuntimeError as error:
                # The process that holds the store is gone; the connections of the group will say so too.
                if told:
                    logger.info("the watchdog cannot reach the other processes: %s", error)
                told = False
            if hangs and not self.over.is_set():
                self._report()
                # Not sys.exit: that ends this thread alone, and the main one hangs.
                os._exit(EXIT_STATUS)

    def _publish(self) -> None:
        self.place.beat += 1
        self.store.set(str(distributed.rank()), json.dumps(asdict(self.place)))

    def _report(self) -> None:
        """Log who is behind, and wait until every process that lives has done the same."""
        waited = time.monotonic() - self.since
        try:
            self.store.set("hang", "1")
            first = self._places()
            self.over.wait(2 * self.interval)
            self._publish()
            self.over.wait(self.interval)
            places = self._places()
        except RuntimeError as error:
            logger.error("no progress for %s in step %d (%s), and the other processes cannot be asked: %s. Exiting with status %d",
                         _words(waited), self.place.step, self.place.phase, error, EXIT_STATUS)
            return
        silent = {rank for rank, place in places.items() if rank in first and place.beat == first[rank].beat}
        logger.error("no progress for %s: %s. Exiting with status %d, so that the launcher can start again from the last checkpoint",
                     _words(waited), described(places, silent, distributed.world_size()), EXIT_STATUS)
        if self.place.count == min(place.count for place in places.values()):
            faulthandler.dump_traceback(file=sys.__stderr__ or 2)
        self._part(silent)

    def _part(self, silent: set[int]) -> None:
        """Wait for the reports of the others; rank 0, which may hold the store, leaves last."""
        rank, world = distributed.rank(), distributed.world_size()
        try:
            self.store.set(f"reported{rank}", "1")
            deadline = time.monotonic() + GRACE + self.interval
            expected = [f"reported{other}" for other in range(world) if other not in silent]
            while time.monotonic() < deadline and not self.store.check(expected):
                time.sleep(0.05)
        except RuntimeError:
            return
        if rank == 0:
            time.sleep(0.5)

    def _places(self) -> dict[int, Place]:
        """The last known Place of every process that has written one."""
        places = {}
        for rank in range(distributed.world_size()):
            if self.store.check([str(rank)]):
                places[rank] = Place(**json.loads(self.store.get(str(rank))))
        return places


def going_on() -> None:
    """Tell the others that the work of this process goes on, within its phase."""
    if _running is not None:
        _running.moves += 1


def described(places: dict[int, Place], silent: set[int], world: int) -> str:
    """In words: which ranks are behind and where they are, which do not answer, and where all others wait."""
    fewest = min(place.count for place in places.values())
    most = max(place.count for place in places.values())
    lines = []
    for rank in range(world):
        place = places.get(rank)
        if place is None:
            lines.append(f"rank {rank} has never been heard of")
        elif place.count == fewest < most or rank in silent:
            state = "does not answer and was last" if rank in silent else "is behind,"
            lines.append(f"rank {rank} (process {place.pid} on {place.host}) {state} at step {place.step}, {place.phase}")
    others = {(place.step, place.phase) for rank, place in places.items() if rank not in silent and not place.count == fewest < most}
    where = " or ".join(f"step {step}, {phase}" for step, phase in sorted(others))
    if where:
        lines.append(f"{'the others wait' if lines else 'all ranks are'} at {where}")
    return "; ".join(lines)


def _words(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
