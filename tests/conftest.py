"""The order of the test files, and what every test leaves as it found it."""

from __future__ import annotations

import ctypes
import logging
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
LONGEST = ("e2e/test_scripts.py", "training/engines/test_parallel.py", "e2e/test_elastic.py", "e2e/test_recipes.py", "e2e/test_killed.py",
           "e2e/test_valor_recipes.py",
           "training/test_process_equality.py", "e2e/test_bad_input.py", "e2e/test_debug_run.py", "e2e/test_recipe_scripts.py",
           "evaluation/test_process_equality.py", "docs/test_runs.py", "utils/test_watchdog.py")
"""Half a minute to a minute and a half each."""


PR_CAPBSET_DROP, CAP_SYS_NICE = 24, 23
"""Linux: prctl(2), capabilities(7)."""

if sys.platform == "linux":
    # Run as root, a browser gives its audio threads real-time priority; on a machine of two cores that has starved all other processes,
    # time limits included. What tests start may no longer ask for it. Without root this fails, and nobody could ask.
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Fast files first, to fail early; of the others the longest: begun last, they would keep one process busy when the other has nothing
    left (--no-loadscope-reorder)."""
    longest = {path: number for number, path in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("e2e")}

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(HERE).as_posix()
        return longest.get(name, len(longest) if item.path in slow else -1)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _put_back():
    """What run.py sets for its process: threads, and the logger's level and handlers, which would write into an earlier test's folder."""
    threads = torch.get_num_threads()
    _still()
    yield
    torch.set_num_threads(threads)
    _still()


def _still() -> None:
    logger = logging.getLogger("omnivast")
    logger.setLevel(logging.NOTSET)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
