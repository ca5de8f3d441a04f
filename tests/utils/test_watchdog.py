"""Processes that hang are named by the others, and all exit; those that only take their time are left alone."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import torch.distributed as dist

from tests.processes import exit_codes
from utils.log import setup_logging
from utils.watchdog import EXIT_STATUS, Place, Watchdog, described

SECONDS = 1.5
"""After which a process hangs."""
FOREVER = 60.0


def work(rank: int, folder: Path, what: str) -> None:
    os.dup2(os.open(folder / f"stderr{rank}", os.O_CREAT | os.O_WRONLY), 2)
    setup_logging(folder, rank)
    with Watchdog(SECONDS / 60) as watchdog:
        for step in (1, 2, 3):
            watchdog.at(step, "reading data")
            if (what, rank, step) == ("sleeps", 1, 2):
                time.sleep(FOREVER)
            if (what, rank, step) == ("stopped", 0, 2):
                while b'"step": 2' not in watchdog.store.get(str(rank)):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGSTOP)
            watchdog.at(step, "forward", watched=what != "slow")
            if what == "slow" and rank == 1:
                time.sleep(2 * SECONDS)
            dist.barrier()
            if what == "all":
                time.sleep(FOREVER)
    logging.getLogger("omnivast").error("done")


def run(folder: Path, what: str, processes: int = 3, enough: int | None = None) -> tuple[list[int | None], list[str]]:
    """Exit codes, None for a process that never ends, and what each process told."""
    codes = exit_codes(work, processes, folder, what, seconds=FOREVER - 5, enough=enough)
    return codes, [(folder / f"stderr{rank}").read_text() for rank in range(processes)]


def test_the_one_that_sleeps_is_named_by_all(tmp_path):
    codes, told = run(tmp_path, "sleeps")
    assert codes == [EXIT_STATUS] * 3
    for text in told:
        assert "rank 1 (process" in text and "is behind, at step 2, reading data; the others wait at step 2, forward" in text
        assert "Exiting with status 75" in text and "done" not in text
    # Where it hangs, of the one that does.
    assert "in work" in told[1] and "in work" not in told[0] + told[2]
    assert "is behind" in (tmp_path / "log" / "log.txt").read_text()


def test_one_that_cannot_answer_is_named_by_the_others(tmp_path):
    codes, told = run(tmp_path, "stopped", enough=2)
    assert codes == [None, EXIT_STATUS, EXIT_STATUS]
    for text in told[1:]:
        assert "rank 0 (process" in text and "does not answer and was last at step 2, reading data" in text


def test_where_all_wait_it_is_said(tmp_path):
    codes, told = run(tmp_path, "all", 2)
    assert codes == [EXIT_STATUS] * 2 and all("all ranks are at step 1, forward" in text for text in told)


def test_what_is_not_watched_may_take_its_time(tmp_path):
    codes, told = run(tmp_path, "slow", 2)
    assert codes == [0, 0] and all("done" in text and "no progress" not in text for text in told)


def test_nothing_is_watched_without_need():
    for minutes in (0.0, 20.0):
        with Watchdog(minutes) as watchdog:
            watchdog.at(1, "reading data")
            assert watchdog.thread is None


def test_in_words():
    places = {0: Place(7, 3, "saving", 9, "a", 11), 1: Place(5, 2, "reading data", 9, "b", 22), 2: Place(7, 3, "saving", 4, "b", 33)}
    assert described(places, set(), 4) == ("rank 1 (process 22 on b) is behind, at step 2, reading data; rank 3 has never been heard of; "
                                           "the others wait at step 3, saving")
    assert described(places, {2}, 3).startswith("rank 1 (process 22 on b) is behind, at step 2, reading data; rank 2 (process 33 on b) "
                                                "does not answer and was last at step 3, saving; ")
