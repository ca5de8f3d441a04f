"""Runs a stage over shards of items, by processes of this machine and of others that run the same command on the same folder."""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.leases import Lease, Leases
from omnivast.corpus.engine.results import Row, ShardResults, lines_of_unfinished, whole_lines
from omnivast.corpus.engine.view import View
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, setup_logging

log = logging.getLogger("omnivast")
Function = Callable[[Any, dict[str, Any]], Any]
"""(item, settings) → what is known of it afterwards; with ``Stage.at_once`` of a list of items, a list. The same for the same arguments,
whoever calls it and whenever. A StageError from it ends the run."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
KILLS = 5
"""Times that a worker may be killed from outside while it works on one item, before the run stops: as a rule memory does not suffice."""
TRIES = 2
"""Crashes of the process itself, within a decoder for instance, after which an item is given up."""
POLL = 0.2
"""Seconds between two looks at who works."""
COUNTED = 2.0
"""Seconds between two looks at how much is done, for which results are read."""


class StageError(RuntimeError):
    """A stage that cannot go on; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A function over items, in shards."""

    name: str
    function: Function
    settings: dict[str, Any]
    folder: Path
    """Where its results and leases are."""
    items: Callable[[str], Sequence[Row]]
    """The items of a shard, in order."""
    sizes: Mapping[str, int]
    """Shard → how many items it has."""
    unit: str = "source"
    at_once: int = 0
    """Items that the function takes together, always the same ones; 0: it takes one, and no list."""
    view: View = field(default_factory=View)
    """Where it is shown."""

    @property
    def leases(self) -> Leases:
        return Leases(self.folder / "leases")


def work(stage: Stage) -> None:
    """What a worker does: shard after shard, until there is none left that nobody works on."""
    while (lease := stage.leases.claim()) is not None:
        work_on(stage, lease)


def work_on(stage: Stage, lease: Lease) -> None:
    """One shard, to its end; it is free again where that fails."""
    with lease:
        try:
            _finish(stage, lease)
        except BaseException:
            lease.give_back()
            raise


def _finish(stage: Stage, lease: Lease) -> None:
    results = ShardResults(stage.folder, lease.shard, lease.owner)
    there = results.open()
    if there >= 0:
        items, step = stage.items(lease.shard), max(1, stage.at_once)
        for first in range(there - there % step, len(items), step):
            if lease.lost:
                results.close()
                return
            crashes = stage.folder / "crashes" / f"{lease.shard}.{max(first, there)}"
            for row in _results(stage, items[first : first + step], crashes)[max(0, there - first) :]:
                results.append(row)
        results.finish()
    lease.finish()


def _results(stage: Stage, items: Sequence[Row], crashes: Path) -> list[Row]:
    if crashes.exists() and crashes.stat().st_size >= TRIES:
        return [{"id": item["id"], "failed": "the process crashed on it"} for item in items]
    return stage.function(items, stage.settings) if stage.at_once else [stage.function(items[0], stage.settings)]


def _worker(stage: Stage) -> None:
    """A process of its own. It ends with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    setup_logging(None)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        work(stage)
    except (OSError, StageError) as error:
        log.error("%s: %s", stage.name, error)
        os._exit(1)
    except Exception:
        log.exception("%s: a fault of the program", stage.name)
        os._exit(1)


def finished(stage: Stage) -> int:
    """Items that have a result: a moment's view."""
    return sum(stage.sizes.get(shard, 0) for shard in os.listdir(stage.leases.done)) + lines_of_unfinished(stage.folder)


def run(stage: Stage, workers: int) -> None:
    """Until every shard is done, by whomever. Raises StageError."""
    leases = stage.leases
    leases.open(list(stage.sizes))
    bar = stage.view.bar(stage.name, sum(stage.sizes.values()), stage.unit, finished(stage))
    with bar:
        processes: list[BaseProcess] = []
        killed: Counter[str] = Counter()
        looked = time.monotonic()
        try:
            while leases.counts()[2] < len(stage.sizes):
                leases.put_back_the_dead()
                processes = _kept(stage, processes, workers, killed)
                time.sleep(POLL)
                if time.monotonic() > looked + COUNTED:
                    looked = shown(bar, finished(stage))
            shown(bar, finished(stage))
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()


def shown(bar: Progress[Row], count: int) -> float:
    """Bring the bar up to date; the time."""
    if count > bar.count:
        bar.update(count - bar.count)
    return time.monotonic()


def forget_failures(stage: Stage) -> int:
    """Shards of which something failed are done again, from the first item that did; how many there are."""
    count = 0
    for shard in stage.sizes:
        lines = whole_lines(stage.folder / f"{shard}.jsonl")
        good = next((number for number, line in enumerate(lines) if "failed" in json.loads(line)), None)
        if good is not None:
            count += 1
            shutil.rmtree(stage.folder / "crashes", ignore_errors=True)
            redo_from(stage, shard, good)
    return count


def redo_from(stage: Stage, shard: str, number: int) -> None:
    """The items of a shard that nobody works on are done again, from ``number`` on."""
    final, again = stage.folder / f"{shard}.jsonl", stage.folder / "parts" / f"{shard}@again@0.jsonl"
    parts = list(again.parent.glob(f"{shard}@*.jsonl"))
    lines = max((whole_lines(path) for path in (final, *parts)), key=len)
    write_atomically(again, b"".join(lines[:number]))
    for path in {final, *parts} - {again}:
        path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.rename(stage.leases.done / shard, stage.leases.todo / shard)


def _kept(stage: Stage, processes: list[BaseProcess], workers: int, killed: Counter[str]) -> list[BaseProcess]:
    """As many processes as there is work for; those that ended are looked at. ``killed``: how often workers were, by item. Raises
    StageError where one could not go on."""
    living = []
    for process in processes:
        if process.is_alive():
            living.append(process)
        elif process.exitcode and process.exitcode > 0:
            raise StageError(f"{stage.name}: a worker could not go on (the line above says why); the same command continues")
        elif process.exitcode:
            _note_death(stage, process, killed)
    waiting = stage.leases.counts()[0]
    while waiting > 0 and len(living) < workers:
        process = _context(stage.function.__module__).Process(target=_worker, args=(stage,), daemon=True)
        process.start()
        living.append(process)
        waiting -= 1
    return living


@functools.cache
def _context(module: str) -> Any:
    """Processes are forked from one that has imported what they need, since importing it takes longer than many a shard."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, module])
    return context


def _note_death(stage: Stage, process: BaseProcess, killed: Counter[str]) -> None:
    """Of a process that ended by a signal. Its decoder's crash is counted on the item, so that the shard does not die of it for ever; that
    it was killed from outside is no result of the item's, but there is an end to it. Raises StageError."""
    log.warning("%s: a worker ended by signal %d", stage.name, -(process.exitcode or 0))
    for path in (stage.folder / "parts").glob(f"*@{stage.leases.host}@{process.pid}.jsonl"):
        shard, number = path.stem.split("@")[0], path.read_bytes().count(b"\n")
        if -(process.exitcode or 0) in CRASHES:
            note = stage.folder / "crashes" / f"{shard}.{number}"
            note.parent.mkdir(exist_ok=True)
            with open(note, "ab") as file:
                file.write(b"x")
        elif number < stage.sizes.get(shard, 0):
            item = stage.items(shard)[number]["id"]
            killed[item] += 1
            if killed[item] >= KILLS:
                raise StageError(f"{stage.name}: workers were killed {KILLS} times while they worked on {item}; where memory does not "
                                 "suffice, fewer --workers need less. The same command continues")
