"""SIGKILL at random moments of ``omnivast build``, all stages, by two "machines" on one folder: is the corpus that of an unbroken run?

    python benchmarks/kills_corpus.py --videos FOLDER [--kills 100] [--seed 0] [--json out.json] [settings of omnivast build]

Each machine is a process with a name of its own and one or two workers, so that one to four work at a time (a machine whose turn it is to
stay away leaves the other alone). After a time drawn evenly from 0 to an unbroken run's, one of all these processes is killed: a machine,
whose workers then end by themselves within a second, or a worker. A machine that was killed is started again. When none is left because the
corpus is finished, it is compared with the unbroken one, to the byte of every result, and the next one begins; leases and what was being
written by the dead, whose names begin with a dot, are no results. ``STALE`` is lowered to two seconds, less than it takes to give a sign of
life, so that workers which live are often taken for dead, too. Exit status 1 where any corpus differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.corpus import cli  # noqa: E402
from omnivast.corpus.engine import leases, workers  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["omnivast.corpus.cli"])
LIMIT = 900.0
"""Seconds after which a corpus that is not finished never will be."""
LOOK = 0.05
log = logging.getLogger("omnivast")


def content(folder: Path) -> dict[str, bytes]:
    """All results."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and not {"leases", "parts", "crashes"} & {*path.relative_to(folder).parts}}


def machine(name: str, arguments: Sequence[str]) -> None:
    """The verb, as a process whose workers are forked from it."""
    os.setpgid(0, 0)
    os.environ[leases.HOST] = name
    leases.STALE, workers._context = 2.0, lambda module: multiprocessing.get_context("fork")  # type: ignore[assignment]
    os._exit(cli.build_corpus(arguments))


def below(process: int) -> list[int]:
    """Its workers."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


class Corpus:
    """A corpus that is being built by machines which are killed."""

    def __init__(self, folder: Path, given: Sequence[str], draws: random.Random) -> None:
        self.folder, self._given, self._draws = folder, given, draws
        self._machines: dict[str, BaseProcess] = {}
        self._began = time.monotonic()
        for name in ("one", "two")[: draws.randint(1, 2)]:
            self._start(name)

    def _start(self, name: str) -> None:
        arguments = [*self._given, "--output", str(self.folder), "--workers", str(self._draws.randint(1, 2))]
        self._machines[name] = WARM.Process(target=machine, args=(name, arguments))
        self._machines[name].start()

    def wait(self, seconds: float) -> bool:
        """Whether it is finished within that time. Raises RuntimeError where a machine could not go on, or none comes to an end."""
        end = time.monotonic() + seconds
        while True:
            for name, process in list(self._machines.items()):
                if process.exitcode is not None and process.exitcode >= 0:
                    if process.exitcode > 1:
                        raise RuntimeError(f"omnivast build ended with {process.exitcode}")
                    del self._machines[name]
                elif process.exitcode is not None:
                    self._start(name)
            if not self._machines:
                return True
            if time.monotonic() > self._began + LIMIT:
                raise RuntimeError(f"the corpus was not finished within {LIMIT:g} s")
            if time.monotonic() > end:
                return False
            time.sleep(LOOK)

    def kill_one(self) -> str:
        """Kill a process; what it was."""
        mains = [process.pid for process in self._machines.values() if process.pid is not None and process.exitcode is None]
        processes = [(main, "machine") for main in mains] + [(worker, "worker") for main in mains for worker in below(main)]
        if not processes:
            return "none"
        process, what = self._draws.choice(processes)
        with suppress(ProcessLookupError):
            os.kill(process, 9)
        return what


def kill(given: Sequence[str], place: Path, whole: Path, kills: int, seconds: float, seed: int = 0) -> dict[str, int]:
    """Kill so many processes, and compare each corpus that is finished with ``whole``."""
    draws, wanted = random.Random(seed), content(whole)
    done = {"machines_killed": 0, "workers_killed": 0, "finished": 0, "different": 0}
    while done["machines_killed"] + done["workers_killed"] < kills:
        corpus = Corpus(place / "broken", given, draws)
        while not corpus.wait(draws.uniform(0, seconds)):
            what = corpus.kill_one() if done["machines_killed"] + done["workers_killed"] < kills else "none"
            if what != "none":
                done[f"{what}s_killed"] += 1
        done["finished"] += 1
        found = content(corpus.folder)
        if found != wanted:
            done["different"] += 1
            log.error("differing: %s", sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)))
        log.info("%s", done)
        shutil.rmtree(corpus.folder)
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, compare, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options, others = parser.parse_known_args(arguments)
    setup_logging(None)
    given = [options.videos, *others]
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        for name in ("first", "whole"):  # the first starts the process from which the others are forked
            began = time.perf_counter()
            process = WARM.Process(target=machine, args=(name, [*given, "--output", str(Path(place, name)), "--workers", "1"]))
            process.start()
            process.join(LIMIT)
            seconds = time.perf_counter() - began
        whole = Path(place, "whole")
        found = kill(given, Path(place), whole, options.kills, seconds, options.seed)
        files = len(content(whole))
    result = {"machine": hardware(), "settings": others, "files": files, "unbroken_s": round(seconds, 1), **found}
    log.info("%s", json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(found["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
