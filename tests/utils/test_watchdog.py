"""Processes that hang are named by the others, and all exit; those that only take their time are left alone."""

from __future__ import annotations

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from omnivast.utils.log import Progress, setup_logging
from omnivast.utils.watchdog import EXIT_STATUS, PATIENCE, Place, Watchdog, described, going_on
from tests.processes import exit_codes

SECONDS = 3.0
"""After which a process hangs: longer than a busy machine lets one wait."""
FOREVER = 900.0
SCENARIOS = {"sleeps": 3, "stopped": 3, "all": 2, "slow": 2, "still": 2}
"""What happens, and to how many processes."""


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
            watchdog.at(step, "evaluating" if what in ("slow", "still") else "forward", uneven=what in ("slow", "still"))
            if what == "slow" and rank == 1 and step == 2:
                for _ in range(20 * PATIENCE):
                    time.sleep(1.5 * SECONDS / 20)
                    going_on()
            if what == "still" and rank == 1:
                time.sleep(FOREVER)
            dist.barrier()
            if what == "all":
                time.sleep(FOREVER)
    logging.getLogger("omnivast").error("done")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of each scenario the exit codes, None for a process that never ends, what each process told, and the log. All wait at the same
    time."""
    def run(what: str) -> tuple[list[int | None], list[str], str]:
        folder, processes = folders[what], SCENARIOS[what]
        codes = exit_codes(work, processes, folder, what, enough=processes - (what == "stopped"))
        return codes, [(folder / f"stderr{rank}").read_text() for rank in range(processes)], (folder / "log" / "log.txt").read_text()

    folders = {what: tmp_path_factory.mktemp(what) for what in SCENARIOS}
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        return dict(zip(SCENARIOS, pool.map(run, SCENARIOS)))


def test_the_one_that_sleeps_is_named_by_all(runs):
    codes, told, log = runs["sleeps"]
    assert codes == [EXIT_STATUS] * 3
    for text in told:
        assert "rank 1 (process" in text and "is behind, at step 2, reading data; the others wait at step 2, forward" in text
        assert "Exiting with status 75" in text and "done" not in text
    # Where it hangs, of the one that does.
    assert "in work" in told[1] and "in work" not in told[0] + told[2]
    assert "is behind" in log


def test_one_that_cannot_answer_is_named_by_the_others(runs):
    codes, told, _ = runs["stopped"]
    assert codes == [None, EXIT_STATUS, EXIT_STATUS]
    for text in told[1:]:
        assert "rank 0 (process" in text and "does not answer and was last at step 2, reading data" in text


def test_where_all_wait_it_is_said(runs):
    codes, told, _ = runs["all"]
    assert codes == [EXIT_STATUS] * 2 and all("all ranks are at step 1, forward" in text for text in told)


def test_an_uneven_phase_lasts_as_long_as_one_process_goes_on(runs):
    codes, told, _ = runs["slow"]
    assert codes == [0, 0] and all("done" in text and "no progress" not in text for text in told)


def test_an_uneven_phase_in_which_nothing_moves_ends(runs):
    codes, told, _ = runs["still"]
    assert codes == [EXIT_STATUS] * 2 and all("all ranks are at step 1, evaluating" in text and "in work" in text for text in told)


def test_progress_is_a_sign_of_life():
    with Watchdog(20.0) as watchdog:
        before = watchdog.moves
        for _ in Progress(range(3), "evaluating", shown=False):
            pass
        assert watchdog.moves == before + 3
    going_on()  # nobody watches any more
    assert watchdog.moves == before + 3


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
